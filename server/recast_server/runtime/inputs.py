"""A request in raw ids and names -> what the networks read. Both servers, so that both see the same history.

Nothing here refuses: an item that the version never saw becomes the unknown row; a surface or action in an inline
history that it does not know is left out, because a client may serve newer surfaces than a version was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recast_model.features import UNKNOWN_ITEM, History, Ints, Request

if TYPE_CHECKING:
    from recast_model.history import HistorySnapshot
    from recast_model.items import ItemTable


@dataclass(frozen=True)
class Event:
    """One past action of the user, in raw ids and names."""

    item: int
    surface: str
    time_ms: int
    actions: Sequence[str]


@dataclass(frozen=True)
class RequestEncoder:
    """Encodes with what a version knows: items, users' histories, and names of surfaces and tasks in its order."""

    items: ItemTable
    histories: HistorySnapshot
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]

    def encode(
        self, user: int, surface: str, time_ms: int, candidates: Sequence[int], history: Sequence[Event] | None
    ) -> Request:
        """The request in dense indices. ``history`` stands in for the stored one; a user without one has none."""
        events = self.histories.lookup(user) if history is None else self._inline(history)
        # What lies in the request's future was not available to it; asking about the past must not leak the present.
        if len(events) and events.times[-1] > time_ms:
            events = events.take(np.flatnonzero(events.times <= time_ms))
        dense = self.items.index(np.asarray(candidates, np.int64))
        return Request(user, self.surfaces.index(surface), time_ms, dense, events)

    @staticmethod
    def unknown_items(candidates: Sequence[int], dense: Ints) -> list[int]:
        """The candidates that the version never saw, each once, in the order asked."""
        return list(dict.fromkeys(candidates[int(row)] for row in np.flatnonzero(dense == UNKNOWN_ITEM)))

    def _inline(self, history: Sequence[Event]) -> History:
        known = sorted((event for event in history if event.surface in self.surfaces), key=lambda event: event.time_ms)
        return History(
            self.items.index(np.array([event.item for event in known], np.int64)),
            np.array([self.surfaces.index(event.surface) for event in known], np.int64),
            np.array([self._mask(event.actions) for event in known], np.int64),
            np.array([event.time_ms for event in known], np.int64),
        )

    def _mask(self, actions: Sequence[str]) -> int:
        return sum(1 << bit for bit, task in enumerate(self.tasks) if task in actions)
