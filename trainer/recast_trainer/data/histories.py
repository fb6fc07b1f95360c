"""Users' histories as a stream grows them: what became known is appended, and the newest of it is kept.

A request sees the events of its user that were known strictly before it, cut to a window that starts at an anchor: the
rule of :mod:`recast_model.history`, kept here in memory that is bounded by users and not by events. Events lie in
columns of compact types, mapped from files that have no name, so that what nobody looks at need not be in memory.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_model.history import History, Ints, anchored_start
from recast_trainer.data.schema import Rows

_TYPES: dict[str, type[np.integer[Any]]] = {
    "items": np.int64,  # raw ids
    "surfaces": np.uint8,
    "actions": np.uint32,
    "times": np.int64,
    "available": np.int64,
}
_SMALLEST = 4
"""Events that a user's first block has room for."""
_AT_ONCE = 50_000
"""Users whose windows are in memory together when all are asked for."""


@dataclass(frozen=True)
class Events:
    """Events of several users, in any order; all have the same length."""

    users: Ints  # raw ids
    row_ids: Ints
    history: History  # items are raw ids

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def empty(cls) -> Events:
        """None at all."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), History.empty())

    def take(self, index: NDArray[np.bool_] | Ints) -> Events:
        """The events that a mask or an index names."""
        chosen: Ints = np.arange(len(self))[index]
        return Events(self.users[chosen], self.row_ids[chosen], self.history.take(chosen))

    def and_these(self, other: Events) -> Events:
        """Both."""
        return Events(
            np.concatenate([self.users, other.users]),
            np.concatenate([self.row_ids, other.row_ids]),
            History.concatenate([self.history, other.history]),
        )


def events_of(rows: Rows, following: Rows | None, *, engagements_only: bool) -> Events:
    """What becomes known of these rows: an event each time that positive labels of one do, with these as its actions.

    Unless it is engagements only, a row is an event as soon as its first label is known, be that negative.
    ``following`` are the next segment's rows.
    """
    rows = replace(rows, available_at=known_after_the_request(rows, following))
    place, task = np.nonzero((rows.labels > 0) & rows.label_mask)
    known, bits = rows.available_at[place, task], np.left_shift(np.int64(1), task)
    if not engagements_only:
        place = np.concatenate([place, np.arange(len(rows))])
        known, bits = np.concatenate([known, rows.first_known]), np.append(bits, np.zeros(len(rows), np.int64))
    order = np.lexsort((known, place))
    place, known = place[order], known[order]
    first = np.ones(len(place), np.bool_)
    first[1:] = (place[1:] != place[:-1]) | (known[1:] != known[:-1])
    actions = np.bitwise_or.reduceat(bits[order], np.flatnonzero(first)) if len(place) else bits
    place, known = place[first], known[first]
    return Events(
        rows.users[place],
        rows.row_ids[place],
        History(rows.items[place], rows.surfaces[place], actions, rows.event_times[place], known),
    )


def known_after_the_request(rows: Rows, following: Rows | None = None) -> Ints:
    """(R, T) ms at which each label may become history: when it is known, and never within its own request.

    A request whose rows were shown one after the other must not see its first answers while its last are ranked, even
    where its last are in the segment that follows.
    """
    if not len(rows):
        return rows.available_at
    users, requests, times = rows.users, rows.request_ids, rows.event_times
    if following is not None and (more := np.isin(following.request_ids, requests)).any():
        users = np.concatenate([users, following.users[more]])
        requests = np.concatenate([requests, following.request_ids[more]])
        times = np.concatenate([times, following.event_times[more]])
    order = np.lexsort((requests, users))
    by_user, by_request = users[order], requests[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (by_user[1:] != by_user[:-1]) | (by_request[1:] != by_request[:-1])
    starts = np.flatnonzero(first)
    last_shown = np.maximum.reduceat(times[order], starts)
    known = np.empty(len(order), np.int64)
    known[order] = np.repeat(last_shown, np.diff(np.append(starts, len(order))))
    return np.maximum(known[: len(rows), None], rows.available_at)


class GrowingHistories:
    """The newest events of every user, in the order in which they became known.

    Event number n of a user lies in the user's block at place n modulo the block's size, a power of two. A block has
    room for the longest window and for what was appended last, and is left for a larger one when that is not so.
    """

    def __init__(self, limit: int) -> None:
        """``limit`` is the longest window."""
        self.limit = limit
        self._columns = _Columns()
        self._users: Ints = np.empty(0, np.int64)  # (U,) ascending; what follows is theirs
        self._starts: Ints = np.empty(0, np.int64)  # where the block begins
        self._sizes: Ints = np.empty(0, np.int64)  # how many events the block has room for; 0 before there is one
        self._first: Ints = np.empty(0, np.int64)  # number of the oldest event that is kept
        self._totals: Ints = np.empty(0, np.int64)  # events so far

    def __len__(self) -> int:
        """Users."""
        return len(self._users)

    def append(self, events: Events) -> None:
        """Add what has become known since the last call.

        The lower row id comes first of what became known at one instant. Raises ``ValueError`` for an event that was
        known before one that is already there.
        """
        if not len(events):
            return
        events = events.take(np.lexsort((events.row_ids, events.history.available, events.users)))
        users, first, counts = np.unique(events.users, return_index=True, return_counts=True)
        place = self._places_of(users)
        self._require_order(place, events.history.available[first])
        before = self._totals[place]
        self._make_room(place, np.minimum(before, self.limit) + counts)
        self._columns.write(self._slots(np.repeat(place, counts), ranges(before, counts)), events.history)
        self._totals[place] += counts
        self._first[place] = np.maximum(self._first[place], self._totals[place] - self._sizes[place])

    def windows(self, users: Ints, times: Ints) -> tuple[History, Ints]:
        """What requests of these users (B,) at these times (B,), in ms, see: windows one after the other, and lengths.

        Raises ``ValueError`` for a time so long ago that the events of its window are no longer kept.
        """
        if not len(self._users):
            return History.empty(), np.zeros(len(users), np.int64)
        place = np.minimum(np.searchsorted(self._users, users), len(self._users) - 1)
        there = self._users[place] == users
        known = np.where(there, self._known_before(place, times), 0)
        skipped = anchored_start(known, self.limit)
        if (skipped < self._first[place])[there & (known > 0)].any():
            raise ValueError("a window was asked for that lies before the events that are kept")
        lengths = known - skipped
        return self._columns.read(self._slots(np.repeat(place, lengths), ranges(skipped, lengths))), lengths

    def at(self, until_ms: int) -> Iterator[tuple[Ints, History, Ints]]:
        """All users' ids, ascending, with windows and lengths as of a request at ``until_ms``: some users at a time."""
        for start in range(0, len(self._users), _AT_ONCE):
            users = self._users[start : start + _AT_ONCE]
            yield users, *self.windows(users, np.full(len(users), until_ms))
            self.release()

    def release(self) -> None:
        """Let go of the memory of what was read and written; it stays in its files, and comes back when it is asked."""
        self._columns.release()

    def _slots(self, place: Ints, number: Ints) -> Ints:
        return self._starts[place] + (number & (self._sizes[place] - 1))

    def _places_of(self, users: Ints) -> Ints:
        """Where these users (K,), ascending, are; those that are not there yet are put there."""
        at = np.searchsorted(self._users, users)
        new = np.ones(len(users), np.bool_)
        inside = at < len(self._users)
        new[inside] = self._users[at[inside]] != users[inside]
        if new.any():
            self._users = np.insert(self._users, at[new], users[new])
            for name in ("_starts", "_sizes", "_first", "_totals"):
                setattr(self, name, np.insert(getattr(self, name), at[new], 0))
        return np.searchsorted(self._users, users)

    def _require_order(self, place: Ints, first_known: Ints) -> None:
        some = self._totals[place] > 0
        newest = self._columns.arrays["available"][self._slots(place[some], self._totals[place[some]] - 1)]
        if (newest > first_known[some]).any():
            raise ValueError("events are appended in the order in which they become known")

    def _make_room(self, place: Ints, needed: Ints) -> None:
        """Blocks of at least ``needed`` events for these users, with the newest :attr:`limit` of the old ones."""
        small = needed > self._sizes[place]
        moving, sizes = place[small], np.maximum(_SMALLEST, _power_of_two(needed[small]))
        if not len(moving):
            return
        held = np.minimum(self._totals[moving] - self._first[moving], self.limit)
        first = self._totals[moving] - held
        number, owner = ranges(first, held), np.repeat(moving, held)
        kept = self._columns.read(self._slots(owner, number))
        self._columns.free(self._starts[moving], self._sizes[moving])
        self._starts[moving] = self._columns.allocate(sizes)
        self._sizes[moving], self._first[moving] = sizes, first
        self._columns.write(self._slots(owner, number), kept)

    def _known_before(self, place: Ints, times: Ints) -> Ints:
        """How many events of each user were known strictly before each time: a bisection of all at once."""
        low, high = self._first[place].copy(), self._totals[place].copy()
        available = self._columns.arrays["available"]
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            before = available[self._slots(place[open_], middle)] < times[open_]
            low[open_[before]] = middle[before] + 1
            high[open_[~before]] = middle[~before]
        return low


@dataclass
class _Columns:
    """One array for each field of an event, mapped from a file; blocks of them are handed out and taken back."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _files: dict[str, Any] = field(
        default_factory=lambda: {name: tempfile.TemporaryFile() for name in _TYPES}  # noqa: SIM115 - as long as this
    )
    _maps: dict[str, mmap.mmap] = field(default_factory=dict)
    _used: int = 0
    _room: int = 0
    _free: dict[int, Ints] = field(default_factory=dict)
    """Starts of blocks that were left, by size."""

    def __post_init__(self) -> None:
        self._grow(1 << 16)

    def read(self, slots: Ints) -> History:
        """The events at these places."""
        return History(*(self.arrays[name][slots].astype(np.int64) for name in _TYPES))

    def write(self, slots: Ints, events: History) -> None:
        """Put events at these places."""
        for name, array in self.arrays.items():
            array[slots] = getattr(events, name)

    def allocate(self, sizes: Ints) -> Ints:
        """Starts of blocks of these sizes (K,)."""
        starts = np.empty(len(sizes), np.int64)
        for size in np.unique(sizes):
            asked = np.flatnonzero(sizes == size)
            left = self._free.get(int(size), np.empty(0, np.int64))
            again, self._free[int(size)] = left[: len(asked)], left[len(asked) :]
            fresh = self._used + int(size) * np.arange(len(asked) - len(again))
            self._used += int(size) * len(fresh)
            starts[asked] = np.concatenate([again, fresh])
        if self._used > self._room:
            self._grow(int(_power_of_two(np.array([self._used]))[0]))
        return starts

    def free(self, starts: Ints, sizes: Ints) -> None:
        """Take back blocks; a size of 0 is none."""
        for size in np.unique(sizes[sizes > 0]):
            left = self._free.get(int(size), np.empty(0, np.int64))
            self._free[int(size)] = np.concatenate([left, starts[sizes == size]])

    def release(self) -> None:
        """Unmap the pages; what was written is in the files, which the kernel keeps as long as there is room."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def _grow(self, room: int) -> None:
        self._room = room
        for name, kind in _TYPES.items():
            size = room * np.dtype(kind).itemsize
            _reserve(self._files[name].fileno(), size)
            self._maps[name] = mmap.mmap(self._files[name].fileno(), size)
            self.arrays[name] = np.frombuffer(self._maps[name], kind)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers of ranges (K,), each ``lengths`` numbers from its start on, one range after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def _reserve(file: int, size: int) -> None:
    """Make room on the disk now: where there is none, a write to a mapped page would kill the process."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
            os.ftruncate(file, size)
            return
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RecastError(
            "StorageFull",
            f"{tempfile.gettempdir()} has no room for {size:,} bytes of users' histories ({error.strerror}): give the "
            "pod more ephemeral storage, or set TMPDIR to a folder that has it",
            retryable=True,
        ) from error


def _power_of_two(values: Ints) -> Ints:
    """The least power of two that is not below each value, which is at least 1."""
    exponents: Ints = np.frexp((values - 1).astype(np.float64))[1].astype(np.int64)
    return np.left_shift(np.int64(1), exponents)
