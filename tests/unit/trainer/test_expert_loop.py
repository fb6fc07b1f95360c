"""Which requests an expert may learn from and is measured on, and in which order it learns them."""

from __future__ import annotations

import functools
import gc
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trainer_builders import (
    HOUR,
    ITEMS,
    SLATE,
    START,
    delayed,
    expert_config,
    foundation,
    hand_rows,
    optimization,
    requests_of,
    stream_of,
)

from recast_api.resources.common import Optimizer
from recast_api.run import RecastError
from recast_model.losses import expert_loss
from recast_trainer.evaluation.scoring import absent, score_expert
from recast_trainer.tae import log as tae_log
from recast_trainer.training import expert as expert_loop
from recast_trainer.training.checkpoint import Checkpoints
from recast_trainer.training.expert import Example, Examples, ExpertTrainer, global_batches
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.share import ShareSearch
from recast_trainer.training.stream import Stream, on_device

HOURS, PER_HOUR, LEARN = 7, 6, 4  # three of seven segments are the tail: two older, one newer
PER_SEGMENT = PER_HOUR * SLATE
HELD_OUT_FROM = START + 6 * HOUR + HOUR // PER_HOUR  # the first request on reels in the last segment


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)


def log_of(folder: Path, stream: Stream, *, without: tuple[int, ...] = (), learn: int = LEARN) -> Path:
    """A log of vectors that name their row, each made a millisecond before its segment."""
    for index, segment in enumerate(stream.segments):
        rows = stream.read(segment)
        rows = rows.take(~np.isin(rows.row_ids, without))
        ids = rows.row_ids
        tae = np.stack([ids, ids, -ids, np.ones_like(ids)], 1).astype(np.float16)
        cursor = np.full(len(ids), min(segment.start, stream.segments[learn].start) - 1)
        written = tae_log.TaeRows(ids, rows.first_known, cursor, tae)
        names = np.array(stream.dataset.surface_names)[rows.surfaces]
        phase: tae_log.Phase = "prequential" if index < learn else "tail"
        tae_log.write_segment(folder, index, phase, written, names, segment.name)
    return folder


def on_reels(*segments: int) -> list[int]:
    """Row ids of the requests on reels: every second one."""
    requests = [s * PER_HOUR + place for s in segments for place in (1, 3, 5)]
    return [request * SLATE + place + 1 for request in requests for place in range(SLATE)]


def examples(tmp_path: Path, stream: Stream, **options: Any) -> Examples:
    return Examples(stream, log_of(tmp_path, stream, **options), "reels", 6)


def learned(found: Examples, phase: list[tae_log.LogFile]) -> list[int]:
    """Ids of the rows that have labels to learn."""
    some = [example.requests.rows for example in found.learned(phase)]
    return [int(row) for rows in some for row in rows.row_ids[rows.label_mask.any(1)]]


def held_out(found: Examples) -> list[int]:
    return [int(row) for example in found.over(found.held_out) for row in example.requests.rows.row_ids]


def whole(hours: int = HOURS) -> Stream:
    return stream_of(hand_rows(hours, PER_HOUR), hours)


def test_an_expert_learns_its_surfaces_logged_requests_then_the_tails_older_half_and_keeps_the_newer(
    tmp_path: Path,
) -> None:
    found = examples(tmp_path, whole())
    assert learned(found, found.prequential) == on_reels(0, 1, 2, 3)
    assert learned(found, found.last_phase) == on_reels(4, 5)
    assert held_out(found) == on_reels(6)
    assert found.watermark == HELD_OUT_FROM - 1


def test_an_example_has_its_rows_own_tae_and_the_history_of_its_surface(tmp_path: Path) -> None:
    found = examples(tmp_path, whole())
    alone = requests_of(whole(), surface=1)
    for example in found.over(found.prequential):
        assert example.tae.values[:, 0].tolist() == example.requests.rows.row_ids.tolist()
        assert example.tae.present.all()
        assert set(example.requests.history.surfaces.tolist()) <= {1}
        same = alone.take(np.isin(alone.rows.row_ids[alone.starts], example.requests.rows.row_ids))
        assert example.requests.history.times.tolist() == same.history.times.tolist()


def test_what_servers_are_given_is_the_surfaces_history_at_the_end_of_the_data(tmp_path: Path) -> None:
    found = examples(tmp_path, whole())
    over = found.over(found.prequential)
    list(over)
    walk = whole().walk(6, surface=1)
    list(walk)
    one, other = over.snapshot(ITEMS), walk.snapshot(ITEMS)
    assert one.until == other.until == START + HOURS * HOUR
    assert one.events.items.tolist() == other.events.items.tolist()
    assert one.users.tolist() == other.users.tolist()


@pytest.mark.parametrize(("late", "is_learned"), [(0, True), (1, False)], ids=["at the watermark", "a ms later"])
def test_a_label_is_learned_if_it_was_known_at_the_watermark(tmp_path: Path, late: int, is_learned: bool) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    given = delayed(rows, {7: 100 * HOUR, 8: 100 * HOUR})  # of the fourth request nothing is known in time
    given.available_at[3, 1] = HELD_OUT_FROM - 1 + late  # the like of row 4, whose click was known long before
    found = examples(tmp_path, stream_of(given, HOURS))
    first = next(iter(found.learned(found.prequential)))
    assert first.requests.rows.row_ids.tolist() == [3, 4, 11, 12]
    assert first.requests.rows.label_mask.tolist() == [[True, True], [True, is_learned], [True, True], [True, True]]
    assert first.tae.values[:, 0].tolist() == [3, 4, 11, 12]
    assert learned(found, found.prequential)[-1] == on_reels(3)[-1]


@pytest.mark.parametrize("missing", [3, 4])
def test_a_request_of_which_the_log_lacks_a_row_is_left_out(tmp_path: Path, missing: int) -> None:
    found = examples(tmp_path, whole(), without=(missing,))
    assert learned(found, found.prequential) == on_reels(0, 1, 2, 3)[2:]


@pytest.mark.parametrize("missing", [6 * PER_SEGMENT + 3, 6 * PER_SEGMENT + 4])
def test_the_watermark_is_before_the_first_request_that_the_log_covers_whole(tmp_path: Path, missing: int) -> None:
    found = examples(tmp_path, whole(), without=(missing,))
    assert found.watermark == HELD_OUT_FROM + 2 * HOUR // PER_HOUR - 1
    assert held_out(found) == on_reels(6)[2:]


def test_what_burn_in_dropped_from_the_log_is_not_learned(tmp_path: Path) -> None:
    folder = log_of(tmp_path, whole())
    for index in (0, 1):
        (folder / tae_log.file_name(index, "prequential")).unlink()
    found = Examples(whole(), folder, "reels", 6)
    assert learned(found, found.prequential) == on_reels(2, 3)


def test_segments_are_joined_by_their_name_whatever_others_the_stream_has(tmp_path: Path) -> None:
    """The foundation learned from the second segment on; the expert's window begins with the third."""
    rows, every = hand_rows(HOURS, PER_HOUR), whole()
    later = stream_of(rows, HOURS)
    log = log_of(tmp_path, replace(every, segments=every.segments[1:]), learn=3)
    found = Examples(replace(later, segments=later.segments[2:]), log, "reels", 6)
    assert learned(found, found.prequential) == on_reels(2, 3)
    assert learned(found, found.last_phase) == on_reels(4, 5)
    assert held_out(found) == on_reels(6)


@pytest.mark.parametrize(
    ("learnable", "measured", "says"),
    [(35, 6, '35 usable rows of surface "reels" to learn from; at least 36'), (36, 0, "nothing to measure on")],
)
def test_too_few_rows_are_an_error_that_says_of_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learnable: int, measured: int, says: str
) -> None:
    found = examples(tmp_path, whole())
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 36)
    found.require_enough(36, 6)
    with pytest.raises(RecastError, match=says) as caught:
        found.require_enough(learnable, measured)
    assert caught.value.termination.reason == "TooFewRows"


def test_what_is_held_out_is_told_segment_by_segment_since_row_ids_may_start_over(tmp_path: Path) -> None:
    """Two held-out segments with the same row ids, of which the log of one lacks a request."""
    rows = hand_rows(9, PER_HOUR)
    again = np.where(rows.event_times >= START + 8 * HOUR, rows.row_ids - PER_SEGMENT, rows.row_ids)
    stream = stream_of(replace(rows, row_ids=again), 9)
    folder = log_of(tmp_path, stream, learn=5)
    missing = 7 * PER_SEGMENT + 3
    path = folder / tae_log.file_name(8, "tail")
    path.unlink()
    part = stream.read(stream.segments[8])
    part = part.take(part.row_ids != missing)
    tae_log.write_segment(
        folder, 8, "tail",
        tae_log.TaeRows(part.row_ids, part.first_known, part.event_times * 0, np.ones((len(part), 4), np.float16)),
        np.array(stream.dataset.surface_names)[part.surfaces], stream.segments[8].name,
    )  # fmt: skip
    found = Examples(stream, folder, "reels", 6)
    measured = [example.requests.rows.row_ids.tolist() for example in found.over(found.held_out)]
    told = [
        requests.rows.row_ids.tolist()
        for _, requests in stream.walk(6, surface=1, choose=found.is_held_out)
        if len(requests)
    ]
    assert told == measured
    assert [len(ids) for ids in told] == [6, 4]


def partial_log(folder: Path, stream: Stream, missing: tuple[int, ...], drawn: dict[int, float]) -> Examples:
    """A log as answers give one: of some requests some rows, some of them drawn with a probability."""
    for index, segment in enumerate(stream.segments):
        rows = stream.read(segment)
        rows = rows.take(~np.isin(rows.row_ids, missing))
        tae = np.stack([rows.row_ids] * 4, 1).astype(np.float16)
        propensity = np.array([drawn.get(int(row), 1.0) for row in rows.row_ids], np.float32)
        written = tae_log.TaeRows(rows.row_ids, rows.first_known, rows.event_times * 0, tae, propensity)
        names = np.array(stream.dataset.surface_names)[rows.surfaces]
        phase: tae_log.Phase = "prequential" if index < LEARN else "tail"
        tae_log.write_segment(folder, index, phase, written, names, segment.name, partial=True)
    return Examples(stream, folder, "reels", 6)


def test_of_a_partial_log_the_rows_that_are_there_are_learned_and_measured(tmp_path: Path) -> None:
    lacks = 6 * PER_SEGMENT + 3
    found = partial_log(tmp_path, whole(), (3, 7, 8, lacks), {})
    assert learned(found, found.prequential) == [4, *on_reels(0, 1, 2, 3)[4:]]
    assert learned(found, found.last_phase) == on_reels(4, 5)
    assert found.watermark == HELD_OUT_FROM - 1
    (measured,) = list(found.over(found.held_out))
    assert measured.requests.rows.row_ids[measured.requests.rows.label_mask.any(1)].tolist() == on_reels(6)[1:]
    assert measured.tae.present.all()
    last = len(whole().segments) - 1
    slates = next(requests for index, requests in whole().walk(6, surface=1) if index == last)
    assert found.is_held_out(last, slates).all()


def test_rows_weigh_one_over_the_probability_that_they_are_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = partial_log(tmp_path, whole(), (), {4: 0.25, 11: 0.5})
    seen: dict[int, float] = {}
    batches = list(global_batches(found.learned(found.prequential), 4))
    for batch in batches:
        weights = batch.tae.weights_on_device(on_device(batch.requests, ITEMS, ProcessGroup()))
        if weights is not None:
            for row, weight in zip(batch.requests.rows.row_ids.tolist(), weights.flatten().tolist(), strict=True):
                seen[row] = weight
    assert {row: weight for row, weight in seen.items() if weight != 1} == {4: 4.0, 11: 2.0}
    losses: list[Any] = []

    def recorded(logits: Any, batch: Any, columns: Any, weights: Any) -> Any:
        losses.append(weights)
        return expert_loss(logits, batch, columns, weights)

    monkeypatch.setattr(expert_loop, "expert_loss", recorded)
    ExpertTrainer(foundation(), expert_config(), optimization(), ProcessGroup(), found).train()
    assert losses[0].flatten().tolist()[:4] == [1.0, 4.0, 1.0, 1.0]
    assert losses[-1] is None  # of rows that all were logged


def test_a_pass_that_is_over_leaves_no_file_open_and_no_memory_behind(tmp_path: Path) -> None:
    found = examples(tmp_path, whole())

    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()
    before = files()
    gc.disable()  # it must not take a collection of cycles
    try:
        for _ in range(3):
            list(found.learned(found.prequential))
        next(iter(found.over(found.prequential)))
        assert files() == before
    finally:
        gc.enable()


def test_nothing_to_learn_from_is_an_error_before_anything_is_learned(tmp_path: Path) -> None:
    folder = log_of(tmp_path, whole())
    for path in folder.iterdir():
        if path.name != tae_log.file_name(6, "tail"):
            path.unlink()
    found = Examples(whole(), folder, "reels", 6)
    assert (found.prequential, len(found.last_phase), found.held_out, found.watermark) == ([], 1, [], 0)
    with pytest.raises(RecastError, match="nothing to measure on"):
        ExpertTrainer(foundation(), expert_config(), optimization(), ProcessGroup(), found).train()


def test_by_default_two_hundred_rows_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert expert_loop.MIN_USABLE_ROWS == 200


class Watched(ExpertTrainer):
    """Notes the row ids of each update, and that each row came with its own TAE."""

    def _loss(self, batch: Any, tae: Any, sums: torch.Tensor) -> torch.Tensor:
        values, present = tae.on_device(batch)
        assert present.all()
        assert torch.equal(values[..., 0][batch.candidate_mask].int(), batch.row_ids[batch.candidate_mask].int())
        self.steps.append(batch.row_ids[batch.candidate_mask].tolist())
        return super()._loss(batch, tae, sums)

    steps: list[list[int]]


def test_every_epoch_learns_the_log_in_time_order_and_the_last_phase_comes_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(100.0, 2.0)
    monkeypatch.setattr(expert_loop, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    found = examples(tmp_path, whole())
    trainer = Watched(foundation(), expert_config(), optimization(epochs=2), ProcessGroup(), found)
    trainer.steps = []
    trainer.train()
    prequential, last = on_reels(0, 1, 2, 3), on_reels(4, 5)
    assert [row for step in trainer.steps for row in step] == prequential + prequential + last
    assert [len(step) for step in trainer.steps] == [8, 8, 8] * 2 + [8, 4]  # at most four requests of two rows
    assert trainer.rows == len(prequential) + len(last)
    *lines, chosen = capsys.readouterr().out.splitlines()
    assert chosen.endswith(f"heads: {trainer.share.said(['like'])}")
    said = [line.split("  ") for line in lines]
    assert all(0.3 < float(line[1].removeprefix("log loss ")) < 1.5 for line in said)  # a mean, and not a sum
    assert [(line[0], *line[2:]) for line in said] == [
        ("epoch 1/2", "3 steps", "2 s"), ("epoch 2/2", "6 steps", "4 s"), ("last phase", "8 steps", "6 s"),
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_row_counts_as_learned_once_however_many_epochs_there_are(tmp_path: Path, epochs: int) -> None:
    trainer = ExpertTrainer(
        foundation(), expert_config(), optimization(epochs=epochs), ProcessGroup(), examples(tmp_path, whole())
    )
    trainer.train()
    assert trainer.rows == len(on_reels(0, 1, 2, 3)) + len(on_reels(4, 5))


@pytest.mark.parametrize(
    ("counts", "size", "sizes"),
    [([3, 3, 3], 4, [4, 4, 1]), ([9], 4, [4, 4, 1]), ([4, 4], 4, [4, 4]), ([1, 0, 1], 4, [2]), ([], 4, []),
     ([5, 1], 2, [2, 2, 2])],
)  # fmt: skip
def test_global_batches_fill_up_across_segments(tmp_path: Path, counts: list[int], size: int, sizes: list[int]) -> None:
    found = examples(tmp_path, whole())
    every = list(found.over(found.prequential + found.last_phase))
    joined = functools.reduce(Example.and_these, every)
    ends = np.cumsum(counts)
    given = [joined.take(slice(int(end) - count, int(end))) for count, end in zip(counts, ends, strict=True)]
    batches = list(global_batches(iter(given), size))
    assert [len(batch) for batch in batches] == sizes
    rows = [int(row) for batch in batches for row in batch.requests.rows.row_ids]
    assert rows == joined.requests.rows.row_ids[: 2 * sum(counts)].tolist()
    assert [value for batch in batches for value in batch.tae.values[:, 0].tolist()] == rows


def test_the_loss_that_is_said_is_the_mean_over_the_labels_of_the_experts_own_tasks(tmp_path: Path) -> None:
    found = examples(tmp_path, whole())
    found = replace(found, instead=lambda example: absent(example.requests, 4))
    trainer = ExpertTrainer(foundation(), expert_config(), optimization(batch_size=99), ProcessGroup(), found)
    model = trainer.model.eval()
    example = functools.reduce(Example.and_these, found.learned(found.prequential))
    batch = on_device(example.requests, ITEMS, ProcessGroup())
    with torch.no_grad():
        logits = model(batch, torch.zeros(len(example), SLATE, 4), torch.zeros(len(example), dtype=torch.bool))
    assert batch.labels is not None
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits[..., 0], batch.labels[..., 1])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    sums = torch.zeros(2, dtype=torch.float64)
    trainer._learn(example, 0.0, sums)
    assert float(sums[0] / sums[1]) == pytest.approx(float(losses), rel=1e-5)


def test_an_expert_starts_from_the_base_rates_of_its_first_thousand_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examples(tmp_path, whole())
    every = functools.reduce(Example.and_these, found.learned(found.prequential + found.last_phase)).requests
    for limit in (2, 3, 13, 1000):
        monkeypatch.setattr(expert_loop, "BASE_RATE_REQUESTS", limit)
        trainer = ExpertTrainer(foundation(), expert_config(), optimization(), ProcessGroup(), found)
        first = trainer._first_requests()
        assert first.rows.row_ids.tolist() == every.rows.row_ids[: 2 * limit].tolist()
    expected = every.base_rates(2)[1, 1:]  # of "like" on reels
    for reads_heads in (True, False):
        trainer = ExpertTrainer(
            foundation(), expert_config(), optimization(), ProcessGroup(), found, reads_heads=reads_heads
        )
        begun = trainer.model.foundation_heads.bias.clone()
        monkeypatch.setattr(trainer, "_phases", list)
        trained = trainer.train()
        torch.testing.assert_close(trained.absent_heads.bias, torch.logit(expected).float())
        own = begun if reads_heads else torch.logit(expected).float()
        torch.testing.assert_close(trained.foundation_heads.bias, own)
        assert bool(trained.foundation_heads.weight.any()) is reads_heads


def test_the_optimisers_settings_are_those_of_the_run_with_a_rate_of_their_own_for_tables(tmp_path: Path) -> None:
    found, optimizer = examples(tmp_path, whole()), Optimizer(table_learning_rate="0.5", warm_up_steps=7)
    ordered = optimization(learning_rate="0.02", optimizer=optimizer)
    trainer = ExpertTrainer(foundation(), expert_config(), ordered, ProcessGroup(), found)
    assert (trainer.learner.learning_rate, trainer.learner.settings) == (0.02, optimizer)
    ((_, table),) = trainer.model.tables()
    assert table.optimizer is not None
    assert table.optimizer.learning_rate == 0.5


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
    found = examples(tmp_path / "log", whole())
    config = replace(expert_config(), dropout=0.2)  # so that equality says something of randomness

    def made(folder: str) -> Cut:
        checkpoints = Checkpoints(tmp_path / folder, "f")
        return Cut(foundation(), config, optimization(epochs=2), ProcessGroup(), found, checkpoints)

    first = made("whole")
    straight = first.train().state_dict()
    dying = made("cut")
    dying.last = last
    with pytest.raises(CutOffError):
        dying.train()
    capsys.readouterr()
    again = made("cut")
    assert again.train().state_dict().keys() == straight.keys()
    assert all(torch.equal(value, straight[name]) for name, value in again.model.state_dict().items())
    assert torch.equal(again.share.sums, first.share.sums)
    assert again.learner.steps == 8
    said = capsys.readouterr().out
    assert ("resumed after" in said) == (last > 3)
    start = int(said.split("resumed after ")[1].split()[0]) if "resumed after" in said else 0
    phases = [line.split("  ")[0] for line in said.splitlines() if " steps  " in line]
    assert phases == [what for what, end in (("epoch 1/2", 3), ("epoch 2/2", 6), ("last phase", 8)) if start < end]


def test_an_expert_cools_down_over_all_of_its_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten segments, twice four and two, the one that the last request of a step is in says how much is over."""
    found = examples(tmp_path / "log", whole())
    trainer = ExpertTrainer(foundation(), expert_config(), optimization(epochs=2), ProcessGroup(), found)
    done: list[float] = []
    step = trainer.learner.step
    monkeypatch.setattr(trainer.learner, "step", lambda loss, share: (done.append(share), step(loss, share)))
    trainer.train()
    assert done == [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 0.9]


@dataclass(frozen=True)
class Follower(ProcessGroup):
    """A process whose leader answers this."""

    said: bool = False

    def broadcast(self, data: bytes) -> bytes:
        return bytes([self.said])


def test_a_checkpoint_is_written_when_its_time_has_come_and_by_the_leader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examples(tmp_path / "log", whole())
    seconds = [0.0]
    monkeypatch.setattr(expert_loop, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    store = Checkpoints(tmp_path / "store", "f")
    trainer = ExpertTrainer(foundation(), expert_config(), optimization(), ProcessGroup(), found, store)
    for now, count in ((expert_loop.CHECKPOINT_SECONDS - 1, 0), (expert_loop.CHECKPOINT_SECONDS, 1)):
        seconds[0] = now
        trainer._save_at_times()
        assert len(list(tmp_path.glob("store/f/*"))) == count
    trainer.learner.steps = 5
    trainer._save_at_times()  # just saved
    assert len(list(tmp_path.glob("store/f/*"))) == 1

    taken: list[int] = []
    monkeypatch.setattr(trainer.learner, "state", lambda: taken.append(trainer.learner.steps) or {})
    for said, count in (
        (False, 0),
        (True, 1),
    ):  # tables are put together when the leader's clock says so, not one's own
        trainer.group = Follower(rank=1, size=2, said=said)
        seconds[0] *= 1 if said else 3
        trainer._save_at_times()
        assert len(taken) == count
    assert len(list(tmp_path.glob("store/f/*"))) == 1


def test_an_expert_starts_as_its_foundations_heads(tmp_path: Path) -> None:
    source = foundation()
    trainer = ExpertTrainer(source, expert_config(), optimization(), ProcessGroup(), examples(tmp_path, whole()))
    example = next(iter(trainer.examples.over(trainer.examples.prequential)))
    scored = score_expert(trainer.model, example.requests, example.tae, ITEMS, ProcessGroup())
    with torch.no_grad():
        expected = source.model.heads(torch.from_numpy(example.tae.values).float())[:, 1:]  # "like"
    np.testing.assert_allclose(scored.logits, expected.numpy(), rtol=1e-5)


def test_the_last_phase_measures_each_batch_before_it_is_learned_and_sets_the_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examples(tmp_path, whole())
    trainer = ExpertTrainer(foundation(), expert_config(), optimization(), ProcessGroup(), found)
    order: list[tuple[str, int]] = []
    add, step = trainer.share.add, trainer.learner.step
    monkeypatch.setattr(trainer.share, "add", lambda *given: (order.append(("scored", len(given[1]))), add(*given)))
    monkeypatch.setattr(trainer.learner, "step", lambda *given: (order.append(("learned", 0)), step(*given)))
    monkeypatch.setattr(ShareSearch, "best", lambda _: torch.tensor([0.3]))
    model = trainer.train()
    assert order == [("learned", 0)] * 3 + [("scored", 4), ("learned", 0), ("scored", 2), ("learned", 0)]
    assert trainer.share.sums[0, 0] == len(on_reels(4, 5))
    assert model.learned_share.tolist() == pytest.approx([0.3])


def test_where_a_label_waits_longer_than_half_of_the_tail_the_newer_half_of_the_first_epoch_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    rows.available_at[:] += 2 * HOUR  # of the tail's older half none is known when the newer one begins
    found = examples(tmp_path, stream_of(rows, HOURS))
    assert not list(found.learned(found.last_phase))
    trainer = ExpertTrainer(foundation(), expert_config(), optimization(epochs=2), ProcessGroup(), found)
    scored: list[int] = []
    add = trainer.earlier.add
    monkeypatch.setattr(trainer.earlier, "add", lambda *given: (scored.append(trainer.learner.steps), add(*given)))
    monkeypatch.setattr(trainer.share, "add", lambda *_: pytest.fail("there is nothing to score"))
    trainer.train()
    steps = trainer.learner.steps // 2
    assert scored
    assert min(scored) > 0
    assert max(scored) == steps - 1
    assert trainer.earlier.sums[0, 0] > 0
