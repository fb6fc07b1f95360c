"""The availability rule, anchored windows, and requests as batches: a stream's segments against plain loops."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from data_builders import ITEMS, START, labelled, requests_of, rows, stream_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recast_api.run import RecastError
from recast_model.features import Request, collate
from recast_model.history import Histories, History, anchored_start
from recast_model.items import ItemTable
from recast_trainer.data import histories
from recast_trainer.data.histories import Events, GrowingHistories, events_of, known_after_the_request
from recast_trainer.data.requests import Requests, Slates
from recast_trainer.data.schema import Rows

Event = tuple[int, int, int, int, int]
EVENTS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(0, 1),
        st.integers(98, 141),
        st.integers(0, 300),
        st.sampled_from([0, 1, 7, 100, 400]),
    ),
    min_size=1,
    max_size=40,
)
LABELS = st.lists(
    st.lists(st.tuples(st.sampled_from([1, 1, 0, -1]), st.sampled_from([0, 1, 7, 100, 400])), min_size=3, max_size=3),
    min_size=40,
    max_size=40,
)
"""Of 40 rows, (label, delay) of each of three tasks; -1 is none."""
CUTS = st.lists(st.integers(1, 400), max_size=5)


def edges(cuts: list[int]) -> list[int]:
    return sorted({0, 1000, *cuts})


Visible = tuple[int, int, int, int]
"""When something became known of a row, the row's id and place, and the actions that became known."""


def became_known(given_rows: Rows, every_row: bool = False) -> list[Visible]:
    """Whatever becomes history, in the order in which it becomes known, by loops over rows and labels."""
    found = []
    for row in range(len(given_rows)):
        labels = np.flatnonzero(given_rows.label_mask[row])
        times = {int(given_rows.available_at[row, task]): 0 for task in labels}
        for task in labels:
            times[int(given_rows.available_at[row, task])] += int(given_rows.labels[row, task]) << int(task)
        if every_row and not len(labels):
            times = {int(given_rows.available_at[row].max()): 0}
        first = min(times, default=0)
        found += [
            (time, int(given_rows.row_ids[row]), row, bits)
            for time, bits in times.items()
            if bits or (every_row and time == first)
        ]
    return sorted(found)


def visible(
    given_rows: Rows, user: int, time: int, surface: int | None, every_row: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """Of the events that a request may see: rows' places, when they became known, and actions."""
    seen = [
        (row, known, bits)
        for known, _, row, bits in became_known(given_rows, every_row)
        if given_rows.users[row] == user and known < time and surface in (None, int(given_rows.surfaces[row]))
    ]
    return [row for row, *_ in seen], [known for _, known, _ in seen], [bits for *_, bits in seen]


def windows(requests: Requests) -> list[History]:
    ends = np.cumsum(requests.history_lengths)
    return [
        requests.history.take(slice(int(end - length), int(end)))
        for end, length in zip(ends, requests.history_lengths, strict=True)
    ]


@settings(max_examples=100, deadline=None)
@given(EVENTS, LABELS, CUTS, st.integers(1, 12), st.sampled_from([None, 0, 1]), st.booleans())
def test_a_request_sees_the_newest_of_what_was_known_before_it_however_the_stream_is_cut(
    events: list[Event], labels: list[list[Any]], cuts: list[int], limit: int, surface: int | None, every_row: bool
) -> None:
    made = labelled(rows(events), labels)
    stream = stream_of(made, edges(cuts), "Events" if every_row else "Engagements")
    found = requests_of(stream, limit, surface)
    asked = [i for i in range(len(made)) if surface in (None, int(made.surfaces[i]))]
    assert found.rows.row_ids.tolist() == made.row_ids[asked].tolist()
    for place, window in zip(asked, windows(found), strict=True):
        every = visible(made, int(made.users[place]), int(made.event_times[place]), surface, every_row)
        seen, known, actions = (part[int(anchored_start(np.asarray(len(part)), limit)) :] for part in every)
        assert window.items.tolist() == made.items[seen].tolist()
        assert window.surfaces.tolist() == made.surfaces[seen].tolist()
        assert window.times.tolist() == made.event_times[seen].tolist()
        assert window.available.tolist() == known
        assert window.actions.tolist() == actions


@settings(max_examples=60, deadline=None)
@given(EVENTS, LABELS, CUTS, st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_the_trainers_batch_is_the_servers_batch_whatever_the_labels_delays(
    events: list[Event], labels: list[list[Any]], cuts: list[int], limit: int, by_surface: bool, random: Random
) -> None:
    """The server is given all events of the user, the future's too, in any order: the rule alone decides."""
    made = labelled(rows(events), labels)
    distinct = list({(int(made.users[row]), known): row for known, _, row, _ in became_known(made)}.values())
    made = made.take(np.sort(np.array(distinct, np.int64)))  # of a tie no order is told
    every = became_known(made)
    assume(len({(int(made.users[row]), known) for known, _, row, _ in every}) == len(every))
    stream = stream_of(made, edges(cuts))
    trained = requests_of(stream, limit, 1 if by_surface else None)
    if not len(trained):
        return
    requests = []
    for row in trained.starts:
        user, surface, time, item = (
            int(values[row])
            for values in (
                trained.rows.users,
                trained.rows.surfaces,
                trained.rows.event_times,
                ITEMS.index(trained.rows.items),
            )
        )
        random.shuffle(own := [event for event in every if made.users[event[2]] == user])
        known, _, of, bits = np.array(own, np.int64).reshape(-1, 4).T
        seen = History(ITEMS.index(made.items[of]), made.surfaces[of], bits, made.event_times[of], known)
        requests.append(Request(user, surface, time, np.array([item]), seen))
    served, batch = collate(requests, limit, surface_only=by_surface), trained.batch(ITEMS)
    for name in served.__dataclass_fields__:
        if getattr(served, name) is not None:
            np.testing.assert_array_equal(getattr(batch, name), getattr(served, name), err_msg=name)


@settings(max_examples=60, deadline=None)
@given(EVENTS, CUTS, st.integers(1, 12), st.sampled_from([None, 0, 1]), st.integers(1, 5))
def test_a_snapshot_answers_as_a_request_at_the_end_of_the_data_would_be(
    events: list[Event], cuts: list[int], limit: int, surface: int | None, at_once: int
) -> None:
    made = rows(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "_AT_ONCE", at_once)
        snapshot_answers(made, cuts, limit, surface)


def snapshot_answers(made: Rows, cuts: list[int], limit: int, surface: int | None) -> None:
    walk = stream_of(made, edges(cuts)).walk(limit, surface=surface)
    for _ in walk:
        pass
    snapshot = walk.snapshot(ITEMS)
    assert snapshot.until == START + 1000
    for user in range(1, 6):
        seen, *_ = visible(made, user, START + 1000, surface)
        seen = seen[int(anchored_start(np.asarray(len(seen)), limit)) :]
        assert snapshot.lookup(user).items.tolist() == ITEMS.index(made.items[seen]).tolist()
        assert snapshot.lookup(user).times.tolist() == made.event_times[seen].tolist()


@given(st.integers(0, 5000), st.integers(1, 600))
def test_an_anchored_window_keeps_at_most_the_limit_and_at_least_three_quarters_of_it(total: int, limit: int) -> None:
    start = int(anchored_start(np.asarray(total), limit))
    kept = total - start
    assert kept <= limit
    assert kept >= min(total, limit - max(1, limit // 4) + 1)
    assert start == 0 or start % max(1, limit // 4) == 0


# Growing histories


def events(user: int, *known: int) -> Events:
    """Of one user; the item is the time at which the event was known."""
    times = np.array(known, np.int64)
    none = np.zeros_like(times)
    return Events(none + user, times, History(times, none, none, times, times))


def seen(growing: GrowingHistories, user: int, time: int) -> list[int]:
    found, _ = growing.windows(np.array([user]), np.array([time]))
    return [int(item) for item in found.items]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=12), max_size=12), st.integers(1, 9))
def test_histories_that_grow_show_the_windows_of_histories_that_are_given_at_once(
    parts: list[list[tuple[int, int]]], limit: int
) -> None:
    """``parts`` are (user, ms after the part began); a part lasts ten ms."""
    growing, users, known = GrowingHistories(limit), [], []
    for number, part in enumerate(parts):
        added = [(user, 10 * number + after) for user, after in part]
        users += [user for user, _ in added]
        known += [time for _, time in added]
        places = np.arange(len(users) - len(added), len(users))
        owners, times = (np.array([pair[axis] for pair in added], np.int64).reshape(-1) for axis in (0, 1))
        growing.append(Events(owners, places, History(places, places * 0, places * 0, times, times)))
        every = np.arange(len(users))
        all_known = np.array(known, np.int64)
        at_once = Histories(np.array(users, np.int64), History(every, every * 0, every * 0, all_known, all_known))
        for time in range(10 * number, 10 * number + 11):
            asked, at = np.arange(7), np.full(7, time)
            starts, lengths = at_once.window(asked, asked * 0, at, limit)
            found, found_lengths = growing.windows(asked, at)
            assert found_lengths.tolist() == lengths.tolist()
            expected = [at_once.events.items[s : s + n] for s, n in zip(starts, lengths, strict=True)]
            assert found.items.tolist() == np.concatenate(expected).tolist()


def test_the_newest_window_is_kept_in_memory_that_does_not_grow_with_events() -> None:
    growing, limit = GrowingHistories(8), 8
    used = []
    for hour in range(200):
        for user in (1, 2):
            growing.append(events(user, *range(10 * hour, 10 * hour + 5)))
        used.append(growing._columns._used)
        assert seen(growing, 1, 10 * hour + 9)[-1] == 10 * hour + 4
        assert len(seen(growing, 2, 10 * hour + 9)) <= limit
    assert used[-1] == used[20]
    assert growing._columns._used <= 2 * (4 + 8 + 16)


def test_a_block_that_was_left_is_used_again() -> None:
    growing = GrowingHistories(64)
    growing.append(events(1, *range(4)))
    growing.append(events(1, *range(10, 14)))  # moves to a block of eight, and leaves one of four
    used = growing._columns._used
    growing.append(events(2, *range(20, 24)))
    assert growing._columns._used == used
    assert seen(growing, 1, 99) == [*range(4), *range(10, 14)]
    assert seen(growing, 2, 99) == [*range(20, 24)]


def test_columns_grow_beyond_their_first_size_and_keep_what_they_held() -> None:
    growing = GrowingHistories(1 << 15)
    for user in (1, 2, 3):
        growing.append(events(user, *range(user, user + 40_000)))
    for user in (1, 2, 3):
        assert seen(growing, user, 10**6)[-1] == user + 39_999
        assert len(seen(growing, user, 10**6)) > 24_000


def test_what_was_let_go_of_comes_back() -> None:
    growing = GrowingHistories(8)
    growing.append(events(1, 3, 5))
    growing.release()
    assert seen(growing, 1, 9) == [3, 5]
    growing.append(events(1, 7))
    growing.release()
    assert seen(growing, 1, 9) == [3, 5, 7]


def test_every_column_comes_back_as_it_was_given_to_its_limits() -> None:
    growing = GrowingHistories(8)
    given_history = History(*(np.array([value]) for value in (2**62, 63, 2**32 - 1, 2**61, 2**60)))
    growing.append(Events(np.array([-5]), np.array([1]), given_history))
    found, lengths = growing.windows(np.array([-5]), np.array([2**61]))
    assert lengths.tolist() == [1]
    assert found == given_history or [int(values[0]) for values in vars(found).values()] == [
        2**62, 63, 2**32 - 1, 2**61, 2**60,
    ]  # fmt: skip


def test_events_that_were_known_before_what_is_there_are_refused() -> None:
    growing = GrowingHistories(8)
    growing.append(events(1, 5))
    growing.append(events(1, 5))  # at the same instant is not before
    with pytest.raises(ValueError, match="in the order in which they become known"):
        growing.append(events(1, 4))


def test_a_window_of_long_ago_is_refused_when_its_events_are_gone() -> None:
    growing = GrowingHistories(4)
    growing.append(events(1, *range(4)))
    assert seen(growing, 1, 2) == [0, 1]
    for hour in range(50, 90):
        growing.append(events(1, hour))
    with pytest.raises(ValueError, match="before the events that are kept"):
        seen(growing, 1, 2)


def test_a_disk_that_is_full_is_said_before_anything_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = GrowingHistories(1 << 15)
    growing.append(events(1, 3, 5))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecastError, match=r"has no room for .* bytes of users' histories") as caught:
        growing.append(events(2, *range(100_000)))
    assert (caught.value.termination.reason, caught.value.termination.retryable) == ("StorageFull", True)
    assert seen(growing, 1, 9) == [3, 5]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_a_file_system_cannot_reserve_room_histories_are_kept_all_the_same(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def cannot(*_: int) -> None:
        raise OSError(number, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    growing = GrowingHistories(8)
    growing.append(events(1, 3, 5))
    assert seen(growing, 1, 9) == [3, 5]


def test_another_error_of_the_disk_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="Input/output error"):
        GrowingHistories(8)


# What becomes history, and when


def test_an_impression_without_any_action_is_no_history_unless_every_row_is_an_event() -> None:
    made = rows([(1, 0, 100, 0, 0), (1, 0, 101, 50, 0)], label=0)
    assert requests_of(stream_of(made), 8).history_lengths.tolist() == [0, 0]
    every = requests_of(stream_of(made, history="Events"), 8)
    assert every.history_lengths.tolist() == [0, 1]
    assert every.history.actions.tolist() == [0]


def test_an_event_whose_label_comes_late_is_hidden_until_then_and_stands_at_its_arrival() -> None:
    late = [(1, 0, 100, 0, 50), (1, 0, 101, 10, 5)]
    asked = [(1, 0, 110, time, 900) for time in (15, 16, 50, 51)]
    found = windows(requests_of(stream_of(rows([*late, *asked]), edges([12, 49])), 8))
    assert [window.items.tolist() for window in found[2:]] == [[], [101], [101], [101, 100]]


def test_a_request_never_sees_its_own_answers_however_soon_they_are_known() -> None:
    """Three rows of one request, shown 0, 5 and 9 ms after its start; each label is known at once."""
    made = rows([(1, 0, 100, 100, 0), (1, 0, 101, 105, 0), (1, 0, 102, 109, 0), (1, 0, 103, 120, 0)])
    together = Rows(**{**vars(made), "request_ids": np.array([7, 7, 7, 8], np.int64)})
    for cuts in ([], [103], [107]):  # even where a segment ends within it
        assert requests_of(stream_of(together, edges(cuts)), 8).history_lengths.tolist() == [0, 0, 0, 3]


def test_rows_of_other_users_and_requests_do_not_delay_what_is_known() -> None:
    made = rows([(1, 0, 100, 0, 5), (1, 0, 103, 30, 40), (2, 0, 101, 50, 0), (1, 0, 102, 60, 0)])
    alike = Rows(**{**vars(made), "request_ids": np.array([7, 7, 7, 8], np.int64)})
    alike.available_at[2, 1] += 4
    known = [[30] * 3, [70] * 3, [50, 54, 50], [60] * 3]
    assert (known_after_the_request(alike) - START).tolist() == known
    assert known_after_the_request(rows([])).tolist() == []
    before, after = alike.take(np.array([0])), alike.take(np.array([1, 2, 3]))
    assert (known_after_the_request(before, after) - START).tolist() == [[30] * 3]
    assert (known_after_the_request(before, alike.take(np.array([2, 3]))) - START).tolist() == [[5] * 3]


def test_a_click_is_history_at_once_and_what_was_bought_is_so_when_that_is_known() -> None:
    """Row 1 is clicked and bought, and its like is no; of row 2 it is the like alone that is yes."""
    made = rows([(1, 0, 100, 0, 0), (1, 0, 101, 5, 0), *((1, 0, 110, time, 900) for time in (9, 20, 50))])
    made.labels[:2] = [[1, 0, 1], [0, 1, 0]]
    made.available_at[:2] = START + np.array([[1, 15, 40], [30, 10, 8]])
    found = windows(requests_of(stream_of(made, edges([25])), 8))
    expected = [[(100, 1)], [(100, 1), (101, 2)], [(100, 1), (101, 2), (100, 4)]]
    assert [list(zip(w.items.tolist(), w.actions.tolist(), strict=True)) for w in found[2:]] == expected
    found = windows(requests_of(stream_of(made, edges([25]), "Events"), 8))
    expected = [[(100, 1), (101, 0)], [(100, 1), (101, 0), (101, 2)], [(100, 1), (101, 0), (101, 2), (100, 4)]]
    assert [list(zip(w.items.tolist(), w.actions.tolist(), strict=True)) for w in found[2:]] == expected


def test_labels_that_are_known_within_their_request_are_one_event_after_it() -> None:
    made = rows([(1, 0, 100, 0, 0), (1, 0, 101, 9, 0), (1, 0, 102, 20, 0)])
    made.labels[:] = 1
    made.available_at[0] = START + np.array([1, 4, 12])
    together = replace(made, request_ids=np.array([7, 7, 8]))
    found = windows(requests_of(stream_of(together), 8))[-1]
    assert found.items.tolist() == [100, 101, 100]
    assert found.actions.tolist() == [0b011, 0b111, 0b100]
    assert (found.available - START).tolist() == [9, 9, 12]


def test_of_rows_known_at_one_instant_the_lower_id_is_first_however_the_stream_is_cut() -> None:
    made = rows([(1, 0, 100, 0, 9), (1, 0, 101, 3, 6), (1, 0, 102, 5, 4), (1, 0, 103, 20, 0)])
    for cuts in ([], [4], [1, 4, 6]):
        assert requests_of(stream_of(made, edges(cuts)), 8).history.items.tolist() == [100, 101, 102]


def test_of_rows_known_as_a_segment_ends_the_lower_id_is_first_whichever_segment_it_is_of() -> None:
    made = rows([(1, 0, 100, 0, 50), (1, 0, 101, 50, 0), (1, 0, 102, 60, 0)])
    made = Rows(**{**vars(made), "row_ids": np.array([9, 1, 10])})
    assert requests_of(stream_of(made, edges([50])), 8).history.items.tolist() == [101, 100]


def test_events_keep_their_row_for_a_tie_and_their_raw_item() -> None:
    made = rows([(1, 0, 99, 0, 9), (2, 1, 250, 3, 6)])
    found = events_of(made, None, engagements_only=True)
    assert (found.row_ids.tolist(), found.users.tolist(), found.history.items.tolist()) == ([1, 2], [1, 2], [99, 250])


def test_an_experts_requests_are_of_its_own_surface_and_see_it_alone() -> None:
    made = rows([(1, k % 2, 100 + k, 10 * k, 3) for k in range(20)])
    found = requests_of(stream_of(made, edges([50, 100])), 8, surface=1)
    assert set(found.rows.surfaces.tolist()) == set(found.history.surfaces.tolist()) == {1}
    assert found.history_lengths.max() == 8


# Slates and requests


def test_rows_of_one_request_become_one_slate_with_their_own_labels() -> None:
    all_rows = rows([(1, 0, 100, 5, 1), (1, 0, 101, 5, 1), (1, 0, 102, 9, 900)])
    together = Rows(**{**vars(all_rows), "request_ids": np.array([7, 7, 8], np.int64)})
    together.labels[1, 1] = 1
    found = requests_of(stream_of(together), 4)
    batch = found.batch(ITEMS)
    assert len(found) == 2
    assert batch.candidates.tolist() == [[1, 2], [3, 0]]
    assert batch.candidate_mask.tolist() == [[True, True], [True, False]]
    assert batch.labels is not None
    assert batch.label_mask is not None
    assert batch.labels[0, :, 1].tolist() == [0, 1]
    assert not batch.label_mask[1, 1].any()
    assert batch.row_ids is not None
    assert batch.row_ids.tolist() == [[1, 2], [3, 0]]


def test_padding_is_no_item_even_where_an_item_is_called_nought() -> None:
    noughts = ItemTable(np.array([0, 100, 101], np.int64), np.ones((3, 2), np.float32))
    made = rows([(1, 0, 100, 0, 1), (2, 0, 0, 0, 1), (1, 0, 101, 5, 1), (2, 0, 0, 9, 1), (2, 0, 0, 20, 1)])
    batch = requests_of(stream_of(made), 4).batch(noughts)
    assert batch.history_items.tolist() == [[0, 0], [0, 0], [2, 0], [1, 0], [1, 1]]
    assert batch.candidates.tolist() == [[2], [1], [3], [1], [1]]


def test_requests_stand_in_time_order_whatever_their_ids() -> None:
    made = rows([(1, 0, 100, 5, 1), (2, 0, 101, 9, 1), (1, 1, 102, 9, 1), (3, 0, 103, 7, 1)])
    found = Slates.of(Rows(**{**vars(made), "request_ids": np.array([9, 3, 7, 1], np.int64)}))
    first = found.rows.take(found.starts)
    assert (first.event_times - START).tolist() == [5, 7, 9, 9]
    assert first.request_ids.tolist() == [9, 3, 1, 7]  # of two at once the lower id is first
    assert (found.times - START).tolist() == [5, 7, 9, 9]
    assert (len(found), found.users.tolist(), found.surfaces.tolist()) == (4, [1, 3, 1, 2], [0, 0, 1, 0])


def test_a_request_id_whose_rows_disagree_is_several_requests() -> None:
    made = rows([(1, 0, 100, 5, 1), (1, 0, 101, 5, 1), (2, 0, 102, 5, 1), (2, 1, 103, 5, 1), (2, 1, 104, 6, 1)])
    found = Slates.of(Rows(**{**vars(made), "request_ids": np.full(5, 7, np.int64)}))
    assert found.starts.tolist() == [0, 2, 3, 4]
    kept = found.take(np.array([True, False, False, True]))
    assert (kept.starts.tolist(), kept.rows.items.tolist()) == ([0, 2], [100, 101, 104])


def test_a_slate_is_known_from_its_first_label_to_its_last() -> None:
    made = rows([(1, 0, 100, 5, 7), (1, 0, 101, 5, 3), (1, 0, 102, 9, 1)])
    found = Slates.of(Rows(**{**vars(made), "request_ids": np.array([7, 7, 8], np.int64)}))
    assert [(times - START).tolist() for times in found.known] == [[8, 10], [12, 10]]
    assert requests_of(stream_of(Rows(**vars(found.rows))), 4).matured.tolist() == found.known[1].tolist()


def test_requests_keep_the_labels_that_are_chosen_and_know_which_of_them_have_any() -> None:
    made = rows([(1, 0, 100, 5, 7), (1, 0, 101, 5, 3), (1, 0, 102, 9, 1)])
    made = labelled(replace(made, request_ids=np.array([7, 7, 8])), [[(1, 1), (0, 5), (-1, 0)]] * 3)
    found = requests_of(stream_of(made), 4)
    assert found.labelled.tolist() == [True, True]
    some = found.with_labels(found.rows.available_at <= START + 9)
    assert some.rows.label_mask.tolist() == [[True, False, False]] * 2 + [[False, False, False]]
    assert some.labelled.tolist() == [True, False]
    assert found.rows.label_mask.sum() == 6
    assert some.take(slice(0)).labelled.tolist() == []


def test_no_rows_make_no_requests() -> None:
    assert len(Slates.of(rows([]))) == 0
    assert [times.tolist() for times in Slates.of(rows([])).known] == [[], []]
    empty = requests_of(stream_of(rows([]), (0, 10, 20)), 4)
    assert (len(empty), empty.matured.tolist(), len(empty.take(slice(5)))) == (0, [], 0)


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.lists(st.integers(0, 39), max_size=9), st.integers(1, 9))
def test_requests_that_are_taken_or_joined_or_written_keep_their_rows_and_windows(
    events: list[Event], index: list[int], limit: int
) -> None:
    made = requests_of(stream_of(rows(events)), limit)
    chosen = np.array([place % len(made) for place in index], np.int64)
    some = made.take(chosen)
    assert some.rows.row_ids.tolist() == made.rows.row_ids[made.starts][chosen].tolist()
    whole = windows(made)
    assert [window.items.tolist() for window in windows(some)] == [whole[place].items.tolist() for place in chosen]
    joined = Requests.concatenate([made, some]) if len(some) else made
    again = Requests.from_arrays(joined.arrays())
    for name, array in joined.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
    assert joined.counts.tolist() == [1] * len(joined)


def test_base_rates_are_counted_by_surface_and_task_among_the_labels_that_are_known() -> None:
    made = rows([(1, k % 2, 100 + k, 10 * k, 3) for k in range(9)])
    made.labels[:, 1] = np.arange(9) % 3 == 0
    made.label_mask[:, 2] = False
    made.label_mask[4:, 1] = False
    rates = requests_of(stream_of(made), 4).base_rates(2)
    for surface in range(2):
        for task in range(3):
            known = made.labels[(made.surfaces == surface) & made.label_mask[:, task], task]
            expected = (known.sum() + 0.5) / (len(known) + 1) if len(known) else float("nan")
            assert float(rates[surface, task]) == pytest.approx(expected, nan_ok=True)
    assert requests_of(stream_of(rows([])), 4).base_rates(2).isnan().all()


def test_a_walk_numbers_its_segments_and_asks_which_requests_are_wanted() -> None:
    made = rows([(1, 0, 100 + k, 10 * k, 0) for k in range(10)])
    asked: list[tuple[int, list[int]]] = []

    def choose(index: int, slates: Slates) -> np.ndarray:
        asked.append((index, (slates.times - START).tolist()))
        return slates.times % 20 == (START % 20)

    found = list(stream_of(made, (0, 30, 60, 100)).walk(99, choose=choose))
    assert asked == [(0, [0, 10, 20]), (1, [30, 40, 50]), (2, [60, 70, 80, 90])]
    assert [(index, (part.times - START).tolist()) for index, part in found] == [(0, [0, 20]), (1, [40]), (2, [60, 80])]
    lengths = [length for _, part in found for length in part.history_lengths.tolist()]
    assert lengths == [0, 2, 4, 6, 8]  # what is not wanted is history all the same


def test_an_error_in_a_segment_comes_when_its_turn_comes() -> None:
    stream = stream_of(rows([(1, 0, 100, 5, 1), (1, 0, 100, 500, 1)]), (0, 100, 200, 300))
    read = stream.read

    def broken(segment: object) -> Rows:
        if segment is stream.segments[2]:
            raise OSError("the disk is gone")
        return read(segment)  # type: ignore[arg-type]

    walk = iter(type(stream)(stream.dataset, stream.segments, ITEMS, broken).walk(4))
    assert next(walk)[0] == 0
    with pytest.raises(OSError, match="the disk is gone"):
        for _, _ in pairwise(walk):
            pass
