"""Two processes under torchrun compute what one does from the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_support import write_synthetic

WORKER = Path(__file__).with_name("equality_worker.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("equality") / "set")


def start(
    processes: int, data: Path, optimizer: str, steps: int, target: Path, size: int = 7
) -> dict[str, torch.Tensor]:
    """``size`` requests in a global batch: odd, so that shares differ."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        str(WORKER), str(data), optimizer, str(steps), str(size), str(target),
    ]  # fmt: skip
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(target)


def test_after_fifty_steps_two_processes_predict_what_one_does(data: Path, tmp_path: Path) -> None:
    one = start(1, data, "Adam", 50, tmp_path / "one")
    two = start(2, data, "Adam", 50, tmp_path / "two")
    assert one["moved.tokens.items.weight"].abs().max() > 1e-3  # the tables did learn
    assert (one["logits"] - two["logits"]).abs().max() <= 1e-4


def test_with_plain_gradient_descent_the_first_update_has_the_same_size_and_is_not_halved_or_doubled(
    data: Path, tmp_path: Path
) -> None:
    one = start(1, data, "SGD", 1, tmp_path / "one")
    two = start(2, data, "SGD", 1, tmp_path / "two")
    moved = [name for name in one if name.startswith("moved.") and one[name].norm() > 0]
    assert "moved.tokens.items.weight" in moved
    for name in moved:
        ratio = float(two[name].norm() / one[name].norm())
        assert ratio == pytest.approx(1.0, abs=1e-3), name
        assert (one[name] - two[name]).norm() <= 1e-3 * one[name].norm(), name


def test_a_global_batch_of_fewer_requests_than_processes_is_learned_all_the_same(data: Path, tmp_path: Path) -> None:
    one = start(1, data, "Adam", 12, tmp_path / "one", size=1)
    two = start(2, data, "Adam", 12, tmp_path / "two", size=1)
    assert one["moved.tokens.items.weight"].abs().max() > 1e-4
    assert (one["logits"] - two["logits"]).abs().max() <= 1e-4
