"""Which requests an expert may learn from and is measured on, and in which order it learns them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trainer_builders import HOUR, SLATE, START, delayed, expert_config, hand_rows, optimization, stream_of

from recast_api.run import RecastError
from recast_trainer.evaluation.scoring import absent
from recast_trainer.tae import log as tae_log
from recast_trainer.training import expert as expert_loop
from recast_trainer.training.checkpoint import Checkpoints
from recast_trainer.training.expert import Examples, ExpertTrainer, find_examples
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream

HOURS, PER_HOUR, LEARN = 7, 6, 4  # three of seven segments are the tail: two older, one newer
PER_SEGMENT = PER_HOUR * SLATE
HELD_OUT_FROM = START + 6 * HOUR + HOUR // PER_HOUR  # the first request on reels in the last segment
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)


def log_of(folder: Path, stream: Stream, *, without: tuple[int, ...] = (), learn: int = LEARN) -> Path:
    """A log of vectors that name their row, each made a millisecond before its segment."""
    rows = stream.table.rows
    for index, segment in enumerate(stream.segments):
        keep = (rows.event_times >= segment.start) & (rows.event_times < segment.end) & ~np.isin(rows.row_ids, without)
        ids = rows.row_ids[keep]
        tae = np.stack([ids, ids, -ids, np.ones_like(ids)], 1).astype(np.float16)
        cursor = np.full(len(ids), min(segment.start, stream.segments[learn].start) - 1)
        written = tae_log.TaeRows(ids, rows.available_at[keep], cursor, tae)
        names = np.array(stream.dataset.surface_names)[rows.surfaces[keep]]
        tae_log.write_segment(folder, index, "prequential" if index < learn else "tail", written, names)
    return folder


def on_reels(*segments: int) -> list[int]:
    """Indices of the requests on reels: every second one."""
    return [s * PER_HOUR + place for s in segments for place in (1, 3, 5)]


def examples(tmp_path: Path, stream: Stream, **options: Any) -> Examples:
    return find_examples(stream, log_of(tmp_path, stream, **options), "reels", 4, CPU)


def test_an_expert_learns_its_surfaces_logged_requests_then_the_tails_older_half_and_keeps_the_newer(
    tmp_path: Path,
) -> None:
    found = examples(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS))
    assert found.prequential.tolist() == on_reels(0, 1, 2, 3)
    assert found.last_phase.tolist() == on_reels(4, 5)
    assert found.held_out.tolist() == on_reels(6)
    assert found.watermark == HELD_OUT_FROM - 1


@pytest.mark.parametrize(("late", "learned"), [(0, True), (1, False)], ids=["at the watermark", "a millisecond later"])
def test_a_request_is_learned_if_its_labels_were_known_at_the_watermark(
    tmp_path: Path, late: int, learned: bool
) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    shown = int(rows.event_times[2])  # row 3, of the second request
    given = delayed(rows, {4: HELD_OUT_FROM - 1 + late - shown})  # one of its two rows is enough
    found = examples(tmp_path, stream_of(given, HOURS))
    assert (1 in found.prequential.tolist()) is learned
    assert found.prequential.tolist()[-1] == on_reels(3)[-1]


@pytest.mark.parametrize("missing", [3, 4])
def test_a_request_of_which_the_log_lacks_a_row_is_left_out(tmp_path: Path, missing: int) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    assert examples(tmp_path, stream, without=(missing,)).prequential.tolist() == on_reels(0, 1, 2, 3)[1:]


def test_what_burn_in_dropped_from_the_log_is_not_learned(tmp_path: Path) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    folder = log_of(tmp_path, stream)
    for index in (0, 1):
        (folder / tae_log.file_name(index, "prequential")).unlink()
    assert find_examples(stream, folder, "reels", 4, CPU).prequential.tolist() == on_reels(2, 3)


@pytest.mark.parametrize(("needed", "enough"), [(36, True), (37, False)])
def test_too_few_rows_to_learn_from_is_an_error_with_both_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: int, enough: bool
) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", needed)
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)  # 6 segments of 3 requests of 2 rows are learned
    if enough:
        examples(tmp_path, stream)
        return
    with pytest.raises(RecastError, match='36 usable rows of surface "reels" to learn from and 6 to measure') as caught:
        examples(tmp_path, stream)
    assert caught.value.termination.reason == "TooFewRows"


def test_nothing_to_measure_on_is_an_error_too(tmp_path: Path) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    folder = log_of(tmp_path, stream)
    (folder / tae_log.file_name(6, "tail")).unlink()
    (folder / tae_log.file_name(5, "tail")).unlink()
    with pytest.raises(RecastError, match="0 to measure on"):
        find_examples(stream, folder, "reels", 4, CPU)


def test_by_default_two_hundred_rows_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert expert_loop.MIN_USABLE_ROWS == 200


class Watched(ExpertTrainer):
    """Notes the row ids of each update and the first number of each row's TAE."""

    def _loss(self, batch: Any, index: Any, sums: torch.Tensor) -> torch.Tensor:
        tae, present = self.examples.tae(batch, index)
        assert present.all()
        assert torch.equal(tae[..., 0][batch.candidate_mask].int(), batch.row_ids[batch.candidate_mask].int())
        self.steps.append(batch.row_ids[batch.candidate_mask].tolist())
        return super()._loss(batch, index, sums)

    steps: list[list[int]]


def rows_of(requests: list[int]) -> list[int]:
    return [request * SLATE + place + 1 for request in requests for place in range(SLATE)]


def test_every_epoch_learns_the_log_in_time_order_and_the_last_phase_comes_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(100.0, 2.0)
    monkeypatch.setattr(expert_loop, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    found = examples(tmp_path, stream)
    trainer = Watched(stream, expert_config(), optimization(epochs=2), ProcessGroup(), found)
    trainer.steps = []
    trainer.train()
    learned = [row for step in trainer.steps for row in step]
    prequential, last = rows_of(on_reels(0, 1, 2, 3)), rows_of(on_reels(4, 5))
    assert learned == prequential + prequential + last
    assert [len(step) for step in trainer.steps] == [8, 8, 8] * 2 + [6, 6]  # at most four requests of two rows
    said = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], *line[2:]) for line in said] == [
        ("epoch 1/2", "3 steps", "2 s"), ("epoch 2/2", "6 steps", "4 s"), ("last phase", "8 steps", "6 s"),
    ]  # fmt: skip


def test_the_loss_that_is_said_is_the_mean_over_the_labels_of_the_experts_own_tasks(tmp_path: Path) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    found = replace(examples(tmp_path, stream), tae=absent(4))
    trainer = ExpertTrainer(stream, expert_config(), optimization(batch_size=99), ProcessGroup(), found)
    model = trainer.model.eval()
    requests = found.prequential
    batch = stream.batch(requests, 6, ProcessGroup())
    with torch.no_grad():
        logits = model(batch, torch.zeros(len(requests), SLATE, 4), torch.zeros(len(requests), dtype=torch.bool))
    assert batch.labels is not None
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits[..., 0], batch.labels[..., 1])
    trainer.config = replace(trainer.config, dropout=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert trainer._learn([requests]) == pytest.approx(float(losses), rel=1e-5)


def test_warm_up_is_twenty_steps_and_rates_are_those_of_the_run(tmp_path: Path) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    found = examples(tmp_path, stream)
    trainer = ExpertTrainer(stream, expert_config(), optimization(learning_rate="0.02"), ProcessGroup(), found)
    assert trainer.learner.warm_up == 20
    assert trainer.learner.learning_rate == 0.02
    ((_, table),) = trainer.model.tables()
    assert table.optimizer is not None
    assert table.optimizer.learning_rate == 0.02


class CutOffError(BaseException):
    """Stands for the process dying; nothing catches it."""


class Cut(ExpertTrainer):
    """Dies before its step ``last``."""

    last = 10**9

    def _loss(self, *given: Any) -> torch.Tensor:
        if self.learner.steps == self.last:
            raise CutOffError
        return super()._loss(*given)


@pytest.mark.parametrize("last", [0, 1, 4, 6, 7])
def test_an_expert_that_was_cut_off_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: int
) -> None:
    """Eight steps: twice three, then two of the last phase. Every second one leaves a checkpoint."""
    ticks = itertools.count(0.0, expert_loop.CHECKPOINT_SECONDS / 3)  # two looks at the clock a step, one after a save
    monkeypatch.setattr(expert_loop, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    found = examples(tmp_path / "log", stream)
    config = replace(expert_config(), dropout=0.2)  # so that equality says something of randomness

    def made(folder: str) -> Cut:
        checkpoints = Checkpoints(tmp_path / folder, "f")
        return Cut(stream, config, optimization(epochs=2), ProcessGroup(), found, checkpoints)

    whole = made("whole").train().state_dict()
    dying = made("cut")
    dying.last = last
    with pytest.raises(CutOffError):
        dying.train()
    capsys.readouterr()
    again = made("cut")
    assert again.train().state_dict().keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in again.model.state_dict().items())
    assert again.learner.steps == 8
    said = capsys.readouterr().out
    assert ("resumed after" in said) == (last > 3)
    start = int(said.split("resumed after ")[1].split()[0]) if "resumed after" in said else 0
    phases = [line.split("  ")[0] for line in said.splitlines() if "log loss" in line]
    assert phases == [what for what, end in (("epoch 1/2", 3), ("epoch 2/2", 6), ("last phase", 8)) if start < end]


def test_an_expert_cools_down_over_all_of_its_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    trainer = ExpertTrainer(
        stream, expert_config(), optimization(epochs=2), ProcessGroup(), examples(tmp_path / "log", stream)
    )
    done: list[float] = []
    step = trainer.learner.step
    monkeypatch.setattr(trainer.learner, "step", lambda loss, share: (done.append(share), step(loss, share)))
    trainer.train()
    assert done == [steps / 8 for steps in range(8)]


def test_a_checkpoint_is_written_when_its_time_has_come_and_by_the_leader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS, by_surface=True)
    found = examples(tmp_path / "log", stream)
    seconds = [0.0]
    monkeypatch.setattr(expert_loop, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    store = Checkpoints(tmp_path / "store", "f")
    trainer = ExpertTrainer(stream, expert_config(), optimization(), ProcessGroup(), found, store)
    for now, count in ((expert_loop.CHECKPOINT_SECONDS - 1, 0), (expert_loop.CHECKPOINT_SECONDS, 1)):
        seconds[0] = now
        trainer._save_at_times()
        assert len(list(tmp_path.glob("store/f/*"))) == count
    trainer.learner.steps = 5
    trainer._save_at_times()  # just saved
    assert len(list(tmp_path.glob("store/f/*"))) == 1
    trainer.group = ProcessGroup(rank=1, size=2)
    seconds[0] *= 3
    trainer._save_at_times()
    assert len(list(tmp_path.glob("store/f/*"))) == 1
