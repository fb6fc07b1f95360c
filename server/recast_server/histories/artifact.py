"""The histories that a version brought with it, as a store: read-only, and as old as the version's watermark."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from recast_model.features import UNKNOWN_ITEM
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_server.histories.store import Append, Appended, Behind, Read, ReadOnlyError
from recast_server.histories.user_history import UserHistory
from recast_server.runtime.events import Events


class ArtifactStore:
    """A :class:`recast_server.histories.store.HistoryStore` over a version's snapshot.

    The snapshot has each user's window at the watermark and no more: its first event counts as the user's first.
    """

    writable = False

    def __init__(
        self, snapshot: HistorySnapshot, items: ItemTable, surfaces: tuple[str, ...], tasks: tuple[str, ...]
    ) -> None:
        self._snapshot, self._surfaces, self._tasks = snapshot, surfaces, tasks
        # An item that the version did not know has lost its id: it gets one that the version does not know either.
        unknown = next(number for number, each in enumerate([*items.ids.tolist(), -1]) if number != each)
        self._ids = np.insert(items.ids, UNKNOWN_ITEM, unknown)  # (I + 1,) by dense index

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        """See ``HistoryStore``. It has had no append: who asks for one is told that it is behind."""
        if at_least_sequence:
            return Behind(0)
        seen = self._snapshot.lookup(user)
        names = (self._surfaces, self._tasks)
        events = Events(self._ids[seen.items], seen.surfaces, seen.actions, seen.times, seen.available, *names)
        totals = np.bincount(seen.surfaces, minlength=len(self._surfaces)).tolist()
        return Read(UserHistory(user, 0, len(seen), len(seen), events, tuple(totals)), self._snapshot.until)

    async def append(self, append: Append, now_ms: int) -> Appended:
        """Always raises :class:`ReadOnlyError`."""
        raise ReadOnlyError("histories come with the version: choose a store in spec.serving.histories to append to")

    async def users(self) -> AsyncIterator[int]:
        """See ``HistoryStore``."""
        for user in self._snapshot.users.tolist():
            yield user

    async def close(self) -> None:
        """See ``HistoryStore``."""
