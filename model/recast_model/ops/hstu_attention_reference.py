"""What :func:`recast_model.ops.hstu_attention.hstu_attention` computes, written out: every score and term of the batch.

It is what kernels are tested against, in values and, through autograd, in gradients. Nothing else calls it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recast_model.ops.hstu_attention import QKV
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import RelativeTerms, time_bucket


def hstu_attention_reference(
    history: QKV,
    candidates: QKV,
    layout: JaggedLayout,
    terms: RelativeTerms,
    *,
    heads: int,
    scale: float,
    attn_norm_len: int,
) -> tuple[Tensor | None, Tensor]:
    """As the function it is the reference of: history (R, H * d) or None, and candidates (B, M, H * d)."""
    size, width = terms.history_times.shape
    count = candidates.k.shape[1]

    def padded(packed: Tensor) -> Tensor:
        rows = packed.new_zeros(size * width, packed.shape[1])
        return rows.index_put((layout.source,), packed).view(size, width, packed.shape[1])

    def by_head(rows: Tensor) -> Tensor:
        return rows.reshape(size, rows.shape[1], heads, rows.shape[2] // heads).transpose(1, 2)  # (B, H, rows, d)

    assert candidates.q is not None
    past_q = torch.zeros_like(history.k) if history.q is None else history.q
    parts = ((past_q, candidates.q), (history.k, candidates.k), (history.v, candidates.v))
    q, k, v = (by_head(torch.cat([padded(past), asked], 1)) for past, asked in parts)  # (B, H, N + M, d)

    real = padded(torch.ones_like(history.k))[..., 0] > 0  # (B, N)
    lengths = real.sum(1, keepdim=True)
    places = torch.arange(width, device=real.device).expand(size, -1)
    places = torch.cat([places, lengths.expand(-1, count)], 1)  # (B, N + M)
    times = torch.cat([terms.history_times, terms.request_times[:, None].expand(-1, count)], 1)
    distances = (places[:, :, None] - places[:, None, :]).clamp(0, len(terms.position) - 1)
    buckets = time_bucket(times[:, :, None] - times[:, None, :])
    bias = (terms.position[distances] + terms.time[buckets]).permute(0, 3, 1, 2)  # (B, H, N + M, N + M)

    row = torch.arange(width + count, device=real.device)
    earlier = (row[None, :] < width) & (row[None, :] <= row[:, None])
    seen = earlier | (row[None, :] == row[:, None])
    weights = F.silu(q @ k.transpose(-1, -2) * scale + bias) * seen / attn_norm_len
    attended = (weights @ v).transpose(1, 2).flatten(2)  # (B, N + M, H * d)
    past = None if history.q is None else attended[:, :width].flatten(0, 1)[layout.source]
    return past, attended[:, width:]
