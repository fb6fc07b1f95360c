"""Whose keys and values are kept, where, and of which events. Pure: it moves no tensor and reads no clock.

Room is a row of blocks of :data:`BLOCK` events. A user's keys and values lie in one run of blocks, so that attention
reads them as one view; a run grows into free blocks behind it, or moves. What makes way are the entries in that run of
blocks whose latest use is the longest ago: least recently used, with neighbours. An entry in use by a lease is never
in the way.

**What is kept is found by user and decided by content.** An entry knows the events that it was computed from, and
serves as far as a request's window begins alike. A history that lies, a label that came late, a request of the past or
a window that starts elsewhere get less of it or nothing, never a wrong answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recast_model.features import BatchArrays
from recast_model.history import Ints

BLOCK = 32
"""Events of a block: what a user's run is rounded up to, and how far it grows before it may have to move."""
Cause = Literal["capacity", "expired", "replaced", "failed"]
CAUSES: tuple[Cause, ...] = ("capacity", "expired", "replaced", "failed")
"""Room was needed; unused for too long; the window begins with other events; the computation failed."""
_FREE, _LEASED = 0, np.iinfo(np.int64).max


def windows(arrays: BatchArrays) -> list[Ints]:
    """Of each request all that rows of its history are computed from: (4, n) items, surfaces, actions, times.

    Whatever else a row depends on, such as the time since the event before, follows from these and the earlier ones.
    """
    columns = np.stack(
        [arrays.history_items, arrays.history_surfaces, arrays.history_actions, arrays.history_times], 1
    )  # (B, 4, N)
    return [events[:, :length] for events, length in zip(columns, arrays.history_lengths.tolist(), strict=True)]


def common_beginning(one: Ints, other: Ints) -> int:
    """How many events two windows (4, n) and (4, m) begin with alike."""
    length = min(one.shape[1], other.shape[1])
    differs = (one[:, :length] != other[:, :length]).any(0)
    return int(differs.argmax()) if differs.any() else length


@dataclass
class _Entry:
    window: Ints  # (4, n), of the events whose keys and values are there
    first: int  # block
    blocks: int
    used: float
    leases: int = 0


@dataclass(frozen=True)
class Lease:
    """A user's run for one request: events ``begin`` to ``begin + capacity`` of all that there is room for.

    Keys and values of the window's first ``known`` events are there; the others are to be computed.
    """

    user: int
    window: Ints
    begin: int
    capacity: int
    known: int
    idle_seconds: float | None
    """How long what is known was not used; None where nothing is."""

    @property
    def writes(self) -> bool:
        """Whether anything is to be computed."""
        return self.known < int(self.window.shape[1])


class KvCache:
    """``move(source, target, events)`` is told to copy keys and values of so many events to another place."""

    def __init__(self, blocks: int, ttl_seconds: float, move: Callable[[int, int, int], None]) -> None:
        self._ttl, self._move = ttl_seconds, move
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # by user, the least recently used first
        self._recency = np.zeros(blocks, np.int64)  # of each block, the tick of its entry's last use
        self._owners = np.zeros(blocks, np.int64)  # users, of blocks that are not free
        self._tick = 0
        self._evicted = dict.fromkeys(CAUSES, 0)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_ratio(self) -> float:
        """Share of the blocks that is not free."""
        return np.count_nonzero(self._recency) / len(self._recency)

    def known(self, user: int) -> int:
        """Events of a user that are kept, whatever they are. From any thread: an estimate."""
        entry = self._entries.get(user)
        return 0 if entry is None else entry.window.shape[1]

    def lease(self, user: int, window: Ints, now: float) -> Lease | None:
        """Room for a window of at least one event, until :meth:`settle` or :meth:`drop`.

        None where that must wait for other leases to end: they leave no room, or one of them is of the same user and
        either would write. Without any lease it is None only for a window that never fits.
        """
        length, entry = window.shape[1], self._entries.get(user)
        known = 0 if entry is None else common_beginning(entry.window, window)
        if entry is not None and entry.leases and known < length:
            return None
        if entry is not None and not known:
            self._evict(user, "replaced")
        elif entry is not None and known < length and not self._grow(user, entry, known, length):
            known = 0
        entry = self._entries.get(user) if known else self._place(user, length, now)
        if entry is None:
            return None
        idle = now - entry.used if known else None
        if known < length:
            entry.window = entry.window[:, :known]  # what follows is about to be written over
        entry.leases += 1
        self._touch(user, entry)
        return Lease(user, window, entry.first * BLOCK, entry.blocks * BLOCK, known, idle)

    def settle(self, lease: Lease, now: float) -> None:
        """The window's keys and values are there."""
        if entry := self._entries.get(lease.user):
            if lease.writes:
                entry.window = lease.window.copy()
            entry.used = now
            self._end(lease.user, entry)

    def drop(self, lease: Lease) -> None:
        """The computation failed. What was to be written is not there; what another lease reads stays."""
        if entry := self._entries.get(lease.user):
            if lease.writes and entry.leases == 1:
                self._evict(lease.user, "failed")
            else:
                self._end(lease.user, entry)

    def expire(self, now: float) -> None:
        """Forget what was not used for too long."""
        while self._entries:
            user, entry = next(iter(self._entries.items()))
            if entry.leases or now - entry.used < self._ttl:
                return
            self._evict(user, "expired")

    def truncate(self, still_true: Callable[[Ints], int]) -> None:
        """Keep of each window (4, n) so many of its first events as are still computed alike. No leases may be."""
        for user, entry in list(self._entries.items()):
            if not (events := still_true(entry.window)):
                self._evict(user, "replaced")
            else:
                entry.window = entry.window[:, :events]

    def clear(self) -> None:
        """Forget everything, and what was evicted. There must be no leases."""
        self._entries.clear()
        self._recency[:] = _FREE
        self._evicted = dict.fromkeys(CAUSES, 0)

    def take_evicted(self) -> dict[Cause, int]:
        """Entries that went since this was last asked, by cause."""
        taken, self._evicted = self._evicted, dict.fromkeys(CAUSES, 0)
        return taken

    def _place(self, user: int, events: int, now: float) -> _Entry | None:
        """A new entry without events, in place of any other of the user's; None, and nothing changed, without room."""
        count = blocks_for(events)
        first = self._find(count)
        if first is None:
            return None
        self._make_way(first, count)
        if user in self._entries:
            self._evict(user, "capacity")
        entry = self._entries[user] = _Entry(np.empty((4, 0), np.int64), first, count, now)
        self._owners[first : first + count] = user
        return entry

    def _grow(self, user: int, entry: _Entry, known: int, events: int) -> bool:
        """Whether the entry now has room for so many events, of which those known lie there."""
        count, end = blocks_for(events), entry.first + entry.blocks
        if count > entry.blocks:
            behind = slice(end, entry.first + count)
            if behind.stop > len(self._recency) or self._recency[behind].any():
                return self._move_to_larger(user, entry, known, count)
            self._owners[behind] = user
            entry.blocks = count
        return True

    def _move_to_larger(self, user: int, entry: _Entry, known: int, count: int) -> bool:
        own = slice(entry.first, entry.first + entry.blocks)
        before = self._recency[own].copy()
        self._recency[own] = _LEASED  # it must not make way for itself
        first = self._find(count)
        self._recency[own] = before if first is None else _FREE
        if first is None:
            return False
        self._make_way(first, count)
        self._move(entry.first * BLOCK, first * BLOCK, known)
        self._owners[first : first + count] = user
        entry.first, entry.blocks = first, count
        return True

    def _find(self, count: int) -> int | None:
        """The run of so many blocks whose latest use is the longest ago; None where each has some that is leased."""
        latest = _largest_of_each(self._recency, count)
        if not len(latest) or latest[first := int(latest.argmin())] == _LEASED:
            return None
        return first

    def _make_way(self, first: int, count: int) -> None:
        run = slice(first, first + count)
        for user in np.unique(self._owners[run][self._recency[run] != _FREE]).tolist():
            self._evict(user, "capacity")

    def _end(self, user: int, entry: _Entry) -> None:
        entry.leases -= 1
        self._touch(user, entry)

    def _touch(self, user: int, entry: _Entry) -> None:
        self._tick += 1
        self._entries.move_to_end(user)
        tick = _LEASED if entry.leases else self._tick
        self._recency[entry.first : entry.first + entry.blocks] = tick

    def _evict(self, user: int, cause: Cause) -> None:
        entry = self._entries.pop(user)
        self._recency[entry.first : entry.first + entry.blocks] = _FREE
        self._evicted[cause] += 1


def blocks_for(events: int) -> int:
    """Blocks that so many events fill."""
    return -(-events // BLOCK)


def _largest_of_each(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The maximum of each run of ``count`` consecutive values; none where there are fewer."""
    if count > len(values):
        return values[:0]
    found, width = values, 1
    while width < count:
        step = min(width, count - width)
        found = np.maximum(found[:-step], found[step:])
        width += step
    return found
