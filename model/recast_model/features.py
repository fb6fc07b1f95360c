"""Requests to padded arrays: the one place where inputs are shaped, in training and in serving alike. NumPy only.

The trainer gathers a whole batch from its event log, a server has one user's events at a time; both end in
:func:`pad_histories` and :class:`BatchArrays`, so that the same request gives the same tensors on both sides.
:mod:`recast_model.batch` holds the torch form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

UNKNOWN_ITEM = 0


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
    """Events of one user, oldest first; or of several users, one after the other. All arrays are (n,) int64."""

    items: Ints  # dense item index, 0 unknown
    surfaces: Ints
    actions: Ints  # bitmask over tasks
    times: Ints  # ms

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def empty(cls) -> History:
        """A user never seen."""
        none = np.empty(0, np.int64)
        return cls(none, none, none, none)

    def take(self, index: Ints | slice) -> History:
        """The events that an index names."""
        return History(self.items[index], self.surfaces[index], self.actions[index], self.times[index])

    def window(self, limit: int) -> History:
        """The anchored window of one user's events."""
        return self.take(slice(int(anchored_start(np.asarray(len(self)), limit)), None))

    def on_surface(self, surface: int) -> History:
        """The events of one surface."""
        return self.take(np.flatnonzero(self.surfaces == surface))

    @classmethod
    def concatenate(cls, parts: Sequence[History]) -> History:
        """Several users' events, one after the other."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.surfaces for part in parts]),
            np.concatenate([part.actions for part in parts]),
            np.concatenate([part.times for part in parts]),
        )


@dataclass(frozen=True)
class Request:
    """One request to score: what a server knows of it."""

    user: int
    surface: int
    time: int  # ms
    candidates: Ints  # (M,) dense item indices
    history: History


@dataclass(frozen=True)
class BatchArrays:
    """A batch as NumPy arrays; shapes and meaning as in :class:`recast_model.batch.RequestBatch`."""

    users: Ints
    surfaces: Ints
    request_times: Ints
    candidates: Ints
    candidate_mask: Bools
    history_items: Ints
    history_surfaces: Ints
    history_actions: Ints
    history_times: Ints
    history_lengths: Ints
    labels: Floats | None = None
    label_mask: Bools | None = None
    row_ids: Ints | None = field(default=None)
    available_at: Ints | None = field(default=None)


def pad_histories(events: History, starts: Ints, lengths: Ints) -> tuple[History, Ints]:
    """Slices ``events[starts[b] : starts[b] + lengths[b]]`` as (B, N) arrays, oldest first, zeros after the end.

    N is the longest of this batch. Returns the padded events and the lengths (B,).
    """
    width = int(lengths.max(initial=0))
    column = np.arange(width)
    valid = column[None, :] < lengths[:, None]  # (B, N)
    if not len(events):
        zeros = np.zeros(valid.shape, np.int64)
        return History(zeros, zeros, zeros, zeros), lengths
    index = np.where(valid, starts[:, None] + column[None, :], 0)

    def padded(values: Ints) -> Ints:
        return np.where(valid, values[index], 0)

    return History(*(padded(v) for v in (events.items, events.surfaces, events.actions, events.times))), lengths


def pad_rows(values: Ints, starts: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    """Jagged rows as (B, M) and the mask of what is real; zeros elsewhere."""
    column = np.arange(int(lengths.max(initial=0)))
    valid = column[None, :] < lengths[:, None]
    if not len(values):
        return np.zeros(valid.shape, np.int64), valid
    return np.where(valid, values[np.where(valid, starts[:, None] + column, 0)], 0), valid


def collate(requests: Sequence[Request], history_length: int, *, surface_only: bool = False) -> BatchArrays:
    """A server's batch. Histories are cut to the anchored window of ``history_length``.

    ``surface_only`` keeps only events of the request's own surface: what an expert reads.
    """
    histories = [
        (r.history.on_surface(r.surface) if surface_only else r.history).window(history_length) for r in requests
    ]
    lengths = np.array([len(history) for history in histories], np.int64)
    padded, lengths = pad_histories(History.concatenate(histories), np.cumsum(lengths) - lengths, lengths)
    counts = np.array([len(r.candidates) for r in requests], np.int64)
    flat = np.concatenate([r.candidates for r in requests]) if requests else np.empty(0, np.int64)
    candidates, mask = pad_rows(flat.astype(np.int64, copy=False), np.cumsum(counts) - counts, counts)
    return BatchArrays(
        users=np.array([r.user for r in requests], np.int64),
        surfaces=np.array([r.surface for r in requests], np.int64),
        request_times=np.array([r.time for r in requests], np.int64),
        candidates=candidates,
        candidate_mask=mask,
        history_items=padded.items,
        history_surfaces=padded.surfaces,
        history_actions=padded.actions,
        history_times=padded.times,
        history_lengths=lengths,
    )
