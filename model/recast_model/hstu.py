"""The HSTU block in its two published forms, and a stack of them. Both papers' blocks share a name but not weights.

==============  ==================================  =======================================
form            ``Research`` (arXiv 2402.17152)      ``DLRMv3``
==============  ==================================  =======================================
SiLU on         U, Q, K, V                          U
scores          QK' + relative position and time    QK'/sqrt(d) + the candidates' own terms
output          U * Norm(O)                         [U, O, U * Norm(O)]
projections     input without bias, output with     input with bias, output without
==============  ==================================  =======================================

DLRM-v3 adds position and time relative to the query to every input row, so history rows change with each request. Here
they are scores of candidate rows alone, and history rows depend only on earlier data and on pairwise terms: what a
request computes of a history, the next may reuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recast_model.config import Block
from recast_model.ops.hstu_attention import QKV, ScoreBias, hstu_attention
from recast_model.ops.jagged import JaggedLayout

TIME_BUCKETS = 32
_NORM_EPS = 1e-8


def time_bucket(milliseconds: Tensor) -> Tensor:
    """Bucket (int64, 0..TIME_BUCKETS-1) of an elapsed time: two per doubling, from one minute to about a month."""
    minutes = milliseconds.clamp(min=0).to(torch.float32) / 60_000
    return (torch.log2(1 + minutes) * 2).to(torch.int64).clamp(max=TIME_BUCKETS - 1)


@dataclass(frozen=True)
class TokenRows:
    """The rows of a batch and the times they happened at."""

    history: Tensor  # (R, D), packed
    candidates: Tensor  # (B, M, D)
    layout: JaggedLayout
    lengths: Tensor  # (B,)
    history_times: Tensor  # (B, N) ms
    request_times: Tensor  # (B,) ms


class RelativeBias(nn.Module):
    """Learned score terms for the distance in places and in time, one table of each kind per head.

    ``pairwise`` gives them to history rows as well; without it candidates alone have them.
    """

    def __init__(self, heads: int, history_length: int, *, pairwise: bool) -> None:
        super().__init__()
        self.heads, self.pairwise = heads, pairwise
        self.position = nn.Parameter(torch.zeros(history_length + 1, heads))
        self.time = nn.Parameter(torch.zeros(TIME_BUCKETS, heads))

    def forward(self, rows: TokenRows, *, with_history: bool) -> ScoreBias:
        """Terms of (i - j, t_i - t_j); a candidate stands one place after the last event, at the request's time."""
        times, width = rows.history_times, rows.layout.width
        place = torch.arange(width, device=times.device)
        last = self.position.shape[0] - 1
        distance = (rows.lengths[:, None] - place).clamp(min=0, max=last)  # (B, N)
        elapsed = time_bucket(rows.request_times[:, None] - times)  # (B, N)
        candidate = self.position[distance] + self.time[elapsed]  # (B, N, H)
        own = (self.position[0] + self.time[0]).view(1, self.heads, 1, 1)
        history = None
        if self.pairwise and with_history:
            steps = (place[:, None] - place[None, :]).clamp(min=0, max=last)  # (N, N)
            buckets = time_bucket(times[:, :, None] - times[:, None, :])  # (B, N, N)
            history = self.position[steps].permute(2, 0, 1) + self.time[buckets].permute(0, 3, 1, 2)  # (B, H, N, N)
        return ScoreBias(history, candidate.transpose(1, 2).unsqueeze(2), own)


class HstuLayer(nn.Module):
    """One block. ``last`` layers compute only keys and values of history, which is exact: nothing reads the rest."""

    def __init__(
        self, block: Block, dim: int, heads: int, attn_norm_len: int, history_length: int, dropout: float
    ) -> None:
        super().__init__()
        self.research = block == "Research"
        self.heads, self.dim, self.attn_norm_len = heads, dim, attn_norm_len
        self.scale = 1.0 if self.research else 1.0 / math.sqrt(dim // heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not self.research)
        self.project = nn.Linear(dim, 4 * dim, bias=not self.research)  # U, Q, K, V: K and V are adjacent
        self.attended_norm = nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=not self.research)
        self.output = nn.Linear(dim if self.research else 3 * dim, dim, bias=self.research)
        self.bias = RelativeBias(heads, history_length, pairwise=self.research)

    def forward(self, rows: TokenRows, *, last: bool) -> tuple[Tensor, Tensor]:
        """History (R, D) and candidates (B, M, D) after the block; a last layer returns history unchanged."""
        batch, count, dim = rows.candidates.shape
        layout = rows.layout
        cu, cq, ck, cv = self._activate(self.project(self.norm(rows.candidates)).view(batch * count, -1), first=0)
        normed = self.norm(rows.history)
        if last:
            k, v = self._activate(self._keys_and_values(normed), first=2)  # (R, D) each
            padded = layout.unpack(torch.cat([k, v], -1))  # (B, N, 2D)
            history_u, heads = None, QKV(*(self._split(part) for part in padded.chunk(2, -1)))
        else:
            history_u, q, k, v = self._activate(self.project(normed), first=0)
            padded = layout.unpack(torch.cat([q, k, v], -1))  # (B, N, 3D)
            q, k, v = (self._split(part) for part in padded.chunk(3, -1))
            heads = QKV(k, v, q)
        own = QKV(*(self._split(part.view(batch, count, dim)) for part in (ck, cv, cq)))
        attended, out = hstu_attention(
            heads,
            own,
            scale=self.scale,
            attn_norm_len=self.attn_norm_len,
            bias=self.bias(rows, with_history=not last),
        )
        candidates = rows.candidates + self._combine(cu, self._merge(out).view(-1, dim)).view(batch, count, dim)
        if attended is None or history_u is None:
            return rows.history, candidates
        return rows.history + self._combine(history_u, layout.pack(self._merge(attended))), candidates

    def _keys_and_values(self, normed: Tensor) -> Tensor:
        bias = None if self.project.bias is None else self.project.bias[2 * self.dim :]
        return F.linear(normed, self.project.weight[2 * self.dim :], bias)

    def _activate(self, projected: Tensor, *, first: int) -> tuple[Tensor, ...]:
        """Split (..., k * D) into the projections from number ``first`` on, with the form's SiLU."""
        parts = 4 - first
        if self.research:
            return F.silu(projected).tensor_split(parts, -1)
        u, *others = projected.tensor_split(parts, -1)
        return (u if first else F.silu(u), *others)

    def _split(self, rows: Tensor) -> Tensor:
        """(B, rows, D) -> (B, H, rows, d)."""
        return rows.view(*rows.shape[:2], self.heads, self.dim // self.heads).transpose(1, 2)

    @staticmethod
    def _merge(rows: Tensor) -> Tensor:
        """(B, H, rows, d) -> (B, rows, D)."""
        return rows.transpose(1, 2).flatten(2)

    def _combine(self, u: Tensor, attended: Tensor) -> Tensor:
        """The gated update (rows, D). The norm sees O * sqrt(attn_norm_len): a short history's O is below any eps."""
        gated = u * self.attended_norm(attended * math.sqrt(self.attn_norm_len))
        joined = gated if self.research else torch.cat([u, attended, gated], -1)
        update: Tensor = self.output(self.dropout(joined))
        return update


class HstuStack(nn.Module):
    """Layers in a row; returns the candidates (B, M, D)."""

    def __init__(
        self,
        block: Block,
        layers: int,
        dim: int,
        heads: int,
        attn_norm_len: int,
        history_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HstuLayer(block, dim, heads, attn_norm_len, history_length, dropout) for _ in range(layers)
        )

    def forward(self, rows: TokenRows) -> Tensor:
        """Candidates after all layers."""
        history, candidates = rows.history, rows.candidates
        for number, layer in enumerate(self.layers, 1):
            current = TokenRows(history, candidates, rows.layout, rows.lengths, rows.history_times, rows.request_times)
            history, candidates = layer(current, last=number == len(self.layers))
        return candidates
