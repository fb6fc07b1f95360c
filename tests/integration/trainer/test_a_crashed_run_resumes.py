"""A run that dies and resumes ends in the same bits as one that was never interrupted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_support import expert_order, order, reference, write_synthetic

from recast_api.run import TrainingRun
from recast_trainer.data.requests import Requests
from recast_trainer.run import execute, foundation_config
from recast_trainer.training import expert as expert_loop
from recast_trainer.training.loop import FoundationTrainer, TrainedFoundation
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import Stream, open_stream


class CrashError(BaseException):
    """Stands for the process dying; nothing catches it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    root = tmp_path_factory.mktemp("resume")
    write_synthetic(root / "data" / "set", hours=8, requests=24)
    return order(root)


@pytest.fixture(scope="module")
def stream(run: TrainingRun) -> Stream:
    return open_stream(Path(run.data_root) / "set", run.data)


@pytest.fixture(scope="module")
def uninterrupted(
    run: TrainingRun, stream: Stream, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedFoundation, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return start(run, stream, folder).train(), folder


def start(run: TrainingRun, stream: Stream, folder: Path) -> FoundationTrainer:
    config = replace(foundation_config(run, stream), dropout=0.2)  # so that equality says something of randomness
    return FoundationTrainer(stream, config, run.optimization, ProcessGroup(), folder, "same")


def state(trained: TrainedFoundation) -> dict[str, torch.Tensor]:
    return trained.model.state_dict()


def same(one: tuple[TrainedFoundation, Path], other: tuple[TrainedFoundation, Path]) -> None:
    assert state(one[0]).keys() == state(other[0]).keys()
    for name, value in state(one[0]).items():
        assert torch.equal(value, state(other[0])[name]), name
    assert one[0].similarities == other[0].similarities
    assert one[0].watermark == other[0].watermark
    assert one[0].through.weights.read_bytes() == other[0].through.weights.read_bytes()
    files = [{path.name: path.read_bytes() for path in (folder / "tae").iterdir()} for _, folder in (one, other)]
    assert files[0] == files[1]


@pytest.mark.parametrize("segment", [1, 4])
def test_a_run_killed_between_two_segments_ends_in_the_same_bits(
    run: TrainingRun, stream: Stream, uninterrupted: tuple[TrainedFoundation, Path], tmp_path: Path, segment: int
) -> None:
    dying = start(run, stream, tmp_path)
    report = dying._progress

    def die(*values: Any) -> None:
        report(*values)
        if dying.segment == segment:
            raise CrashError

    dying._progress = die  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        dying.train()
    same(uninterrupted, (start(run, stream, tmp_path).train(), tmp_path))


def test_a_run_killed_while_it_learns_repeats_the_segment_without_doubling_a_row(
    run: TrainingRun, stream: Stream, uninterrupted: tuple[TrainedFoundation, Path], tmp_path: Path
) -> None:
    dying = start(run, stream, tmp_path)
    step = dying.learner.step

    def die(loss: Any, done: float) -> None:
        if dying.segment == 3 and dying.learner.steps % 2:
            raise CrashError
        step(loss, done)

    dying.learner.step = die  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        dying.train()
    assert (tmp_path / "tae" / "00003-prequential.parquet").exists()  # logged, not learned: the resume writes it again
    same(uninterrupted, (start(run, stream, tmp_path).train(), tmp_path))


def test_a_run_killed_while_it_learns_the_tail_measures_it_again_by_the_same_weights(
    run: TrainingRun, stream: Stream, uninterrupted: tuple[TrainedFoundation, Path], tmp_path: Path
) -> None:
    dying = start(run, stream, tmp_path)
    step, first = dying.learner.step, uninterrupted[0].split.learn

    def die(loss: Any, done: float) -> None:
        step(loss, done)
        if dying.watermark > stream.segments[first].end and dying.learner.steps % 2:
            raise CrashError

    dying.learner.step = die  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        dying.train()
    same(uninterrupted, (start(run, stream, tmp_path).train(), tmp_path))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    run: TrainingRun,
    stream: Stream,
    uninterrupted: tuple[TrainedFoundation, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    dying = start(run, stream, tmp_path)
    save = dying.checkpoints.save

    def die(*values: Any) -> Path:
        if dying.segment == 3:
            monkeypatch.setattr(os, call, lambda *_: (_ for _ in ()).throw(CrashError))
        return save(*values)

    dying.checkpoints.save = die  # type: ignore[method-assign]
    with pytest.raises(CrashError):
        dying.train()
    monkeypatch.undo()
    again = start(run, stream, tmp_path)
    same(uninterrupted, (again.train(), tmp_path))


def test_only_mature_labels_were_learned_and_the_rest_waits(run: TrainingRun, stream: Stream, tmp_path: Path) -> None:
    trainer = start(run, stream, tmp_path)
    seen: list[tuple[int, int]] = []

    def labels(requests: Requests, chosen: np.ndarray) -> list[tuple[int, int]]:
        row, task = np.nonzero(requests.rows.label_mask & chosen)
        return list(zip(requests.rows.row_ids[row].tolist(), task.tolist(), strict=True))

    for segment, requests in list(stream.walk(trainer.config.history_length))[:3]:
        trainer.watermark = stream.segments[segment].end - 1
        before = trainer.learner.steps
        waiting = requests if trainer.pending is None else Requests.concatenate([trainer.pending, requests])
        trainer.learn(requests)
        late = waiting.rows.available_at > trainer.watermark
        assert trainer.pending is not None
        assert labels(trainer.pending, np.True_) == labels(waiting, late)
        assert trainer.learner.steps > before
        seen += labels(waiting, ~late)
    assert len(seen) == len(set(seen))  # each label is learned once
    assert len(trainer.pending or ())  # the stream's label delays do reach over a segment's end


@pytest.mark.parametrize("kind", ["foundation", "expert"])
def test_an_attempt_after_new_data_have_arrived_goes_on_where_the_last_one_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Without spec.data.until, as streams are trained: what arrives meanwhile neither changes nor restarts the run."""
    monkeypatch.setattr(expert_loop, "CHECKPOINT_SECONDS", 0.0)
    folder = write_synthetic(tmp_path / "data" / "set", hours=12, requests=60)
    late = sorted((folder / "segments").iterdir())[-1]
    kept_back = late.rename(tmp_path / late.name)
    run = order(tmp_path)
    if kind == "expert":
        foundation = execute(run, ProcessGroup(), None)
        assert foundation is not None
        run = expert_order(tmp_path, reference(foundation))
    whole = execute(run.model_copy(update={"number": 7}), ProcessGroup(), None)
    assert whole is not None

    step = Learner.step

    def die(self: Learner, loss: Any, done: float) -> None:
        if self.steps == 12:
            raise CrashError
        step(self, loss, done)

    same_inputs = run.model_copy(update={"number": 8})
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", die)
        with pytest.raises(CrashError):
            execute(same_inputs, ProcessGroup(), None)
    kept_back.rename(late)
    capsys.readouterr()
    retried = execute(same_inputs.model_copy(update={"attempt": 2}), ProcessGroup(), None)
    assert retried is not None
    said = capsys.readouterr().out
    assert "1 segments have arrived since this run began" in said
    assert "resumed after" in said
    assert retried.watermark == whole.watermark
    assert retried.measurements == whole.measurements
    assert {entry.path: entry.sha256 for entry in retried.files} == {entry.path: entry.sha256 for entry in whole.files}
    assert not list(tmp_path.rglob("checkpoints"))
