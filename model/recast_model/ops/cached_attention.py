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
    q: Tensor, k: Tensor, v: Tensor, falling: Tensor, time: Tensor, buckets: Tensor, *, scale: float
) -> Tensor:
    """What the last Q of N events see of all up to themselves: sums (H, Q, d), to be divided by ``attn_norm_len``.

    ``q`` (H, Q, d), ``k`` and ``v`` (H, N, d) views of what is kept. Terms are ``falling`` by distance in places, from
    N - 1 down to 0 and, of any value, Q - 1 more: (H, N + Q - 1 or longer); and ``time`` (H, T) at ``buckets`` (Q, N).
    """
    rows, known = q.shape[1], k.shape[1]
    attended = q.new_zeros(q.shape)
    last_first = torch.arange(rows - 1, -1, -1, device=q.device)
    for keys in _blocks(known):
        scores = time.index_select(1, buckets[:, keys].flatten()).view(len(q), rows, -1)
        # The last row is at distance N - 1 - j from key j: from the j-th term on. Each row above it begins one later.
        # Rows are turned round by index: flip would lay them out as columns.
        by_distance = falling[:, keys.start : keys.stop + rows - 1].unfold(1, keys.stop - keys.start, 1)
        scores += by_distance.index_select(1, last_first)
        weights = F.silu(scores.baddbmm_(q, k[:, keys].mT, alpha=scale), inplace=True)
        if keys.stop > known - rows:
            weights.tril_(known - rows - keys.start)  # after SiLU: SiLU(-inf) is NaN
        attended.baddbmm_(weights, v[:, keys])
    return attended


def _blocks(keys: int) -> Iterator[slice]:
    for begin in range(0, keys, KEYS):
        yield slice(begin, min(begin + KEYS, keys))
