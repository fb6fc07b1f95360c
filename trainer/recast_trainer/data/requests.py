"""From impressions to requests, and from requests to batches: what a server saw at once stays together.

A request is one user on one surface at one instant with its slate of candidates, so history is computed once for the
slate. Shapes come from :mod:`recast_model.features`, the code that servers use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recast_model.features import BatchArrays, pad_rows
from recast_model.history import pad_histories
from recast_model.items import ItemTable
from recast_trainer.data.histories import EventLog
from recast_trainer.data.schema import Rows

Ints = NDArray[np.int64]


class RequestTable:
    """The requests among some rows, in time order. ``len`` counts requests.

    Rows of one request must agree in user, surface and time; a request id that does not counts as several requests.
    """

    def __init__(self, rows: Rows, items: ItemTable) -> None:
        order = np.lexsort((rows.row_ids, rows.surfaces, rows.users, rows.request_ids, rows.event_times))
        self.rows = rows.take(order)
        self.item_index = items.index(self.rows.items)
        keys = (self.rows.event_times, self.rows.request_ids, self.rows.users, self.rows.surfaces)
        changed = np.ones(len(rows), np.bool_)
        changed[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
        self.starts: Ints = np.flatnonzero(changed)
        self.counts: Ints = np.diff(np.append(self.starts, len(rows)))

    def __len__(self) -> int:
        return len(self.starts)

    def on_surface(self, surface: int) -> Ints:
        """Indices of the requests on one surface."""
        return np.flatnonzero(self.rows.surfaces[self.starts] == surface)

    def batch(self, index: Ints, log: EventLog, history_length: int) -> BatchArrays:
        """The requests at ``index`` (B,) with the histories that ``log`` shows at their times."""
        starts, counts = self.starts[index], self.counts[index]
        users, surfaces = self.rows.users[starts], self.rows.surfaces[starts]
        times = self.rows.event_times[starts]
        seen = log.histories
        history, lengths = pad_histories(seen.events, *seen.window(users, surfaces, times, history_length))
        candidates, mask = pad_rows(self.item_index, starts, counts)
        place = np.where(mask, starts[:, None] + np.arange(mask.shape[1]), 0)  # (B, M) into rows
        real = mask[..., None]
        return BatchArrays(
            users=users,
            surfaces=surfaces,
            request_times=times,
            candidates=candidates,
            candidate_mask=mask,
            history_items=history.items,
            history_surfaces=history.surfaces,
            history_actions=history.actions,
            history_times=history.times,
            history_lengths=lengths,
            labels=np.where(real, self.rows.labels[place], np.float32(0)),
            label_mask=self.rows.label_mask[place] & real,
            row_ids=np.where(mask, self.rows.row_ids[place], 0),
            available_at=np.where(mask, self.rows.available_at[place], 0),
        )
