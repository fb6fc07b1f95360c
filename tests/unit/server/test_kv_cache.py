"""What is kept of whom: never rows of other events than a window begins with, never one row for two users."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_model.features import Request, collate
from recast_model.history import History, Ints
from recast_server.foundation.kv_cache import BLOCK, KvCache, Lease, common_beginning, windows

TTL = 100.0


def window(*items: int) -> Ints:
    """A window that differs from others in items alone."""
    return np.array([items, [0] * len(items), [1] * len(items), range(len(items))], np.int64).reshape(4, -1)


class Rows:
    """A slab that holds, in place of keys and values, the events that each row was computed from."""

    def __init__(self, blocks: int) -> None:
        self.slots: list[bytes | None] = [None] * (blocks * BLOCK)
        self.cache = KvCache(blocks, TTL, self.move)

    def move(self, source: int, target: int, events: int) -> None:
        assert abs(target - source) >= events, "the two overlap"
        self.slots[target : target + events] = self.slots[source : source + events]

    def right(self, lease: Lease, upto: int) -> bool:
        """Whether the first rows of a lease are those of its window."""
        return all(self.slots[lease.begin + row] == self.of(lease.window, row) for row in range(upto))

    def compute(self, lease: Lease) -> None:
        for row in range(lease.known, lease.window.shape[1]):
            self.slots[lease.begin + row] = self.of(lease.window, row)

    @staticmethod
    def of(seen: Ints, row: int) -> bytes:
        return np.ascontiguousarray(seen[:, : row + 1]).tobytes()

    def ask(self, user: int, seen: Ints, now: float = 0.0) -> Lease:
        """One request alone, answered."""
        lease = self.cache.lease(user, seen, now)
        assert lease is not None
        assert self.right(lease, lease.known)
        self.compute(lease)
        self.cache.settle(lease, now)
        return lease


histories = st.lists(st.integers(0, 1), min_size=1, max_size=4 * BLOCK).map(lambda items: window(*items))


@st.composite
def batches(draw: Any) -> list[list[tuple[int, Ints]]]:
    """Batches of (user, window) whose windows share beginnings with earlier ones more often than not."""
    bases: list[Ints] = [draw(histories)]
    found = []
    for _ in range(draw(st.integers(1, 8))):
        batch = []
        for _ in range(draw(st.integers(1, 5))):
            base = draw(st.sampled_from(bases))
            cut = draw(st.integers(0, base.shape[1]))
            more = draw(st.lists(st.integers(0, 2), min_size=0 if cut else 1, max_size=4 * BLOCK - cut))
            seen = window(*base[0, :cut].tolist(), *more)
            bases.append(seen)
            batch.append((draw(st.integers(0, 4)), seen))
        found.append(batch)
    return found


@given(asked=batches(), blocks=st.integers(4, 14), data=st.data())
@settings(max_examples=200)
def test_whatever_is_asked_a_lease_knows_just_the_rows_of_its_window(
    asked: list[list[tuple[int, Ints]]], blocks: int, data: st.DataObject
) -> None:
    rows = Rows(blocks)
    now = 0.0
    for batch in asked:
        now += data.draw(st.sampled_from([0.0, 1.0, TTL]))
        rows.cache.expire(now)
        waiting = batch
        while waiting:
            held, later = [], []
            for user, seen in waiting:
                lease = rows.cache.lease(user, seen, now)
                if lease is None:
                    later.append((user, seen))
                    continue
                assert 0 <= lease.known <= seen.shape[1] <= lease.capacity
                assert lease.begin + lease.capacity <= len(rows.slots)
                assert rows.right(lease, lease.known)
                held.append(lease)
            assert held, "nobody has room, and nobody is in the way"
            runs = sorted({(lease.begin, lease.capacity, lease.user) for lease in held})
            assert all(one[0] + one[1] <= other[0] for one, other in pairwise(runs))
            for lease in held:
                rows.compute(lease)
            for lease in held:
                assert rows.right(lease, seen_length := lease.window.shape[1]), seen_length
                if data.draw(st.integers(0, 4)):
                    rows.cache.settle(lease, now)
                    assert rows.cache.known(lease.user) >= lease.window.shape[1]
                else:
                    rows.cache.drop(lease)
            waiting = later
    assert 0 <= rows.cache.used_ratio <= 1
    assert len(rows.cache) <= blocks


def test_what_grows_is_appended_to_and_what_ends_earlier_is_read_without_loss() -> None:
    rows = Rows(8)
    assert rows.ask(7, window(1, 2, 3)).known == 0
    longer = rows.ask(7, window(1, 2, 3, 4), now=3.0)
    assert (longer.known, longer.writes, longer.idle_seconds) == (3, True, 3.0)
    earlier = rows.ask(7, window(1, 2), now=4.0)
    assert (earlier.known, earlier.writes, earlier.idle_seconds) == (2, False, 1.0)
    assert rows.ask(7, window(1, 2, 3, 4), now=4.0).known == 4
    assert rows.ask(8, window(1, 2, 3, 4)).known == 0  # of another user


def test_from_the_first_other_event_on_nothing_is_known() -> None:
    rows = Rows(8)
    rows.ask(7, window(1, 2, 3))
    assert rows.ask(7, window(1, 9, 3)).known == 1
    assert rows.ask(7, window(1, 2, 3)).known == 1
    assert rows.ask(7, window(2, 3)).known == 0
    assert rows.cache.take_evicted()["replaced"] == 1
    assert rows.cache.take_evicted()["replaced"] == 0


@pytest.mark.parametrize("column", range(4), ids=["item", "surface", "actions", "time"])
def test_a_window_is_all_that_its_rows_are_computed_from(column: int) -> None:
    one = window(1, 2, 3, 4)
    other = one.copy()
    other[column, 2] += 1
    assert common_beginning(one, other) == 2
    assert common_beginning(one, one[:, :3]) == 3
    assert common_beginning(one[:, :0], one) == 0


def test_windows_are_those_of_the_batch_in_its_order_without_padding() -> None:
    def history(*items: int) -> History:
        values = np.array(items, np.int64)
        return History(values, values + 10, values + 20, values + 30, values + 40)

    asked = [Request(1, 0, 100, np.array([1]), history(*items)) for items in ((1, 2, 3, 4, 5, 6, 7), (8,), ())]
    first, second, third = windows(collate(asked, 4))
    assert first.tolist() == [[place + add for place in (4, 5, 6, 7)] for add in (0, 10, 20, 30)]
    assert second.tolist() == [[8], [18], [28], [38]]
    assert third.shape == (4, 0)


def test_what_makes_way_is_what_was_not_used_for_longest() -> None:
    rows = Rows(3)
    for user in (1, 2, 3):
        rows.ask(user, window(user))
    rows.ask(1, window(1))
    rows.ask(4, window(4))
    assert [rows.cache.known(user) for user in (1, 2, 3, 4)] == [1, 0, 1, 1]
    rows.ask(3, window(3))
    rows.ask(5, window(*range(2 * BLOCK)))  # of 1, 4 and 3 beside each other, 4 and then 3 were used last
    assert [rows.cache.known(user) for user in (1, 3, 4, 5)] == [0, 1, 0, 2 * BLOCK]
    assert rows.cache.take_evicted()["capacity"] == 3


def test_a_run_grows_into_free_blocks_behind_it_or_moves_with_what_is_known() -> None:
    rows = Rows(6)
    first = rows.ask(1, window(*range(BLOCK)))
    assert rows.ask(1, window(*range(BLOCK + 1))).begin == first.begin
    rows.ask(2, window(1))  # now stands behind it
    moved = rows.ask(1, window(*range(2 * BLOCK + 1)))
    assert (moved.known, moved.begin) == (BLOCK + 1, 3 * BLOCK)
    assert rows.cache.known(2) == 1
    assert rows.cache.used_ratio == pytest.approx(4 / 6)
    assert sum(rows.cache.take_evicted().values()) == 0


def test_a_run_grows_only_where_all_of_the_blocks_behind_it_are_free() -> None:
    rows = Rows(8)
    for user, events in ((1, BLOCK), (2, BLOCK), (3, 1)):
        rows.ask(user, window(*range(events)))
    lease = rows.cache.lease(2, window(9), 0.0)  # its block is free now, and taken anew
    assert lease is not None
    rows.cache.drop(lease)
    assert rows.ask(1, window(*range(3 * BLOCK))).begin == 3 * BLOCK
    assert rows.ask(3, window(0)).known == 1


def test_one_that_has_to_wait_for_room_keeps_what_it_has() -> None:
    rows = Rows(4)
    rows.ask(1, window(*range(2 * BLOCK)))
    held = rows.cache.lease(2, window(*range(BLOCK + 1)), 0.0)
    assert held is not None
    assert rows.cache.lease(1, window(*range(3 * BLOCK)), 0.0) is None
    assert rows.cache.known(1) == 2 * BLOCK
    assert rows.ask(3, window(5)).known == 0
    assert rows.cache.known(1) == 0, "whose room is another's now"
    assert rows.cache.take_evicted()["capacity"] == 1


def test_one_that_could_only_move_onto_itself_is_computed_again() -> None:
    rows = Rows(4)
    rows.ask(2, window(1))
    rows.ask(1, window(*range(2 * BLOCK)))
    rows.ask(2, window(1, 2))
    found = rows.ask(1, window(*range(4 * BLOCK)))
    assert (found.known, rows.cache.known(1), rows.cache.known(2)) == (0, 4 * BLOCK, 0)


def test_what_is_leased_is_in_nobodys_way_and_waits_for_nobody() -> None:
    rows = Rows(2)
    held = rows.cache.lease(1, window(*range(BLOCK + 1)), 0.0)
    assert held is not None
    assert rows.cache.lease(2, window(1), 0.0) is None
    rows.cache.expire(10 * TTL)
    rows.compute(held)
    rows.cache.settle(held, 0.0)
    assert rows.ask(1, window(*range(BLOCK + 1))).known == BLOCK + 1
    assert rows.ask(2, window(1)).known == 0


def test_of_one_user_readers_share_and_a_writer_is_alone() -> None:
    rows = Rows(4)
    rows.ask(1, window(1, 2, 3))
    readers = [rows.cache.lease(1, seen, 0.0) for seen in (window(1, 2, 3), window(1, 2))]
    assert all(readers)
    assert rows.cache.lease(1, window(1, 2, 3, 4), 0.0) is None
    for lease in readers:
        assert lease is not None
        rows.cache.settle(lease, 0.0)
    writer = rows.cache.lease(1, window(1, 5), 0.0)
    assert writer is not None
    assert rows.cache.lease(1, window(1, 2, 3), 0.0) is None  # the writer writes over 2 and 3
    beside = rows.cache.lease(1, window(1), 0.0)
    assert beside is not None
    rows.cache.drop(writer)
    assert rows.right(beside, 1)
    rows.cache.settle(beside, 0.0)
    assert rows.ask(1, window(1, 5)).known == 1


def test_what_failed_is_forgotten() -> None:
    rows = Rows(4)
    rows.ask(1, window(1, 2))
    for seen, left in ((window(1, 2), 2), (window(1, 2, 3), 0)):
        lease = rows.cache.lease(1, seen, 0.0)
        assert lease is not None
        rows.cache.drop(lease)
        assert rows.cache.known(1) == left
    assert rows.cache.take_evicted()["failed"] == 1
    assert rows.cache.used_ratio == 0


def test_what_is_unused_for_too_long_goes_and_what_is_used_stays() -> None:
    rows = Rows(4)
    rows.ask(1, window(1), now=0.0)
    rows.ask(2, window(1), now=0.0)
    rows.ask(1, window(1), now=TTL - 1)
    rows.cache.expire(TTL)
    assert [rows.cache.known(user) for user in (1, 2)] == [1, 0]
    assert rows.cache.take_evicted()["expired"] == 1
    rows.cache.clear()
    assert (len(rows.cache), rows.cache.used_ratio, rows.cache.known(1)) == (0, 0, 0)
