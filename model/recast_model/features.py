"""Requests to padded arrays: the one place where inputs are shaped, in training and in serving alike. NumPy only.

The trainer gathers a whole batch from histories that grow with its stream, a server has one user's events at a time;
both cut windows by the rule of :mod:`recast_model.history` and end in :class:`BatchArrays`, so that the same request
gives the same tensors on both sides.
:mod:`recast_model.batch` holds the torch form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recast_model.context import Context
from recast_model.history import Histories, History, Ints, pad_histories

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

UNKNOWN_ITEM = 0


@dataclass(frozen=True)
class Request:
    """One request to score: what a server knows of it."""

    user: int
    surface: int
    time: int  # ms
    candidates: Ints  # (M,) dense item indices
    history: History  # all that is known of the user's, in any order and from any time
    context: Context = field(default_factory=lambda: Context.given((), {}))  # of one request
    history_before: int = 0  # events that were known before those of the history, and are not among them


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
    row_ids: Ints | None = None
    context_values: Ints | None = None
    context_numbers: Floats | None = None


def pad_rows(values: Ints, starts: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    """Jagged rows as (B, M) and the mask of what is real; zeros elsewhere."""
    column = np.arange(int(lengths.max(initial=0)))
    valid = column[None, :] < lengths[:, None]
    if not len(values):
        return np.zeros(valid.shape, np.int64), valid
    return np.where(valid, values[np.where(valid, starts[:, None] + column, 0)], 0), valid


def collate(requests: Sequence[Request], history_length: int, *, surface_only: bool = False) -> BatchArrays:
    """A server's batch. Histories are cut to the window of ``history_length`` that each request sees.

    ``surface_only`` keeps only events of the request's own surface: what an expert reads.
    """
    users, surfaces, times = (
        np.array([getattr(r, name) for r in requests], np.int64) for name in ("user", "surface", "time")
    )
    places = np.arange(len(requests))  # not users: two requests of one user may bring different histories
    owners = np.repeat(places, np.array([len(r.history) for r in requests], np.int64))
    histories = Histories(owners, History.concatenate([r.history for r in requests]), by_surface=surface_only)
    before = np.array([r.history_before for r in requests], np.int64)
    windows = histories.window(places, surfaces, times, history_length, before)
    padded, lengths = pad_histories(histories.events, *windows)
    counts = np.array([len(r.candidates) for r in requests], np.int64)
    flat = np.concatenate([r.candidates for r in requests]) if requests else np.empty(0, np.int64)
    candidates, mask = pad_rows(flat.astype(np.int64, copy=False), np.cumsum(counts) - counts, counts)
    return BatchArrays(
        users=users,
        surfaces=surfaces,
        request_times=times,
        candidates=candidates,
        candidate_mask=mask,
        history_items=padded.items,
        history_surfaces=padded.surfaces,
        history_actions=padded.actions,
        history_times=padded.times,
        history_lengths=lengths,
        context_values=np.concatenate([r.context.values for r in requests]) if requests else None,
        context_numbers=np.concatenate([r.context.numbers for r in requests]) if requests else None,
    )
