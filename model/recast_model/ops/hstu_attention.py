"""Pointwise attention of HSTU with a target-aware mask: the PyTorch reference.

Weights are ``SiLU(score) / attn_norm_len``, not a softmax (arXiv 2402.17152). The mask is never built as a matrix over
history and candidates together; its two cases are two products:

* a history row sees itself and earlier history, and no candidate;
* a candidate sees all of its request's history and itself, and no other candidate.

Padded keys need no mask: their values are zero, and a pointwise weight times zero adds nothing. That, and the constant
divisor, is why padding and other candidates cannot change a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values of one kind of row: (B, H, rows, d) float, padded rows zero. K and V share rows."""

    k: Tensor
    v: Tensor
    q: Tensor | None = None


@dataclass(frozen=True)
class ScoreBias:
    """Additive terms of scores, or None for none."""

    history: Tensor | None = None  # broadcastable to (B, H, N, N): pairwise terms alone
    candidate: Tensor | None = None  # broadcastable to (B, H, M, N): terms relative to the request
    self_term: Tensor | None = None  # broadcastable to (B, H, M, 1)


def hstu_attention(
    history: QKV, candidates: QKV, *, scale: float, attn_norm_len: int, bias: ScoreBias
) -> tuple[Tensor | None, Tensor]:
    """Attended values of history (B, H, N, d) and candidates (B, H, M, d).

    History rows without queries get None: the last layer needs only their keys and values. ``scale`` multiplies
    scores before the bias; the sum is divided by the constant ``attn_norm_len``.
    """
    inverse = 1.0 / attn_norm_len
    attended = None
    if history.q is not None:
        scores = _scores(history.q, history.k, scale, bias.history)  # (B, H, N, N)
        attended = torch.matmul(F.silu(scores).tril(), history.v) * inverse  # mask after SiLU: SiLU(-inf) is NaN
    assert candidates.q is not None
    scores = _scores(candidates.q, history.k, scale, bias.candidate)  # (B, H, M, N)
    own = (candidates.q * candidates.k).sum(-1, keepdim=True) * scale  # (B, H, M, 1)
    if bias.self_term is not None:
        own = own + bias.self_term
    summed = torch.matmul(F.silu(scores), history.v) + F.silu(own) * candidates.v
    return attended, summed * inverse


def _scores(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    return scores if bias is None else scores + bias
