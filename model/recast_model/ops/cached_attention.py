"""Attention of new rows of one request over keys and values of its history that are kept. Inference alone.

Computes what :mod:`recast_model.ops.hstu_attention` does for these rows. There everything lies packed for one batch
that is computed and forgotten; here keys and values lie where they are kept, and are read there without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

KEYS = 256
"""Keys at a time: few enough that the scores of a block stay in a core's cache."""


def candidates_attend(q: Tensor, k: Tensor, v: Tensor, terms: Tensor, *, scale: float) -> Tensor:
    """What candidates see of their request's history: sums (H, C, d), to be divided by ``attn_norm_len``.

    ``q`` (H, C, d), ``k`` and ``v`` (H, N, d) views of what is kept, ``terms`` (H, 1, N) what is added to scores.
    """
    attended = q.new_zeros(q.shape)
    for keys in _blocks(k.shape[1]):
        scores = torch.baddbmm(terms[..., keys], q, k[:, keys].mT, alpha=scale)
        attended.baddbmm_(F.silu(scores, inplace=True), v[:, keys])
    return attended


def candidate_attends_itself(q: Tensor, k: Tensor, v: Tensor, terms: Tensor, *, scale: float) -> Tensor:
    """What candidates (C, H, d) see of themselves, to be divided by ``attn_norm_len``; ``terms`` (H,)."""
    scores = (q * k).sum(-1).mul_(scale).add_(terms)  # (C, H)
    return F.silu(scores, inplace=True)[..., None] * v


def events_attend(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, time: Tensor, buckets: Tensor, *, scale: float
) -> Tensor:
    """What the last Q of N events see of all up to themselves: sums (H, Q, d), to be divided by ``attn_norm_len``.

    ``q`` (H, Q, d), ``k`` and ``v`` (H, N, d) views of what is kept. Terms are ``position`` (H, P + 1) by distance in
    places, of which the last stands for all beyond, and ``time`` (H, T) at ``buckets`` (Q, N).
    """
    rows, known = q.shape[1], k.shape[1]
    attended = q.new_zeros(q.shape)
    for keys in _blocks(known):
        scores = time.index_select(1, buckets[:, keys].flatten()).view(len(q), rows, -1)
        scores += _by_distance(position, rows, known, keys)
        weights = F.silu(scores.baddbmm_(q, k[:, keys].mT, alpha=scale), inplace=True)
        if keys.stop > known - rows:
            weights.tril_(known - rows - keys.start)  # after SiLU: SiLU(-inf) is NaN
        attended.baddbmm_(weights, v[:, keys])
    return attended


def _by_distance(position: Tensor, rows: int, known: int, keys: slice) -> Tensor:
    """Terms (H, rows, keys) of the distances between the last ``rows`` of ``known`` events and keys.

    What lies after a row has the term of no distance: it is not seen.
    """
    # Distances fall from the last row's to the first key. Each row's terms are a view that starts one place later than
    # those of the row below it.
    count = keys.stop - keys.start
    farthest = known - 1 - keys.start
    apart = torch.arange(farthest, farthest - count - rows + 1, -1, device=position.device)
    falling = position.index_select(1, apart.clamp_(0, position.shape[1] - 1))
    last_first = torch.arange(rows - 1, -1, -1, device=position.device)
    return falling.unfold(1, count, 1).index_select(1, last_first)  # flip would lay rows out as columns


def _blocks(keys: int) -> Iterator[slice]:
    for begin in range(0, keys, KEYS):
        yield slice(begin, min(begin + KEYS, keys))
