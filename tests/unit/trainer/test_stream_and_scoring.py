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
    stream_of,
)

from recast_api.run import DataRef, RecastError
from recast_model.batch import RequestBatch
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.inference import embed, embed_and_predict
from recast_trainer.clock import to_rfc3339
from recast_trainer.data.schema import Rows
from recast_trainer.data.writing import DatasetWriter
from recast_trainer.evaluation import scoring
from recast_trainer.evaluation.scoring import absent, computed, logged, score_expert, score_foundation
from recast_trainer.tae.log import TaeIndex, TaeRows
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.split import split
from recast_trainer.training.stream import Stream, open_stream

ALONE, CPU = ProcessGroup(), torch.device("cpu")
HOURS, PER_HOUR = 3, 5


@pytest.fixture
def stream() -> Stream:
    return stream_of(hand_rows(HOURS, PER_HOUR), HOURS)


def foundation(stream: Stream) -> FoundationModel:
    torch.manual_seed(0)
    return FoundationModel(foundation_config(), torch.from_numpy(stream.items.content_matrix())).eval()


def expert(stream: Stream) -> ExpertModel:
    torch.manual_seed(0)
    return ExpertModel(expert_config(), torch.from_numpy(stream.items.content_matrix())).eval()


def test_a_segment_holds_the_requests_from_its_first_instant_to_before_the_nexts(stream: Stream) -> None:
    assert [stream.requests(index).tolist() for index in range(3)] == [[*range(5)], [*range(5, 10)], [*range(10, 15)]]
    rows = hand_rows(HOURS, PER_HOUR)
    last = rows.event_times == START + HOUR - HOUR // PER_HOUR  # moved to the last instant of its hour
    moved = replace(rows, event_times=np.where(last, START + HOUR - 1, rows.event_times))
    assert stream_of(moved, HOURS).requests(0).tolist() == [*range(5)]
    over = replace(rows, event_times=np.where(last, START + HOUR, rows.event_times))
    assert stream_of(over, HOURS).requests(0).tolist() == [*range(4)]
    assert stream.requests_from(1).tolist() == [*range(5, 15)]
    assert stream.end == START + HOURS * HOUR


def test_a_request_matures_with_the_last_of_its_rows() -> None:
    rows = hand_rows(1, 3)
    available = rows.available_at.copy()
    available[2] += 7_000
    assert (stream_of(replace(rows, available_at=available), 1).matured - rows.event_times[::2]).tolist() == [
        1000, 8000, 1000,
    ]  # fmt: skip


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
    assert (stream.matured - rows.event_times[::2]).tolist()[:3] == [1000, 8000, 1000]
    acted = int((rows.labels > 0).any(1).sum())
    assert 0 < acted < len(rows)
    assert len(stream.log.histories) == (acted if history == "Engagements" else len(rows))
    last = open_stream(tmp_path, DataRef(path="unread", window="2h", until=to_rfc3339(START + 3 * HOUR - 1)))
    assert [segment.start for segment in last.segments] == [START, START + HOUR]


def test_rows_of_requests_come_request_after_request_in_the_order_asked(stream: Stream) -> None:
    assert stream.rows_of(np.array([4, 0, 9])).tolist() == [8, 9, 0, 1, 18, 19]
    assert stream.rows_of(np.empty(0, np.int64)).tolist() == []


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 2), (5, 2), (7, 3), (2, 4), (100, 7)])
def test_shards_are_contiguous_together_whole_and_even_to_one(count: int, size: int) -> None:
    things = np.arange(count)
    parts = [ProcessGroup(rank, size).shard(things) for rank in range(size)]
    assert np.concatenate(parts).tolist() == things.tolist()
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_process_for_which_no_request_is_left_takes_part_with_one_that_counts_nothing(stream: Stream) -> None:
    requests = np.array([3])
    index, batch = stream.shard(requests, 6, ProcessGroup(1, 2))
    assert index.tolist() == [3]
    assert batch.label_mask is not None
    assert batch.label_mask.any()
    index, batch = stream.shard(requests, 6, ProcessGroup(0, 2))
    assert index.tolist() == [3]
    assert batch.label_mask is not None
    assert not batch.label_mask.any()


def test_only_the_first_process_leads_and_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        ProcessGroup(rank, 2).log(f"from {rank}")
    assert capsys.readouterr().out == "from 0\n"
    assert [ProcessGroup(rank, 2).is_leader for rank in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("segments", "learn", "held_out"),
    [(4, 2, 3), (7, 5, 6), (10, 8, 9), (12, 10, 11), (13, 10, 12), (20, 16, 18), (72, 58, 65)],
)
def test_the_tail_is_the_newest_fifth_and_its_newer_half_is_held_out(segments: int, learn: int, held_out: int) -> None:
    found = split(segments)
    assert (found.learn, found.held_out, found.end) == (learn, held_out, segments)


def test_three_segments_are_too_few() -> None:
    with pytest.raises(RecastError, match=r"3 segments of data are too few.*at least 4") as caught:
        split(3)
    assert caught.value.termination.reason == "DataTooShort"


@pytest.mark.parametrize("micro_batch", [1, 4, 64])
def test_scored_rows_are_the_requests_rows_in_order_however_they_are_batched(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    monkeypatch.setattr(scoring, "MICRO_BATCH", micro_batch)
    model, requests = foundation(stream), np.array([12, 3, 0, 7, 14])
    found, tae = score_foundation(model, stream, requests, ALONE)
    assert found.row_ids.tolist() == [25, 26, 7, 8, 1, 2, 15, 16, 29, 30]
    rows = stream.table.rows.take(found.row_ids - 1)
    for name in ("users", "surfaces", "available_at"):
        assert getattr(found, name).tolist() == getattr(rows, name).tolist(), name
    assert found.labels.tolist() == rows.labels.tolist()
    assert found.mask.tolist() == rows.label_mask.tolist()
    for place, request in enumerate(requests):
        mine = slice(place * SLATE, (place + 1) * SLATE)
        embedded, logits = embed_and_predict(model, stream.batch(np.array([request]), 6, ALONE))
        np.testing.assert_allclose(tae[mine], embedded[0].numpy(), atol=2e-3)
        np.testing.assert_allclose(found.logits[mine], logits[0].numpy(), atol=1e-5)
    assert tae.dtype == np.float16


def test_slates_of_different_lengths_give_their_own_rows_and_no_padding() -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    stream = stream_of(rows.take(~np.isin(rows.row_ids, (2, 8))), HOURS)
    found, _ = score_foundation(foundation(stream), stream, np.array([0, 1, 3]), ALONE)
    assert found.row_ids.tolist() == [1, 3, 4, 7]
    assert len(found.logits) == 4


def test_no_requests_give_no_rows(stream: Stream) -> None:
    found, tae = score_foundation(foundation(stream), stream, np.empty(0, np.int64), ALONE)
    assert len(found.row_ids) == len(tae) == 0


def test_an_expert_is_scored_on_its_own_tasks_labels(stream: Stream) -> None:
    found = score_expert(expert(stream), stream, np.array([1, 3]), absent(4), ALONE)
    rows = stream.table.rows.take(np.array([2, 3, 6, 7]))
    assert found.labels.tolist() == rows.labels[:, 1:].tolist()  # "like" is the data's second task
    assert found.mask.tolist() == rows.label_mask[:, 1:].tolist()
    assert found.logits.shape == (4, 1)


def index_of(rows: Rows, *, without: int = 0) -> TaeIndex:
    ids = rows.row_ids[rows.row_ids != without]
    tae = np.repeat(ids[:, None], 4, 1).astype(np.float16)
    return TaeIndex(TaeRows(ids, np.full(len(ids), START * 2), np.zeros(len(ids), np.int64), tae))


def test_logged_tae_are_each_rows_own_and_a_request_with_a_row_missing_has_none(stream: Stream) -> None:
    requests = np.array([0, 2, 4])
    batch = stream.batch(requests, 6, ALONE)
    tae, present = logged(index_of(stream.table.rows, without=6), CPU)(batch, requests)
    assert present.tolist() == [True, False, True]  # row 6 is the second of request 2
    assert tae[..., 0].tolist() == [[1, 2], [5, 0], [9, 10]]


def test_padding_of_a_short_slate_is_no_missing_row(stream: Stream) -> None:
    batch = stream.batch(np.array([0, 1]), 6, ALONE)
    mask = torch.tensor([[True, False], [True, True]])
    assert batch.row_ids is not None
    short = replace(batch, candidate_mask=mask, row_ids=torch.where(mask, batch.row_ids, 0))
    _, present = logged(index_of(stream.table.rows), CPU)(short, np.array([0, 1]))
    assert present.tolist() == [True, True]


def test_padding_is_not_taken_for_the_row_whose_id_is_nought() -> None:
    rows = hand_rows(1, 2)
    rows = replace(rows, row_ids=rows.row_ids - 1).take(np.array([0, 1, 2]))
    stream, requests = stream_of(rows, 1), np.array([0, 1])
    tae, present = logged(index_of(rows, without=-1), CPU)(stream.batch(requests, 6, ALONE), requests)
    assert present.tolist() == [True, True]
    assert tae[..., 0].tolist() == [[0, 1], [2, 0]]


def test_a_logged_tae_made_at_or_after_its_label_is_refused_when_it_is_read(stream: Stream) -> None:
    rows = stream.table.rows
    requests = np.array([0])
    batch = stream.batch(requests, 6, ALONE)
    for cursor, refused in ((rows.available_at[1] - 1, False), (rows.available_at[1], True)):
        cursors = np.where(rows.row_ids == 2, cursor, 0)
        index = TaeIndex(
            TaeRows(rows.row_ids, rows.available_at + 10**9, cursors, np.zeros((len(rows), 4), np.float16))
        )
        if refused:
            with pytest.raises(RecastError, match="1 of 2 TAE rows were made after their label"):
                logged(index, CPU)(batch, requests)
        else:
            assert logged(index, CPU)(batch, requests)[1].all()


def test_computed_tae_are_the_foundations_for_the_same_requests_and_absent_ones_are_nowhere(stream: Stream) -> None:
    model, requests = foundation(stream), np.array([4, 1])
    batch = stream.batch(requests, 6, ALONE)
    tae, present = computed(model, stream, ALONE)(batch, requests)
    assert torch.equal(tae, embed(model, batch))
    assert present.tolist() == [True, True]
    tae, present = absent(4)(batch, requests)
    assert tae.shape == (2, SLATE, 4)
    assert not tae.any()
    assert present.tolist() == [False, False]


def test_the_same_requests_are_read_by_another_versions_items_and_by_surface(stream: Stream) -> None:
    other = stream.items.__class__(stream.items.ids[::2], stream.items.content[::2])
    read = stream.with_items(other, by_surface=True)
    requests = np.arange(15)
    batch, own = stream.batch(requests, 6, ALONE), read.batch(requests, 6, ALONE)
    assert own.candidates.flatten().tolist() == other.index(stream.table.rows.items).tolist()

    def surfaces(of: RequestBatch) -> list[set[int]]:
        return [set(of.history_surfaces[b, : of.history_lengths[b]].tolist()) for b in range(15)]

    assert {0, 1} in surfaces(batch)
    assert all(seen <= {int(surface)} for seen, surface in zip(surfaces(own), own.surfaces, strict=True))
    assert read.matured is stream.matured
    shipped = read.snapshot(6, surface=1)
    assert set(shipped.events.surfaces.tolist()) == {1}
    assert set(stream.snapshot(6).events.surfaces.tolist()) == {0, 1}
    assert shipped.until == stream.snapshot(6).until == stream.end
    assert DATASET.surface_names == ("feed", "reels")


def test_base_rates_are_counted_by_surface_and_task_among_the_labels_that_are_known(stream: Stream) -> None:
    rates = stream.base_rates(np.arange(9))
    rows = stream.table.rows.take(stream.rows_of(np.arange(9)))
    for surface in range(2):
        for task in range(rows.labels.shape[1]):
            known = rows.labels[(rows.surfaces == surface) & rows.label_mask[:, task], task]
            expected = (known.sum() + 0.5) / (len(known) + 1) if len(known) else float("nan")
            assert float(rates[surface, task]) == pytest.approx(expected, nan_ok=True)
    assert stream.base_rates(np.arange(0)).isnan().all()
