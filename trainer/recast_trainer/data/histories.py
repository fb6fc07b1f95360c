"""Users' histories under the availability rule: a request sees an event only once the event's labels were known.

History holds engagements, impressions with at least one positive label, or every row where the data set says so. Events
of one user stand in the order in which they became available, so a history only ever grows at its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recast_model.features import History, anchored_start
from recast_model.history import HistorySnapshot
from recast_model.items import ItemTable
from recast_trainer.data.schema import Rows

Ints = NDArray[np.int64]


class EventLog:
    """All events seen so far, sorted by group and availability. A group is a user, or a user on one surface.

    Rows may be added long before they are available; :meth:`window` hides them until then. A request is answered
    rightly when every row that was available at its time has been added.
    """

    def __init__(self, items: ItemTable, *, by_surface: bool = False, engagements_only: bool = True) -> None:
        self._items, self.by_surface, self._engagements_only = items, by_surface, engagements_only
        none = np.empty(0, np.int64)
        self._users = self._available = self._row_ids = none
        self.events = History.empty()
        self._index = self._build_index()

    def __len__(self) -> int:
        return len(self.events)

    def add(self, rows: Rows) -> None:
        """Add the events among these rows."""
        actions = rows.actions()
        keep = np.flatnonzero(actions) if self._engagements_only else np.arange(len(actions))
        fresh = History(self._items.index(rows.items[keep]), rows.surfaces[keep], actions[keep], rows.event_times[keep])
        users = np.concatenate([self._users, rows.users[keep]])
        available = np.concatenate([self._available, rows.available_at[keep]])
        row_ids = np.concatenate([self._row_ids, rows.row_ids[keep]])
        events = History.concatenate([self.events, fresh])
        surfaces = events.surfaces if self.by_surface else np.zeros_like(users)
        order = np.lexsort((row_ids, available, surfaces, users))
        self._users, self._available, self._row_ids = users[order], available[order], row_ids[order]
        self.events = events.take(order)
        self._index = self._build_index()

    def window(self, users: Ints, surfaces: Ints, times: Ints, limit: int) -> tuple[Ints, Ints]:
        """Where in :attr:`events` the window of each request (B,) starts, and its length, at most ``limit``.

        The window holds events with ``available_at <= times`` and starts at an anchor
        (:func:`recast_model.features.anchored_start`).
        """
        first, past = self._bounds(users, surfaces, times)
        skipped = anchored_start(past - first, limit)
        return first + skipped, past - first - skipped

    def _bounds(self, users: Ints, surfaces: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Start of each request's group, and the place after its last available event."""
        groups, starts, instants, key = self._index
        if not len(starts):
            return np.zeros_like(users), np.zeros_like(users)
        rank = _find_group(groups, np.stack([users, surfaces if self.by_surface else np.zeros_like(users)], 1))
        # Instants at or before a request's time: an event of one of these is visible.
        visible = np.searchsorted(instants, times, side="right")
        safe = np.maximum(rank, 0)
        past = np.searchsorted(key, safe * (len(instants) + 1) + visible, side="left")
        return np.where(rank >= 0, starts[safe], 0), np.where(rank >= 0, past, 0)

    def _build_index(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Groups (G, 2), their starts (G,), the distinct instants, and per event an ascending key (group, instant)."""
        surfaces = self.events.surfaces if self.by_surface else np.zeros_like(self._users)
        groups, starts = _groups(self._users, surfaces)
        instants = np.unique(self._available)
        ranks = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(self._users))))
        return groups, starts, instants, ranks * (len(instants) + 1) + np.searchsorted(instants, self._available)

    def snapshot(self, limit: int, until_ms: int) -> HistorySnapshot:
        """Every user's window as a request at ``until_ms`` would see it; for a log that is not by surface."""
        if self.by_surface:
            raise ValueError("a snapshot is of whole users: make the log without by_surface")
        users = np.unique(self._users)
        starts, lengths = self.window(users, np.zeros_like(users), np.full_like(users, until_ms), limit)
        keep = lengths > 0
        users, starts, lengths = users[keep], starts[keep], lengths[keep]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return HistorySnapshot(users, offsets, self.events.take(index), until_ms)


def _groups(users: Ints, surfaces: Ints) -> tuple[Ints, Ints]:
    """Distinct (user, surface) pairs (G, 2) of sorted events, and where each begins (G,)."""
    changed = (np.diff(users, prepend=users[:1] - 1) != 0) | (np.diff(surfaces, prepend=surfaces[:1]) != 0)
    starts = np.flatnonzero(changed)
    return np.stack([users[starts], surfaces[starts]], 1), starts


def _find_group(groups: Ints, asked: Ints) -> Ints:
    """Place of each asked pair (B, 2) among the sorted groups; -1 where it is not."""
    if not len(groups):
        return np.full(len(asked), -1)
    low = np.searchsorted(groups[:, 0], asked[:, 0], side="left")
    high = np.searchsorted(groups[:, 0], asked[:, 0], side="right")
    place = np.full(len(asked), -1)
    for step in range(int((high - low).max(initial=0))):  # as many as one user has surfaces
        candidate = np.minimum(low + step, len(groups) - 1)
        match = (low + step < high) & (groups[candidate, 1] == asked[:, 1])
        place[match] = candidate[match]
    return place
