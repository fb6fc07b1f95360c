"""What a dying pod says, and what a crash leaves of its checkpoints."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from recast_api.run import RecastError, TerminationMessage
from recast_trainer import cli
from recast_trainer.clock import duration_ms, from_rfc3339, to_rfc3339
from recast_trainer.failures import describe, report
from recast_trainer.files import sync_tree, write_bytes
from recast_trainer.training.checkpoint import KEEP, TENSORS, Checkpoints, Progress, resume
from recast_trainer.training.process_group import ProcessGroup


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (RecastError("SegmentCorrupt", "segment 3 is no Parquet"), "SegmentCorrupt", False),
        (MemoryError(), "OutOfMemory", True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "OutOfMemory", True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "OutOfMemory", True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.2]"), "PeerLost", True),
        (RuntimeError("NCCL error: remote process exited"), "PeerLost", True),
        (OSError(errno.ENOSPC, "No space left on device"), "StorageFull", True),
        (OSError(errno.EIO, "Input/output error"), "StorageFailed", True),
        (ValueError("shapes"), "TrainerFailed", False),
    ],
)
def test_every_failure_has_a_reason_and_says_whether_the_same_run_may_succeed(
    error: Exception, reason: str, retryable: bool
) -> None:
    message = describe(error)
    assert (message.reason, message.retryable) == (reason, retryable)
    assert TerminationMessage.decode(message.encode()) == message


def test_a_symptom_never_overwrites_the_cause_that_a_peer_in_the_same_pod_wrote(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    lost, cause = RuntimeError("gloo: connection closed by peer"), RecastError("SegmentCorrupt", "segment 3")
    for error in (lost, cause, lost):
        report(error, log)
    found = TerminationMessage.decode(log.read_text())
    assert found is not None
    assert found.reason == "SegmentCorrupt"


def test_a_pod_whose_termination_log_cannot_be_written_still_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(RecastError("DataMissing", "no folder x"), tmp_path)  # a folder: writing to it fails
    said = capsys.readouterr().err
    assert "DataMissing: no folder x" in said
    assert f"cannot write {tmp_path}" in said


def test_outside_a_pod_no_termination_log_is_made(tmp_path: Path) -> None:
    report(RecastError("DataMissing", "no folder x"), tmp_path / "termination-log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("2026-01-01T00:00:00.000Z", 1_767_225_600_000), ("1999-12-31T23:59:59.001Z", 946_684_799_001)],
)
def test_instants_survive_the_way_to_the_wire_and_back(text: str, milliseconds: int) -> None:
    assert from_rfc3339(text) == milliseconds
    assert to_rfc3339(milliseconds) == text


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("90s", 90_000), ("15m", 900_000), ("3h", 10_800_000), ("2d", 172_800_000)]
)
def test_durations_are_read_by_their_unit(text: str, milliseconds: int) -> None:
    assert duration_ms(text) == milliseconds


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, replace, opened = os.fsync, os.replace, os.open
    paths: dict[int, str] = {}

    def noted_open(path: Path, *arguments: int) -> int:
        descriptor = opened(path, *arguments)
        paths[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", noted_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append(f"sync {paths[descriptor]}"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append(f"{old.name} -> {new.name}"), replace(old, new)))
    write_bytes(tmp_path / "folder" / "file", b"new")
    assert seen == ["sync file.tmp", "file.tmp -> file", "sync folder"]
    assert (tmp_path / "folder" / "file").read_bytes() == b"new"
    seen.clear()
    (tmp_path / "folder" / "below").mkdir()
    (tmp_path / "folder" / "below" / "deep").write_bytes(b"x")
    sync_tree(tmp_path / "folder")
    assert sorted(seen) == ["sync below", "sync deep", "sync file", "sync folder"]


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_run_that_cannot_be_read_is_a_failed_exit_with_its_reason(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("RECAST_RUN", text)
    assert cli.main(["run"], termination_log=log) == 1
    message = TerminationMessage.decode(log.read_text())
    assert message is not None
    assert (message.reason, message.retryable) == ("BadRun", False)


def progress(position: int) -> Progress:
    return Progress(position, position * 10, position * 3_600_000, [[1.0, 2.0, 0.5]])


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((3, 2), value), "optimizer.step": torch.tensor(value)}


def test_the_newest_checkpoint_comes_back_exactly_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "f")
    for position in (8, 9, 10, 999, 100_000):  # as numbers, whatever their length
        store.save(progress(position), tensors(position / 3))
    found = store.load()
    assert found is not None
    assert found[0] == progress(100_000)
    assert all(torch.equal(found[1][name], value) for name, value in tensors(100_000 / 3).items())
    assert len(list((tmp_path / "f").iterdir())) == KEEP


def test_checkpoints_of_other_inputs_are_neither_used_nor_push_out_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have higher numbers, since the earlier attempt had come further."""
    former = Checkpoints(tmp_path, "f")
    for position in (40, 41):
        former.save(progress(position), tensors(position))
    store = Checkpoints(tmp_path, "g")
    assert store.load() is None
    for position in (1, 2):
        store.save(progress(position), tensors(position))
        found = store.load()
        assert found is not None
        assert found[0] == progress(position)
    assert resume(store, ProcessGroup()) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["g"]
    assert "of other inputs" in capsys.readouterr().out
    assert resume(store, ProcessGroup()) is not None
    assert capsys.readouterr().out == ""


def test_the_first_attempt_of_a_run_says_nothing_of_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(Checkpoints(tmp_path / "none", "f"), ProcessGroup()) is None
    assert capsys.readouterr().out == ""


def test_a_process_that_does_not_lead_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoints(tmp_path, "f").save(progress(1), tensors(1))
    monkeypatch.setattr(ProcessGroup, "barrier", lambda _: None)
    assert resume(Checkpoints(tmp_path, "g"), ProcessGroup(rank=1, size=2)) is None
    assert Checkpoints(tmp_path, "f").load() is not None


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    store = Checkpoints(tmp_path, "f")
    store.save(progress(1), tensors(1))
    path = store.save(progress(2), tensors(2)) / TENSORS
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-8] if damage == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))
    found = store.load()
    assert found is not None
    assert found[0].position == 1


def test_a_crash_in_the_middle_of_writing_a_checkpoint_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path, "f")
    store.save(progress(1), tensors(1))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("died")))
            with pytest.raises(OSError, match="died"):
                store.save(progress(2), tensors(2))
        found = store.load()
        assert found is not None
        assert found[0].position == 1
    store.save(progress(2), tensors(2))
    found = store.load()
    assert found is not None
    assert found[0].position == 2
