"""The events among a data set's rows, as :class:`recast_model.history.Histories` that grow with every segment.

History holds engagements, impressions with at least one positive label, or every row where the data set says so.
"""

from __future__ import annotations

import numpy as np

from recast_model.history import Histories, History, Ints
from recast_model.items import ItemTable
from recast_trainer.data.schema import Rows


class EventLog:
    """All events seen so far. Rows may be added long before they are known: a window hides them until then.

    A request is answered rightly when every row that was known at its time has been added.
    """

    def __init__(self, items: ItemTable, *, by_surface: bool = False, engagements_only: bool = True) -> None:
        self._items, self._engagements_only = items, engagements_only
        self._row_ids = np.empty(0, np.int64)
        self.histories = Histories(self._row_ids, History.empty(), by_surface=by_surface)

    def add(self, rows: Rows) -> None:
        """Add the events among these rows; rows of one request are added together."""
        actions = rows.actions()
        keep = np.flatnonzero(actions) if self._engagements_only else np.arange(len(actions))
        fresh = History(
            self._items.index(rows.items[keep]),
            rows.surfaces[keep],
            actions[keep],
            rows.event_times[keep],
            known_after_the_request(rows)[keep],
        )
        present = self.histories
        row_ids = np.concatenate([self._row_ids, rows.row_ids[keep]])
        users = np.concatenate([present.users, rows.users[keep]])
        events = History.concatenate([present.events, fresh])
        # The same order however the log was filled: of what became known at one instant, the lower row id is first.
        order = np.lexsort((row_ids, events.available, events.surfaces if present.by_surface else users * 0, users))
        self._row_ids = row_ids[order]
        self.histories = Histories(users[order], events.take(order), by_surface=present.by_surface)


def known_after_the_request(rows: Rows) -> Ints:
    """(R,) ms at which each row may become history: when its labels are known, and never within its own request.

    A request whose rows were shown one after the other must not see its first answers while its last are ranked.
    """
    if not len(rows):
        return rows.available_at
    order = np.lexsort((rows.request_ids, rows.users))
    users, requests = rows.users[order], rows.request_ids[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (users[1:] != users[:-1]) | (requests[1:] != requests[:-1])
    starts = np.flatnonzero(first)
    last_shown = np.maximum.reduceat(rows.event_times[order], starts)
    known = np.empty(len(rows), np.int64)
    known[order] = np.repeat(last_shown, np.diff(np.append(starts, len(rows))))
    return np.maximum(known, rows.available_at)
