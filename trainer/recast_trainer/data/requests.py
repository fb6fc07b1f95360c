"""Requests as training reads them: what a server saw at once stays together, with the history that it saw.

A request is one user on one surface at one instant with its slate of candidates, so history is computed once for the
slate. Shapes come from :mod:`recast_model.features`, the code that servers use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recast_model.features import BatchArrays, pad_rows
from recast_model.history import History, pad_histories
from recast_model.items import ItemTable
from recast_trainer.data.histories import GrowingHistories, ranges
from recast_trainer.data.schema import Rows

Ints = NDArray[np.int64]
Index = Ints | NDArray[np.bool_] | slice


@dataclass(frozen=True)
class Slates:
    """Q requests with their R rows, in time order; ``len`` counts requests."""

    rows: Rows  # request after request
    starts: Ints  # (Q,) first row of each

    @classmethod
    def of(cls, rows: Rows) -> Slates:
        """Rows of one request must agree in user, surface and time; an id that does not counts as several requests."""
        order = np.lexsort((rows.row_ids, rows.surfaces, rows.users, rows.request_ids, rows.event_times))
        rows = rows.take(order)
        keys = (rows.event_times, rows.request_ids, rows.users, rows.surfaces)
        changed = np.ones(len(rows), np.bool_)
        changed[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
        return Slates(rows, np.flatnonzero(changed))

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def counts(self) -> Ints:
        """(Q,) rows of each."""
        return np.diff(np.append(self.starts, len(self.rows)))

    @property
    def users(self) -> Ints:
        """(Q,) raw id of each one's user."""
        return self.rows.users[self.starts]

    @property
    def times(self) -> Ints:
        """(Q,) ms at which each was made."""
        return self.rows.event_times[self.starts]

    @property
    def surfaces(self) -> Ints:
        """(Q,) index of each one's surface."""
        return self.rows.surfaces[self.starts]

    @property
    def context_numbers(self) -> NDArray[np.float32]:
        """(Q, K) numeric features of each one's context, NaN where unknown."""
        return self.rows.context_numbers[self.starts]

    @property
    def known(self) -> tuple[Ints, Ints]:
        """(Q,) and (Q,) ms at which the first and the last label of each was known."""
        if not len(self):
            return self.starts, self.starts
        first, last = self.rows.first_known, self.rows.last_known
        return np.minimum.reduceat(first, self.starts), np.maximum.reduceat(last, self.starts)

    @property
    def matured(self) -> Ints:
        """(Q,) ms at which the last label of each was known."""
        return self.known[1]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(Q,) which of them have a label."""
        if not len(self):
            return np.zeros(0, np.bool_)
        labelled: NDArray[np.bool_] = np.logical_or.reduceat(self.rows.label_mask.any(1), self.starts)
        return labelled

    def rows_of(self, index: Index) -> Ints:
        """Where the rows of some of the requests lie, request after request in the order of the index."""
        return ranges(self.starts[index], self.counts[index])

    def take(self, index: Index) -> Slates:
        """The requests that an index, a mask or a slice names, in its order."""
        counts = self.counts[index]
        return Slates(self.rows.take(self.rows_of(index)), np.cumsum(counts) - counts)

    def seeing(self, histories: GrowingHistories) -> Requests:
        """The same with the windows that the histories have for them now."""
        return Requests(self.rows, self.starts, *histories.windows(self.users, self.times))


@dataclass(frozen=True)
class Requests(Slates):
    """Requests with what each saw of the past."""

    history: History  # window after window; items are raw ids
    history_lengths: Ints  # (Q,)

    def take(self, index: Index) -> Requests:
        """The requests that an index, a mask or a slice names, in its order."""
        some, lengths = super().take(index), self.history_lengths[index]
        windows = np.cumsum(self.history_lengths) - self.history_lengths
        return Requests(some.rows, some.starts, self.history.take(ranges(windows[index], lengths)), lengths)

    @classmethod
    def concatenate(cls, parts: Sequence[Requests]) -> Requests:
        """The requests of several parts, in order; at least one part."""
        offsets = np.cumsum([0, *(len(part.rows) for part in parts)])
        return cls(
            Rows.concatenate([part.rows for part in parts]),
            np.concatenate([part.starts + offset for part, offset in zip(parts, offsets, strict=False)]),
            History.concatenate([part.history for part in parts]),
            np.concatenate([part.history_lengths for part in parts]),
        )

    def batch(self, items: ItemTable) -> BatchArrays:
        """All of them as a model reads them that knows these items."""
        starts, counts = self.starts, self.counts
        windows = np.cumsum(self.history_lengths) - self.history_lengths
        history, lengths = pad_histories(self.history, windows, self.history_lengths)
        real = np.arange(history.items.shape[1]) < lengths[:, None]
        candidates, mask = pad_rows(items.index(self.rows.items), starts, counts)
        place = np.where(mask, starts[:, None] + np.arange(mask.shape[1]), 0)  # (B, M) into rows
        return BatchArrays(
            users=self.users,
            surfaces=self.surfaces,
            request_times=self.times,
            candidates=candidates,
            candidate_mask=mask,
            history_items=np.where(real, items.index(history.items), 0),
            history_surfaces=history.surfaces,
            history_actions=history.actions,
            history_times=history.times,
            history_lengths=lengths,
            labels=np.where(mask[..., None], self.rows.labels[place], np.float32(0)),
            label_mask=self.rows.label_mask[place] & mask[..., None],
            row_ids=np.where(mask, self.rows.row_ids[place], 0),
            context_values=self.rows.context_values[starts],
            context_numbers=self.context_numbers,
        )

    def with_labels(self, chosen: NDArray[np.bool_]) -> Requests:
        """The same requests with those labels (R, T) alone."""
        return replace(self, rows=replace(self.rows, label_mask=self.rows.label_mask & chosen))

    def base_rates(self, surfaces: int) -> torch.Tensor:
        """(surfaces, tasks) share of positive labels; NaN where there is no label.

        Counted with half a positive and half a negative more, so that it is never 0 or 1.
        """
        shape = (surfaces, self.rows.labels.shape[1])
        counts, positives = np.zeros(shape), np.zeros(shape)
        np.add.at(counts, self.rows.surfaces, self.rows.label_mask)
        np.add.at(positives, self.rows.surfaces, self.rows.labels * self.rows.label_mask)
        return torch.from_numpy(np.where(counts > 0, (positives + 0.5) / (counts + 1), np.nan))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it by name, for a file; :meth:`from_arrays` reads it."""
        found = {f"rows.{entry.name}": getattr(self.rows, entry.name) for entry in fields(Rows)}
        found |= {f"history.{entry.name}": getattr(self.history, entry.name) for entry in fields(History)}
        found |= {"starts": self.starts, "history_lengths": self.history_lengths}
        return {name: np.ascontiguousarray(array) for name, array in found.items()}

    @classmethod
    def from_arrays(cls, found: Mapping[str, NDArray[Any]]) -> Requests:
        """What :meth:`arrays` gave. Raises ``KeyError`` where something is missing."""
        return cls(
            Rows(**{entry.name: found[f"rows.{entry.name}"] for entry in fields(Rows)}),
            found["starts"],
            History(**{entry.name: found[f"history.{entry.name}"] for entry in fields(History)}),
            found["history_lengths"],
        )
