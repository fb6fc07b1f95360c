"""Requests by segment, shares of work, and rows through a model as it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_builders import (
    DATASET,
    HOUR,
    ITEMS,
    SLATE,
    START,
    expert_config,
    foundation_config,
    hand_rows,
    requests_of,
    stream_of,
)

from recast_api.run import DataRef, RecastError
from recast_model.artifact import ExpertBundle, FoundationBundle
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.inference import embed, embed_and_predict
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_trainer.clock import to_rfc3339
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Rows
from recast_trainer.data.segments import Segment
from recast_trainer.data.writing import DatasetWriter
from recast_trainer.evaluation import scoring
from recast_trainer.evaluation.scoring import (
    RequestTae,
    absent,
    computed,
    logged,
    score_expert,
    score_foundation,
    score_pair,
)
from recast_trainer.tae.log import TaeIndex, TaeRows
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.split import split
from recast_trainer.training.stream import Stream, on_device, open_stream, shard

ALONE = ProcessGroup()
HOURS, PER_HOUR = 3, 5


@pytest.fixture
def stream() -> Stream:
    return stream_of(hand_rows(HOURS, PER_HOUR), HOURS)


@pytest.fixture
def requests(stream: Stream) -> Requests:
    return requests_of(stream)


def foundation() -> FoundationModel:
    torch.manual_seed(0)
    return FoundationModel(foundation_config(), torch.from_numpy(ITEMS.content_matrix())).eval()


def expert() -> ExpertModel:
    torch.manual_seed(0)
    return ExpertModel(expert_config(), torch.from_numpy(ITEMS.content_matrix())).eval()


def test_a_segment_holds_the_requests_from_its_first_instant_to_before_the_nexts(stream: Stream) -> None:
    assert [len(found) for _, found in stream.walk(6)] == [5, 5, 5]
    assert [index for index, _ in stream.walk(6)] == [0, 1, 2]
    assert stream.end == START + HOURS * HOUR


def test_a_request_matures_with_the_last_of_its_rows() -> None:
    rows = hand_rows(1, 3)
    available = rows.available_at.copy()
    available[2] += 7_000
    found = requests_of(stream_of(replace(rows, available_at=available), 1))
    assert (found.matured - found.times).tolist() == [1000, 8000, 1000]


@pytest.mark.parametrize("history", ["Engagements", "Events"])
def test_a_stream_read_from_files_matures_and_remembers_as_the_data_set_says(tmp_path: Path, history: str) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    available = rows.available_at.copy()
    available[2] += 7_000
    writer = DatasetWriter(tmp_path, DATASET.model_copy(update={"history": history}))
    writer.items(ITEMS)
    for start in range(START, START + HOURS * HOUR, HOUR):
        keep = (rows.event_times >= start) & (rows.event_times < start + HOUR)
        writer.segment(start, replace(rows, available_at=available).take(keep))
    writer.finish()
    stream = open_stream(tmp_path, DataRef(path="unread"))
    walk = stream.walk(100)
    found = Requests.concatenate([part for _, part in walk])
    assert (found.matured - found.times).tolist()[:3] == [1000, 8000, 1000]
    acted = int((rows.labels > 0).any(1).sum())
    assert 0 < acted < len(rows)
    assert len(walk.snapshot(ITEMS).events) == (acted if history == "Engagements" else len(rows))
    last = open_stream(tmp_path, DataRef(path="unread", window="2h", until=to_rfc3339(START + 3 * HOUR - 1)))
    assert [segment.start for segment in last.segments] == [START, START + HOUR]


def test_a_data_set_without_rows_cannot_be_opened(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, DATASET)
    writer.items(ITEMS)
    writer.segment(START, hand_rows(1, 1).take(slice(0)))
    writer.finish()
    with pytest.raises(RecastError, match=r"the 1 segments of .* hold no rows") as caught:
        open_stream(tmp_path, DataRef(path="unread"))
    assert caught.value.termination.reason == "DataNotFound"


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 2), (5, 2), (7, 3), (2, 4), (100, 7)])
def test_shards_are_contiguous_together_whole_and_even_to_one(count: int, size: int) -> None:
    things = np.arange(count)
    parts = [ProcessGroup(rank, size).shard(things) for rank in range(size)]
    assert np.concatenate(parts).tolist() == things.tolist()
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_process_for_which_no_request_is_left_takes_part_with_one_that_counts_nothing(requests: Requests) -> None:
    one = requests.take(np.array([3]))
    index, batch = shard(one, ITEMS, ProcessGroup(1, 2))
    assert (index.tolist(), batch.users.tolist()) == ([0], one.rows.users[:1].tolist())
    assert batch.label_mask is not None
    assert batch.label_mask.any()
    index, batch = shard(one, ITEMS, ProcessGroup(0, 2))
    assert index.tolist() == [0]
    assert batch.label_mask is not None
    assert not batch.label_mask.any()


def test_a_shard_names_its_requests_by_their_place_in_the_global_batch(requests: Requests) -> None:
    for rank, places in ((0, [0, 1]), (1, [2, 3, 4])):
        index, batch = shard(requests.take(slice(5)), ITEMS, ProcessGroup(rank, 2))
        assert index.tolist() == places
        assert batch.request_times.tolist() == requests.times[places].tolist()


def test_only_the_first_process_leads_and_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        ProcessGroup(rank, 2).log(f"from {rank}")
    assert capsys.readouterr().out == "from 0\n"
    assert [ProcessGroup(rank, 2).is_leader for rank in (0, 1)] == [True, False]


def hours(*which: int) -> list[Segment]:
    return [Segment(Path("unread"), str(hour), START + hour * HOUR, START + (hour + 1) * HOUR) for hour in which]


@pytest.mark.parametrize(
    ("segments", "learn", "held_out"),
    [(4, 2, 3), (7, 5, 6), (10, 8, 9), (12, 10, 11), (13, 10, 12), (20, 16, 18), (72, 58, 65),
     (120, 96, 108), (124, 100, 112), (720, 696, 708)],
)  # fmt: skip
def test_the_tail_is_the_newest_fifth_up_to_a_day_of_hours_and_its_newer_half_is_held_out(
    segments: int, learn: int, held_out: int
) -> None:
    found = split(hours(*range(segments)))
    assert (found.learn, found.held_out, found.end) == (learn, held_out, segments)


@pytest.mark.parametrize(
    ("tail_minutes", "learn", "held_out"),
    [(120, 8, 9), (179, 8, 9), (180, 7, 9), (240, 6, 8), (479, 3, 7), (480, 2, 6), (539, 2, 6)],
)
def test_a_tail_that_was_ordered_is_the_segments_that_lie_whole_within_it(
    tail_minutes: int, learn: int, held_out: int
) -> None:
    found = split(hours(*range(10)), tail_minutes * 60_000)
    assert (found.learn, found.held_out, found.end) == (learn, held_out, 10)


@pytest.mark.parametrize(
    ("there", "learn"), [((0, 1, 2, 3, 5, 7), 4), ((0, 1, 2, 3, 4, 9), 4), ((0, 1, 5, 6, 7, 8), 3)]
)
def test_a_tail_is_counted_in_time_and_the_newest_two_segments_always_belong_to_it(
    there: tuple[int, ...], learn: int
) -> None:
    found = split(hours(*there), 3 * HOUR)
    assert (found.learn, found.end) == (learn, 6)


@pytest.mark.parametrize(
    ("segments", "tail_ms", "reason", "says"),
    [
        (3, None, "DataTooShort", r"3 segments of data are too few.*at least 4"),
        (3, 2 * HOUR, "DataTooShort", r"3 segments of data are too few.*at least 4"),
        (4, 3 * HOUR, "DataTooShort", r"takes 3 of 4 segments and leaves 1 .*at least 2 are needed"),
        (10, 100 * HOUR, "DataTooShort", r"takes 10 of 10 segments and leaves 0"),
        (10, 2 * HOUR - 1000, "TailTooShort", r"is 7199 s; a segment of the data lasts 3600 s.*give 7200s or more"),
    ],
)
def test_data_that_cannot_be_divided_say_what_to_change(
    segments: int, tail_ms: int | None, reason: str, says: str
) -> None:
    with pytest.raises(RecastError, match=says) as caught:
        split(hours(*range(segments)), tail_ms)
    assert caught.value.termination.reason == reason


@pytest.mark.parametrize("micro_batch", [1, 4, 64])
def test_scored_rows_are_the_requests_rows_in_order_however_they_are_batched(
    requests: Requests, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    monkeypatch.setattr(scoring, "MICRO_BATCH", micro_batch)
    requests.rows.available_at[:, 1] += 7  # a row is known with its first label
    model, some = foundation(), requests.take(np.array([12, 3, 0, 7, 14]))
    found, tae = score_foundation(model, some, ITEMS, ALONE)
    assert found.row_ids.tolist() == [25, 26, 7, 8, 1, 2, 15, 16, 29, 30]
    rows = requests.rows.take(found.row_ids - 1)
    assert found.available_at.tolist() == rows.first_known.tolist()
    for name in ("users", "surfaces"):
        assert getattr(found, name).tolist() == getattr(rows, name).tolist(), name
    assert found.labels.tolist() == rows.labels.tolist()
    assert found.mask.tolist() == rows.label_mask.tolist()
    assert found.truth.tobytes() == rows.oracle.tobytes()
    for place in range(5):
        mine = slice(place * SLATE, (place + 1) * SLATE)
        embedded, logits = embed_and_predict(model, on_device(some.take(np.array([place])), ITEMS, ALONE))
        np.testing.assert_allclose(tae[mine], embedded[0].numpy(), atol=2e-3)
        np.testing.assert_allclose(found.logits[mine], logits[0].numpy(), atol=1e-5)
    assert tae.dtype == np.float16


@pytest.mark.parametrize(
    ("count", "size", "rounds"), [(0, 2, 0), (1, 2, 1), (2, 3, 1), (9, 2, 2), (8, 2, 1), (13, 3, 2)]
)
def test_every_process_predicts_equally_often_and_gives_its_own_rows_alone(
    requests: Requests, monkeypatch: pytest.MonkeyPatch, count: int, size: int, rounds: int
) -> None:
    """Rows of tables are asked of all processes: one that has nothing left to score must still answer."""
    monkeypatch.setattr(scoring, "MICRO_BATCH", 4)
    monkeypatch.setattr(ProcessGroup, "gather", lambda _, index, rows: (index, rows))
    model, some = foundation(), requests.take(slice(count))
    whole = scoring.computed(model, some, ITEMS, ALONE).values
    asked: list[int] = []
    embed = scoring.embed
    monkeypatch.setattr(scoring, "embed", lambda *given: asked.append(1) or embed(*given))
    parts = []
    for rank in range(size):
        asked.clear()
        parts.append(scoring.computed(model, some, ITEMS, ProcessGroup(rank, size)).values)
        assert len(asked) == rounds
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-3)


def test_slates_of_different_lengths_give_their_own_rows_and_no_padding() -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    requests = requests_of(stream_of(rows.take(~np.isin(rows.row_ids, (2, 8))), HOURS))
    found, _ = score_foundation(foundation(), requests.take(np.array([0, 1, 3])), ITEMS, ALONE)
    assert found.row_ids.tolist() == [1, 3, 4, 7]
    assert len(found.logits) == 4


def test_no_requests_give_no_rows(requests: Requests) -> None:
    none = requests.take(slice(0))
    found, tae = score_foundation(foundation(), none, ITEMS, ALONE)
    assert len(found.row_ids) == len(tae) == 0
    assert len(score_expert(expert(), none, absent(none, 4), ITEMS, ALONE).row_ids) == 0
    assert len(logged(index_of(requests.rows), none).present) == 0


def test_an_expert_is_scored_on_its_own_tasks_labels(requests: Requests) -> None:
    some = requests.take(np.array([1, 3]))
    found = score_expert(expert(), some, absent(some, 4), ITEMS, ALONE)
    assert found.labels.tolist() == some.rows.labels[:, 1:].tolist()  # "like" is the data's second task
    assert found.mask.tolist() == some.rows.label_mask[:, 1:].tolist()
    assert found.truth.shape == found.logits.shape == (4, 1)


def test_an_expert_is_scored_with_each_requests_own_tae(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    some, model = requests.take(np.arange(5)), expert()
    random = np.random.default_rng(0)
    tae = RequestTae(random.normal(size=(10, 4)).astype(np.float16), np.array([True, False, True, True, False]))
    together = score_expert(model, some, tae, ITEMS, ALONE).logits
    monkeypatch.setattr(scoring, "MICRO_BATCH", 2)
    np.testing.assert_allclose(score_expert(model, some, tae, ITEMS, ALONE).logits, together, atol=1e-6)
    for place in range(5):
        one = some.take(np.array([place]))
        alone = RequestTae(tae.values[2 * place : 2 * place + 2], tae.present[place : place + 1])
        found = score_expert(model, one, alone, ITEMS, ALONE).logits
        np.testing.assert_allclose(found, together[2 * place : 2 * place + 2], atol=1e-6)


def index_of(rows: Rows, *, without: int = 0) -> TaeIndex:
    ids = rows.row_ids[rows.row_ids != without]
    tae = np.repeat(ids[:, None], 4, 1).astype(np.float16)
    return TaeIndex(TaeRows(ids, np.full(len(ids), START * 2), np.zeros(len(ids), np.int64), tae))


def test_logged_tae_are_each_rows_own_and_a_request_with_a_row_missing_has_none(requests: Requests) -> None:
    some = requests.take(np.array([0, 2, 4]))
    found = logged(index_of(requests.rows, without=6), some)
    assert found.present.tolist() == [True, False, True]  # row 6 is the second of request 2
    assert found.values[:, 0].tolist() == [1, 2, 5, 0, 9, 10]
    tae, present = found.on_device(on_device(some, ITEMS, ALONE))
    assert tae[..., 0].tolist() == [[1, 2], [5, 0], [9, 10]]
    assert present.tolist() == [True, False, True]


def test_padding_of_a_short_slate_is_no_row() -> None:
    rows = hand_rows(1, 2)
    rows = replace(rows, row_ids=rows.row_ids - 1).take(np.array([0, 1, 2]))  # one is called 0, as padding is
    requests = requests_of(stream_of(rows, 1))
    found = logged(index_of(rows, without=-1), requests)
    tae, present = found.on_device(on_device(requests, ITEMS, ALONE))
    assert present.tolist() == [True, True]
    assert tae[..., 0].tolist() == [[0, 1], [2, 0]]


def test_a_logged_tae_made_at_or_after_its_label_is_refused_when_it_is_read(requests: Requests) -> None:
    rows = requests.rows
    rows.available_at[3, 1] += 7  # of row 4's two labels the first counts
    for cursor, refused in ((rows.available_at[3, 0] - 1, False), (rows.available_at[3, 0], True)):
        cursors = np.where(rows.row_ids == 4, cursor, 0)
        index = TaeIndex(TaeRows(rows.row_ids, rows.first_known + 10**9, cursors, np.zeros((len(rows), 4), np.float16)))
        if refused:
            with pytest.raises(RecastError, match="1 of 2 TAE rows were made after their label"):
                logged(index, requests.take(np.array([1])))
        else:
            assert logged(index, requests.take(np.array([1]))).present.all()


def test_computed_tae_are_the_foundations_for_the_same_requests_and_absent_ones_are_nowhere(
    requests: Requests,
) -> None:
    model, some = foundation(), requests.take(np.array([4, 1]))
    batch = on_device(some, ITEMS, ALONE)
    tae, present = computed(model, some, ITEMS, ALONE).on_device(batch)
    assert torch.equal(tae, embed(model, batch))
    assert present.tolist() == [True, True]
    tae, present = absent(some, 4).on_device(batch)
    assert tae.shape == (2, SLATE, 4)
    assert not tae.any()
    assert present.tolist() == [False, False]


def test_the_same_requests_are_read_by_another_versions_items(requests: Requests) -> None:
    other = ItemTable(ITEMS.ids[::2], ITEMS.content[::2])
    batch = on_device(requests, other, ALONE)
    assert batch.candidates.flatten().tolist() == other.index(requests.rows.items).tolist()
    known = other.index(requests.history.items)
    assert batch.history_items.sum() == known.sum() > 0


def test_a_pair_is_scored_as_it_serves_each_reading_its_own_items_and_histories(stream: Stream) -> None:
    fewer = ItemTable(ITEMS.ids[::2], ITEMS.content[::2])
    torch.manual_seed(1)
    shorter = replace(foundation_config(), item_count=len(fewer), history_length=4)
    nothing = HistorySnapshot.of(np.empty(0, np.int64), History.empty(), np.empty(0, np.int64), 0)
    tower = FoundationBundle(FoundationModel(shorter, torch.from_numpy(fewer.content_matrix())).eval(), fewer, nothing)
    pair = ExpertBundle(expert(), ITEMS, nothing)
    parts = score_pair(pair, tower, stream, lambda index, slates: np.full(len(slates), index > 0), ALONE)
    assert [len(part.row_ids) for part in parts] == [0, 6, 4]
    whole, own = (requests_of(stream, 1, 2, surface=surface, limit=limit) for surface, limit in ((None, 4), (1, 6)))
    whole = whole.take(whole.surfaces == 1)
    tae = computed(tower.model, whole, fewer, ALONE)
    expected = score_expert(pair.model, own, tae, ITEMS, ALONE)
    found = np.concatenate([part.logits for part in parts])
    np.testing.assert_allclose(found, expected.logits, atol=1e-6)
    assert np.concatenate([part.row_ids for part in parts]).tolist() == own.rows.row_ids.tolist()
