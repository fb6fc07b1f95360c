"""The availability rule, anchored windows, and requests as batches: vectorised code against plain loops."""

from __future__ import annotations

import numpy as np
from data_builders import ITEMS, START, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_model.features import History, Request, anchored_start, collate
from recast_trainer.data.histories import EventLog
from recast_trainer.data.requests import RequestTable
from recast_trainer.data.schema import Rows

EVENT = st.tuples(
    st.integers(1, 4),
    st.integers(0, 1),
    st.integers(98, 141),
    st.integers(0, 300),
    st.sampled_from([0, 1, 7, 100, 400]),
)
EVENTS = st.lists(EVENT, max_size=40)


def visible(given_rows: Rows, user: int, time: int, surface: int | None) -> list[tuple[int, int]]:
    """(available_at, row_id) of what a request may see, by a loop."""
    return sorted(
        (int(given_rows.available_at[i]), int(given_rows.row_ids[i]))
        for i in range(len(given_rows))
        if given_rows.users[i] == user
        and given_rows.available_at[i] <= time
        and surface in (None, int(given_rows.surfaces[i]))
    )


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 5), st.integers(0, 800), st.booleans(), st.integers(0, 3))
def test_a_request_sees_exactly_the_events_that_were_available(
    events: list[tuple[int, int, int, int, int]], user: int, time: int, by_surface: bool, parts: int
) -> None:
    all_rows = rows(events)
    log = EventLog(ITEMS, by_surface=by_surface)
    for part in np.array_split(np.arange(len(all_rows)), parts + 1):  # the same log, however it was filled
        log.add(all_rows.take(part))
    starts, lengths = log.window(np.array([user]), np.array([1]), np.array([START + time]), 1000)
    expected = visible(all_rows, user, START + time, 1 if by_surface else None)
    place = {int(row): i for i, row in enumerate(all_rows.row_ids)}
    window = log.events.take(slice(int(starts[0]), int(starts[0] + lengths[0])))
    index = [place[row] for _, row in expected]
    assert window.times.tolist() == all_rows.event_times[index].tolist()
    assert window.items.tolist() == ITEMS.index(all_rows.items[index]).tolist()
    assert window.surfaces.tolist() == all_rows.surfaces[index].tolist()


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 600), st.integers(1, 12))
def test_a_window_only_grows_at_its_end_between_anchors(
    events: list[tuple[int, int, int, int, int]], time: int, limit: int
) -> None:
    log = EventLog(ITEMS)
    log.add(rows(events))
    whole, lengths = log.window(np.array([1, 1]), np.zeros(2, np.int64), START + np.array([time, time]), limit)
    first, _ = log.window(np.array([1]), np.zeros(1, np.int64), START + np.array([time]), 10_000)
    assert lengths[0] <= limit
    assert (whole[0] - first[0]) % max(1, limit // 4) == 0


@given(st.integers(0, 5000), st.integers(1, 600))
def test_an_anchored_window_keeps_at_most_the_limit_and_at_least_three_quarters_of_it(total: int, limit: int) -> None:
    start = int(anchored_start(np.asarray(total), limit))
    kept = total - start
    assert kept <= limit
    assert kept >= min(total, limit - max(1, limit // 4) + 1)
    assert start == 0 or start % max(1, limit // 4) == 0


def test_an_impression_without_any_action_is_no_history() -> None:
    log = EventLog(ITEMS)
    log.add(rows([(1, 0, 100, 0, 0)], label=0))
    assert len(log) == 0
    assert log.window(np.array([1]), np.array([0]), np.array([START + 99]), 8)[1].tolist() == [0]


def test_where_every_row_is_an_event_one_without_action_is_history_too() -> None:
    log = EventLog(ITEMS, engagements_only=False)
    log.add(rows([(1, 0, 100, 0, 0)], label=0))
    assert log.events.actions.tolist() == [0]
    assert log.window(np.array([1]), np.array([0]), np.array([START + 99]), 8)[1].tolist() == [1]


def test_an_event_whose_label_comes_late_is_hidden_until_then_and_stands_at_its_arrival() -> None:
    log = EventLog(ITEMS)
    log.add(rows([(1, 0, 100, 0, 50), (1, 0, 101, 10, 5)]))
    seen = {}
    for time in (14, 15, 49, 50):
        (start,), (length,) = log.window(np.array([1]), np.array([0]), np.array([START + time]), 8)
        seen[time] = log.events.items[start : start + length].tolist()
    assert seen == {14: [], 15: [2], 49: [2], 50: [2, 1]}


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.integers(0, 600), st.integers(1, 12))
def test_a_snapshot_answers_as_the_log_does_at_its_instant(
    events: list[tuple[int, int, int, int, int]], time: int, limit: int
) -> None:
    log = EventLog(ITEMS)
    log.add(rows(events))
    snapshot = log.snapshot(limit, START + time)
    for user in range(1, 6):
        (start,), (length,) = log.window(np.array([user]), np.array([0]), np.array([START + time]), limit)
        assert snapshot.lookup(user).times.tolist() == log.events.times[start : start + length].tolist()


def test_the_trainers_batch_is_the_servers_batch() -> None:
    events = [(user, k % 2, 100 + k, 10 * k, 3) for k in range(20) for user in (1, 2)]
    all_rows = rows(events)
    log = EventLog(ITEMS)
    log.add(all_rows)
    table = RequestTable(all_rows, ITEMS)
    index = np.array([3, 30, 39])
    trained = table.batch(index, log, 8)
    requests = []
    for i in index:
        row = int(table.starts[i])
        user, time = int(table.rows.users[row]), int(table.rows.event_times[row])
        (start,), (length,) = log.window(np.array([user]), np.array([0]), np.array([time]), 10_000)
        whole: History = log.events.take(slice(int(start), int(start + length)))
        requests.append(Request(user, int(table.rows.surfaces[row]), time, table.item_index[row : row + 1], whole))
    served = collate(requests, 8)
    for name in served.__dataclass_fields__:
        if getattr(served, name) is not None:
            np.testing.assert_array_equal(getattr(trained, name), getattr(served, name), err_msg=name)


def test_an_experts_batch_holds_its_own_surface_alone() -> None:
    events = [(1, k % 2, 100 + k, 10 * k, 3) for k in range(20)]
    log = EventLog(ITEMS, by_surface=True)
    log.add(rows(events))
    batch = RequestTable(rows(events), ITEMS).batch(np.arange(20), log, 8)
    valid = np.arange(batch.history_items.shape[1]) < batch.history_lengths[:, None]
    assert valid.any()
    assert (batch.history_surfaces == batch.surfaces[:, None])[valid].all()


def test_rows_of_one_request_become_one_slate_with_their_own_labels() -> None:
    all_rows = rows([(1, 0, 100, 5, 1), (1, 0, 101, 5, 1), (1, 0, 102, 9, 1)])
    together = Rows(**{**vars(all_rows), "request_ids": np.array([7, 7, 8], np.int64)})
    together.labels[1, 1] = 1
    table = RequestTable(together, ITEMS)
    batch = table.batch(np.array([0, 1]), EventLog(ITEMS), 4)
    assert len(table) == 2
    assert batch.candidates.tolist() == [[1, 2], [3, 0]]
    assert batch.candidate_mask.tolist() == [[True, True], [True, False]]
    assert batch.labels is not None
    assert batch.label_mask is not None
    assert batch.labels[0, :, 1].tolist() == [0, 1]
    assert not batch.label_mask[1, 1].any()
    assert batch.row_ids is not None
    assert batch.row_ids.tolist() == [[1, 2], [3, 0]]


def test_requests_stand_in_time_order_whatever_their_ids() -> None:
    made = rows([(1, 0, 100, 5, 1), (2, 0, 101, 9, 1), (1, 1, 102, 9, 1), (3, 0, 103, 7, 1)])
    table = RequestTable(Rows(**{**vars(made), "request_ids": np.array([9, 3, 7, 1], np.int64)}), ITEMS)
    first = table.rows.take(table.starts)
    assert (first.event_times - START).tolist() == [5, 7, 9, 9]
    assert first.request_ids.tolist() == [9, 3, 1, 7]  # of two at once the lower id is first
    assert len(table) == 4


def test_a_request_id_whose_rows_disagree_is_several_requests() -> None:
    made = rows([(1, 0, 100, 5, 1), (1, 0, 101, 5, 1), (2, 0, 102, 5, 1), (2, 1, 103, 5, 1), (2, 1, 104, 6, 1)])
    table = RequestTable(Rows(**{**vars(made), "request_ids": np.full(5, 7, np.int64)}), ITEMS)
    assert table.counts.tolist() == [2, 1, 1, 1]
    assert table.on_surface(1).tolist() == [2, 3]


def test_empty_rows_make_an_empty_table() -> None:
    assert len(RequestTable(rows([]), ITEMS)) == 0
