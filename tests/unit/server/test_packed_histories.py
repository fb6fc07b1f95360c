"""A history as bytes, and what is kept of it: whatever was appended, in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_server.histories.packing import Applied, CorruptRecordError, pack, unpack, unpack_applied
from recast_server.histories.user_history import Bounds, TrimmedError, UserHistory
from recast_server.runtime.events import Events
from tests.history_stores import (
    BOUNDS,
    MANY_ROWS,
    NOW,
    ROWS,
    SURFACES,
    TASKS,
    Row,
    events_of,
    expected_window,
    legal_order,
    told,
)

APPLIED = (Applied(b"k" * 16, b"c" * 8, 3, 17), Applied(b"\0" * 16, b"\0" * 8, 2**32 - 1, 0))


def grown(events: Events, order: list[int], bounds: Bounds = BOUNDS, at_once: int = 3) -> UserHistory:
    history = UserHistory(7)
    for begin in range(0, len(order), at_once):
        history = history.with_events(events.take(np.array(order[begin : begin + at_once], np.int64)), bounds)
    return history


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_what_is_packed_comes_back(rows: list[Row], at_once: int, random: Random) -> None:
    events = events_of(rows)
    history = grown(events, legal_order(events, random, 9), at_once=at_once)
    again = unpack(pack(history, APPLIED), 7)
    assert told(again.events) == told(history.events)
    for name in ("user", "sequence", "total", "tail", "surface_totals"):
        assert getattr(again, name) == getattr(history, name), name
    assert unpack_applied(pack(history, APPLIED)) == APPLIED


def test_the_largest_values_come_back() -> None:
    largest = 2**63 - 1
    events = Events.named([0, largest], ["é" * 40, "s"], [["a"], []], [0, 253_402_300_799_999], [5, None])
    history = UserHistory(largest).with_events(events, BOUNDS)
    assert told(unpack(pack(history, ()), largest).events) == told(events)


def test_an_event_of_a_common_kind_takes_about_a_dozen_bytes() -> None:
    rng = np.random.default_rng(0)
    times = NOW + np.cumsum(rng.integers(1_000, 3_600_000, 2000))
    events = Events(
        rng.integers(0, 10**7, 2000), rng.integers(0, 3, 2000), rng.integers(0, 8, 2000), times, times, SURFACES, TASKS
    )
    history = UserHistory(7).with_events(events, Bounds())
    assert len(pack(history, ())) / 2000 < 13


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_byte_can_change_unnoticed(place: int, flip: int) -> None:
    record = bytearray(pack(grown(events_of([(1, 0, 1, 9, 0)] * 20), list(range(20))), APPLIED))
    record[place % len(record)] ^= flip
    with pytest.raises(CorruptRecordError):
        unpack(bytes(record), 7)
    with pytest.raises(CorruptRecordError):
        unpack_applied(bytes(record))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: replace(h, events=h.events.take(slice(None, None, -1))), "order"),
        (lambda h: replace(h, total=3), "of 3 in all"),
        (lambda h: replace(h, tail=13), "13 without a gap"),
        (lambda h: replace(h, surface_totals=(12, 0, 0)), "of a surface"),
        (lambda h: replace(h, surface_totals=(12,)), "of a surface"),
        (lambda h: replace(h, total=13), "of 13 in all"),
    ],
)
def test_a_history_that_contradicts_itself_is_none(change: Callable[[UserHistory], object], says: str) -> None:
    history = grown(events_of([(n, n % 3, 1, 40 - n, 0) for n in range(12)]), list(range(12)))
    with pytest.raises(ValueError, match=says):
        change(history)


@settings(max_examples=150, deadline=None)
@given(
    MANY_ROWS,
    st.integers(1, 5),
    st.integers(4, 12),
    st.sampled_from([0, 0, 60, 120, 150, 180]),
    st.sampled_from([2, 9, 50]),
    st.randoms(use_true_random=False),
)
def test_a_window_is_the_models_or_there_is_none(
    rows: list[Row], at_once: int, limit: int, ago: int, late: int, random: Random
) -> None:
    """At any time, the past's too: what was trimmed is never passed over in silence."""
    events, time_ms = events_of(rows), NOW - 1000 * ago
    history = grown(events, legal_order(events, random, late), at_once=at_once)
    for surface, longest in ((None, limit), ("feed", 5), ("reels", 5)):
        try:
            window = history.window(time_ms, longest, surface)
        except TrimmedError:
            assert ago > 0
        else:
            assert told(window) == told(expected_window(events, time_ms, longest, surface))


@settings(max_examples=60, deadline=None)
@given(MANY_ROWS, st.randoms(use_true_random=False), st.lists(st.integers(4, 20), min_size=1, max_size=4))
def test_bounds_that_change_from_release_to_release_leave_no_gap(
    rows: list[Row], random: Random, bounds: list[int]
) -> None:
    events = events_of(rows)
    order, history = legal_order(events, random, 20), UserHistory(7)
    for place in order:
        kept = random.choice(bounds)
        history = history.with_events(events.take(np.array([place])), Bounds(kept, max(1, kept // 3)))
    for surface in (None, *SURFACES):
        for limit in (1, 2, 3, 4, 12):
            try:
                window = history.window(NOW, limit, surface)
            except TrimmedError:
                continue
            assert told(window) == told(expected_window(events, NOW, limit, surface))


def test_the_tail_says_how_many_events_came_before_it() -> None:
    events = events_of([(n, 0, 1, 60 - n, 0) for n in range(50)])
    history = grown(events, list(range(50)))
    assert (history.total, len(history.tail_events)) == (50, BOUNDS.events)
    assert history.tail_events.item.tolist() == list(range(50 - BOUNDS.events, 50))


def test_names_of_actions_that_no_event_has_any_more_make_room_for_others() -> None:
    history = UserHistory(7)
    for number in range(200):
        one = Events.named([number], ["feed"], [[f"action{number}"]], [NOW + number])
        history = history.with_events(one, BOUNDS)
    assert told(history.events)[-1][2] == frozenset({"action199"})
    assert len(history.events.tasks) <= BOUNDS.events + 1


def test_what_arrives_before_a_gap_does_not_close_it() -> None:
    """Wider bounds bring back nothing that was dropped, so what came before that must not stand beside what is left."""
    history = UserHistory(7)
    for known in (10, 20, 30):
        history = history.with_events(Events.named([known], ["feed"], [[]], [known]), Bounds(1, 1))
    history = history.with_events(Events.named([40], ["ads"], [[]], [40]), Bounds(1, 1))
    history = history.with_events(Events.named([15], ["feed"], [[]], [15]), Bounds(4, 4))
    assert history.window(99, 1, "feed").item.tolist() == [30]
    with pytest.raises(TrimmedError):
        history.window(99, 2, "feed")  # 20 and 30, of which 20 is gone
