"""Several processes under torchrun compute what one does from the same global batches, and go on from its states."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_support import expert_order, order, reference, write_synthetic

from recast_api import names
from recast_api.manifest import Manifest
from recast_api.run import TrainingRun
from recast_model.artifact import load_expert, load_foundation
from recast_trainer.evaluation.report import open_manifest
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup

WORKER = Path(__file__).with_name("equality_worker.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("equality") / "set", in_context=True)


def start(
    processes: int, data: Path, optimizer: str, steps: int, target: Path, size: int = 7, resume_from: Path | None = None
) -> dict[str, torch.Tensor]:
    """``size`` requests in a global batch: odd, so that shares differ. ``resume_from`` is the target of another run."""
    checkpoints = target.with_name(f"{target.name}-checkpoints")
    if resume_from is not None:
        shutil.copytree(resume_from.with_name(f"{resume_from.name}-checkpoints"), checkpoints)
    torchrun(processes, str(WORKER), str(data), optimizer, str(steps), str(size), str(target), str(checkpoints))
    return load_file(target)


def torchrun(processes: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [*command, *arguments], env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def agree(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert (one["logits"] - other["logits"]).abs().max() <= 1e-4
    for name in ("tokens.items.weight", "tokens.request_context.values", "tokens.request_context.numbers"):
        assert (one[f"moved.{name}"] - other[f"moved.{name}"]).abs().max() <= 1e-4, name


@pytest.fixture(scope="module")
def targets(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What one process and two have learned in fifty steps, with checkpoints of the first half, by their number."""
    folder = tmp_path_factory.mktemp("fifty")
    for processes in (1, 2):
        start(processes, data, "Adam", 50, folder / str(processes))
    return {processes: folder / str(processes) for processes in (1, 2)}


def test_after_fifty_steps_two_processes_have_learned_what_one_has(targets: dict[int, Path]) -> None:
    one, two = (load_file(targets[processes]) for processes in (1, 2))
    assert one["moved.tokens.items.weight"].abs().max() > 1e-3  # the tables did learn
    agree(one, two)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (2, 3)])
def test_a_run_is_gone_on_with_by_another_number_of_processes(
    data: Path, targets: dict[int, Path], tmp_path: Path, before: int, after: int
) -> None:
    agree(load_file(targets[1]), start(after, data, "Adam", 50, tmp_path / "rest", resume_from=targets[before]))


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
    agree(one, two)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """What one process lands, and where."""
    root = tmp_path_factory.mktemp("runs")
    write_synthetic(root / "data" / "set", hours=12, requests=60, in_context=True)
    landed = execute(order(root, 1), ProcessGroup(), None)
    assert landed is not None
    return root, landed


def land_with_two(run: TrainingRun, file: Path) -> tuple[Path, Manifest]:
    file.write_text(run.model_dump_json(by_alias=True))
    torchrun(2, "-m", "recast_trainer", "run", "--file", str(file), "--no-publish")
    folder = Path(run.models_root) / names.artifact_path(run.kind, run.model, run.uid, run.number)
    return folder, open_manifest(folder)


def test_two_processes_land_the_foundation_that_one_does(alone: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A whole run, with log, checkpoints, burn-in and measurements."""
    root, ours = alone
    folder, theirs = land_with_two(order(root, 2), tmp_path / "run.json")
    assert theirs.finite
    assert theirs.usable_rows == ours.usable_rows
    for two, one in zip(theirs.measurements, ours.measurements, strict=True):
        assert (two.surface, two.task, two.rows) == (one.surface, one.task, one.rows)
        assert float(two.ne) == pytest.approx(float(one.ne), abs=0.01)
    both = load_foundation(folder, theirs).model.tokens, load_foundation(folder.with_name("v1"), ours).model.tokens
    for name in ("count", "mean", "scale"):
        assert torch.equal(*(getattr(tokens.request_context, name) for tokens in both)), name
    table, expected = (tokens.items.weight for tokens in both)
    assert table.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(table.flatten(), expected.flatten(), 0) > 0.99


def test_two_processes_land_an_expert_with_a_whole_table(alone: tuple[Path, Manifest], tmp_path: Path) -> None:
    root, foundation = alone
    folder, expert = land_with_two(expert_order(root, reference(foundation)), tmp_path / "run.json")
    assert expert.finite
    tokens = load_expert(folder, expert).model.tokens
    table = tokens.items.weight
    assert tokens.request_context is not None
    assert float(tokens.request_context.mean[0]) > 20
    assert (table[1:].abs().amax(1) > 0).float().mean() > 0.5
