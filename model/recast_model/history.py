"""What a request sees of the past: the one rule, for training, evaluation, artefacts and servers alike. NumPy only.

An event has two times: when it happened, and when its labels were known. A request sees the events of its user that
were known strictly before it, in the order in which they became known, so a history only ever grows at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def anchored_start(total: Ints, limit: int) -> Ints:
    """Where the history window starts among ``total`` events (any shape), so that at most ``limit`` are kept.

    The start moves in steps of ``limit // 4``: within a step a window only grows at its end, which is what lets
    keys and values of its beginning be reused.
    """
    step = max(1, limit // 4)
    excess = np.maximum(0, total - limit)
    return -(-excess // step) * step


@dataclass(frozen=True)
class History:
    """Events of one user, in the order in which they became known; or of several users, one after the other.

    All arrays are int64, of one shape: (n,), or (B, N) where padded.
    """

    items: Ints  # dense item index, 0 unknown
    surfaces: Ints
    actions: Ints  # bitmask over tasks
    times: Ints  # ms, when it happened
    available: Ints  # ms, when its labels were known

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def empty(cls) -> History:
        """A user never seen."""
        return cls(*(np.empty(0, np.int64) for _ in fields(cls)))

    def map(self, change: Callable[[Ints], Ints]) -> History:
        """The same change made to every array."""
        return History(*(change(getattr(self, entry.name)) for entry in fields(self)))

    def take(self, index: Ints | slice) -> History:
        """The events that an index names."""
        return self.map(lambda values: values[index])

    @classmethod
    def concatenate(cls, parts: Sequence[History]) -> History:
        """Several users' events, one after the other."""
        if not parts:
            return cls.empty()
        return cls(*(np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(cls)))


class Histories:
    """Events of many users, by group and then in the order in which they became known.

    A group is a user, or a user on one surface. Events known at the same instant keep the order they are given in.
    """

    def __init__(self, users: Ints, events: History, *, by_surface: bool = False) -> None:
        """``users`` (n,) are the events' users, by any integer; events may come in any order."""
        surfaces = events.surfaces if by_surface else np.zeros_like(users)
        order = np.lexsort((events.available, surfaces, users))
        self.users, self.events, self.by_surface = users[order], events.take(order), by_surface
        self._groups, self._starts = _groups(self.users, surfaces[order])
        self._instants = np.unique(self.events.available)
        rank = np.repeat(np.arange(len(self._starts)), np.diff(np.append(self._starts, len(users))))
        # Ascending over all events, since a group's instants are: (group, instant) as one number.
        self._keys = rank * (len(self._instants) + 1) + np.searchsorted(self._instants, self.events.available)

    def __len__(self) -> int:
        return len(self.events)

    def window(self, users: Ints, surfaces: Ints, times: Ints, limit: int, before: Ints | int = 0) -> tuple[Ints, Ints]:
        """Where in :attr:`events` the window of each request (B,) starts, and its length, at most ``limit``.

        It holds what was known strictly before ``times`` (ms) and starts at an anchor (:func:`anchored_start`).
        ``before`` (B,) events of each group came before those that are here: they move the anchor. The window must
        begin after them.
        """
        first, past = self._bounds(users, surfaces, times)
        skipped = np.maximum(0, anchored_start(before + past - first, limit) - before)
        return first + skipped, past - first - skipped

    def _bounds(self, users: Ints, surfaces: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Start of each request's group, and the place after its last event that was known."""
        if not len(self._starts):
            return np.zeros_like(users), np.zeros_like(users)
        asked = np.stack([users, surfaces if self.by_surface else np.zeros_like(users)], 1)
        rank = _find_group(self._groups, asked)
        # "left": an instant that equals the request's time is not before it.
        known = np.searchsorted(self._instants, times, side="left")
        safe = np.maximum(rank, 0)
        past = np.searchsorted(self._keys, safe * (len(self._instants) + 1) + known, side="left")
        return np.where(rank >= 0, self._starts[safe], 0), np.where(rank >= 0, past, 0)


def pad_histories(events: History, starts: Ints, lengths: Ints) -> tuple[History, Ints]:
    """Slices ``events[starts[b] : starts[b] + lengths[b]]`` as (B, N) arrays, oldest first, zeros after the end.

    N is the longest of this batch. Returns the padded events and the lengths (B,).
    """
    column = np.arange(int(lengths.max(initial=0)))
    valid = column[None, :] < lengths[:, None]  # (B, N)
    if not len(events):
        return History(*(np.zeros(valid.shape, np.int64) for _ in fields(History))), lengths
    index = np.where(valid, starts[:, None] + column[None, :], 0)
    return events.map(lambda values: np.where(valid, values[index], 0)), lengths


def _groups(users: Ints, surfaces: Ints) -> tuple[Ints, Ints]:
    """Distinct (user, surface) pairs (G, 2) of sorted events, and where each begins (G,)."""
    changed = (np.diff(users, prepend=users[:1] - 1) != 0) | (np.diff(surfaces, prepend=surfaces[:1]) != 0)
    starts = np.flatnonzero(changed)
    return np.stack([users[starts], surfaces[starts]], 1), starts


def _find_group(groups: Ints, asked: Ints) -> Ints:
    """Place of each asked pair (B, 2) among the sorted groups; -1 where it is not."""
    low = np.searchsorted(groups[:, 0], asked[:, 0], side="left")
    high = np.searchsorted(groups[:, 0], asked[:, 0], side="right")
    place = np.full(len(asked), -1)
    for step in range(int((high - low).max(initial=0))):  # as many as one user has surfaces
        candidate = np.minimum(low + step, len(groups) - 1)
        match = (low + step < high) & (groups[candidate, 1] == asked[:, 1])
        place[match] = candidate[match]
    return place
