"""The availability rule, anchored windows, and requests as batches: vectorised code against plain loops."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from data_builders import ITEMS, START, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_model.features import Request, collate
from recast_model.history import anchored_start
from recast_model.snapshot import HistorySnapshot
from recast_trainer.data.histories import EventLog, known_after_the_request
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
        and given_rows.available_at[i] < time
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
    starts, lengths = log.histories.window(np.array([user]), np.array([1]), np.array([START + time]), 1000)
    expected = visible(all_rows, user, START + time, 1 if by_surface else None)
    place = {int(row): i for i, row in enumerate(all_rows.row_ids)}
    window = log.histories.events.take(slice(int(starts[0]), int(starts[0] + lengths[0])))
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
    whole, lengths = log.histories.window(
        np.array([1, 1]), np.zeros(2, np.int64), START + np.array([time, time]), limit
    )
    first, _ = log.histories.window(np.array([1]), np.zeros(1, np.int64), START + np.array([time]), 10_000)
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
    assert len(log.histories) == 0
    assert log.histories.window(np.array([1]), np.array([0]), np.array([START + 99]), 8)[1].tolist() == [0]


def test_where_every_row_is_an_event_one_without_action_is_history_too() -> None:
    log = EventLog(ITEMS, engagements_only=False)
    log.add(rows([(1, 0, 100, 0, 0)], label=0))
    assert log.histories.events.actions.tolist() == [0]
    assert log.histories.window(np.array([1]), np.array([0]), np.array([START + 99]), 8)[1].tolist() == [1]


def test_an_event_whose_label_comes_late_is_hidden_until_then_and_stands_at_its_arrival() -> None:
    log = EventLog(ITEMS)
    log.add(rows([(1, 0, 100, 0, 50), (1, 0, 101, 10, 5)]))
    seen = {}
    for time in (15, 16, 50, 51):
        (start,), (length,) = log.histories.window(np.array([1]), np.array([0]), np.array([START + time]), 8)
        seen[time] = log.histories.events.items[start : start + length].tolist()
    assert seen == {15: [], 16: [2], 50: [2], 51: [2, 1]}


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.integers(0, 600), st.integers(1, 12))
def test_a_snapshot_answers_as_the_log_does_at_its_instant(
    events: list[tuple[int, int, int, int, int]], time: int, limit: int
) -> None:
    log = EventLog(ITEMS)
    log.add(rows(events))
    snapshot = HistorySnapshot.of(log.histories, limit, START + time)
    for user in range(1, 6):
        (start,), (length,) = log.histories.window(np.array([user]), np.array([0]), np.array([START + time]), limit)
        assert snapshot.lookup(user).times.tolist() == log.histories.events.times[start : start + length].tolist()


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.integers(0, 600), st.integers(1, 12), st.integers(0, 1))
def test_a_snapshot_of_one_surface_answers_as_the_log_by_surface_does(
    events: list[tuple[int, int, int, int, int]], time: int, limit: int, surface: int
) -> None:
    log = EventLog(ITEMS, by_surface=True)
    log.add(rows(events))
    snapshot = HistorySnapshot.of(log.histories, limit, START + time, surface)
    for user in range(1, 6):
        (start,), (length,) = log.histories.window(
            np.array([user]), np.array([surface]), np.array([START + time]), limit
        )
        assert snapshot.lookup(user).times.tolist() == log.histories.events.times[start : start + length].tolist()


@pytest.mark.parametrize(("by_surface", "surface"), [(True, None), (False, 0)])
def test_a_snapshot_is_of_the_histories_that_its_version_reads(by_surface: bool, surface: int | None) -> None:
    with pytest.raises(ValueError, match="a snapshot of one surface"):
        HistorySnapshot.of(EventLog(ITEMS, by_surface=by_surface).histories, 4, START, surface)


@settings(max_examples=60, deadline=None)
@given(EVENTS.filter(bool), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_the_trainers_batch_is_the_servers_batch_whatever_the_labels_delays(
    events: list[tuple[int, int, int, int, int]], limit: int, by_surface: bool, random: Random
) -> None:
    """The server is given all events of the user, the future's too, in any order: the rule alone decides."""
    distinct = list({(event[0], event[3] + event[4]): event for event in events}.values())  # of a tie no order is told
    all_rows = rows(distinct)
    log = EventLog(ITEMS, by_surface=by_surface)
    log.add(all_rows)
    table = RequestTable(all_rows, ITEMS)
    index = np.arange(len(table))
    trained = table.batch(index, log, limit)
    requests = []
    for row in table.starts[index]:
        of_user = np.flatnonzero(log.histories.users == table.rows.users[row])
        random.shuffle(shuffled := of_user.tolist())
        given_history = log.histories.events.take(np.array(shuffled, np.int64))
        user, surface, time = (int(v[row]) for v in (table.rows.users, table.rows.surfaces, table.rows.event_times))
        requests.append(Request(user, surface, time, table.item_index[row : row + 1], given_history))
    served = collate(requests, limit, surface_only=by_surface)
    for name in served.__dataclass_fields__:
        if getattr(served, name) is not None:
            np.testing.assert_array_equal(getattr(trained, name), getattr(served, name), err_msg=name)


def test_a_request_never_sees_its_own_answers_however_soon_they_are_known() -> None:
    """Three rows of one request, shown 0, 5 and 9 ms after its start; each label is known at once."""
    made = rows([(1, 0, 100, 100, 0), (1, 0, 101, 105, 0), (1, 0, 102, 109, 0), (1, 0, 103, 120, 0)])
    together = Rows(**{**vars(made), "request_ids": np.array([7, 7, 7, 8], np.int64)})
    log = EventLog(ITEMS)
    log.add(together)
    batch = RequestTable(together, ITEMS).batch(np.arange(4), log, 8)
    assert batch.history_lengths.tolist() == [0, 0, 0, 3]


def test_rows_of_other_users_and_requests_do_not_delay_what_is_known() -> None:
    made = rows([(1, 0, 100, 0, 5), (1, 0, 103, 30, 40), (2, 0, 101, 50, 0), (1, 0, 102, 60, 0)])
    alike = Rows(**{**vars(made), "request_ids": np.array([7, 7, 7, 8], np.int64)})
    assert (known_after_the_request(alike) - START).tolist() == [30, 70, 50, 60]
    assert known_after_the_request(rows([])).tolist() == []


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


def test_of_rows_known_at_one_instant_the_lower_id_is_first_however_the_log_was_filled() -> None:
    made = rows([(1, 0, 100, 0, 9), (1, 0, 101, 3, 6), (1, 0, 102, 5, 4)])
    for order in ([0, 1, 2], [2, 0, 1]):
        log = EventLog(ITEMS)
        for row in order:
            log.add(made.take(np.array([row])))
        assert log.histories.events.items.tolist() == [1, 2, 3]
