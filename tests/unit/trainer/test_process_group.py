"""How the processes of a run come together and part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recast_trainer.training.process_group import ProcessGroup, join_process_group, limit_threads


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of torch.distributed, in order."""
    made: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda *_, name=name, **__: made.append(name))
    return made


def test_a_process_leaves_its_group_at_the_end(calls: list[str]) -> None:
    with join_process_group() as group:
        assert (group.rank, group.size, group.is_leader) == (1, 2, False)
        calls.append("work")
    assert calls == ["init_process_group", "work", "destroy_process_group"]


def test_a_process_that_fails_waits_for_nobody(calls: list[str]) -> None:
    with pytest.raises(ValueError, match="the cause"), join_process_group():
        raise ValueError("the cause")
    assert calls == ["init_process_group", "destroy_process_group"]


def test_one_process_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("nobody to meet"))
    with join_process_group() as group:
        assert (group.rank, group.size, group.is_leader) == (0, 1, True)
        assert group.broadcast(b"alone") == b"alone"


@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_leader_says_reaches_everybody(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b"the leader's \x00 words"
    sent: list[Any] = [torch.tensor([len(said)]), torch.frombuffer(bytearray(said), dtype=torch.uint8)]

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        assert src == 0
        expected = sent.pop(0)
        if rank == 0:
            assert torch.equal(tensor, expected)
        else:
            tensor.copy_(expected)

    monkeypatch.setattr(dist, "broadcast", broadcast)
    group = ProcessGroup(rank=rank, size=2)
    assert group.broadcast(said if rank == 0 else b"mine") == said
    assert sent == []
    sent.append(torch.tensor([0]))
    assert group.broadcast(b"" if rank == 0 else b"mine") == b""
    for answer in (True, False):
        sent += [torch.tensor([1]), torch.tensor([answer], dtype=torch.uint8)]
        assert group.leaders(answer if rank == 0 else not answer) is answer
    assert sent == []


@pytest.mark.parametrize(
    ("environment", "quota", "threads"),
    [
        ({}, "max 100000", 8),
        ({}, "300000 100000", 3),
        ({}, "50000 100000", 1),
        ({"LOCAL_WORLD_SIZE": "2"}, "max 100000", 4),
        ({"LOCAL_WORLD_SIZE": "2"}, "300000 100000", 1),
        ({"LOCAL_WORLD_SIZE": "20"}, "max 100000", 1),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "max 100000", 1),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "400000 100000", 4),
        ({"OMP_NUM_THREADS": "5"}, "300000 100000", None),
    ],
)
def test_a_process_has_the_threads_that_its_machine_or_container_has_for_it(
    environment: dict[str, str], quota: str, threads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "KUBERNETES_SERVICE_HOST", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    limit_threads(tmp_path)
    assert given == ([] if threads is None else [threads])
