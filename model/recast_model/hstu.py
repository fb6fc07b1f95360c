"""The HSTU block in its two published forms, and a stack of them. Both papers' blocks share a name but not weights.

==============  ==================================  =======================================
form            ``Research`` (arXiv 2402.17152)      ``DLRMv3``
==============  ==================================  =======================================
SiLU on         U, Q, K, V                          U
scores          QK' + relative place and time       QK'/sqrt(d) + relative place and time
output          U * Norm(O)                         [U, O, U * Norm(O)]
projections     input without bias, output with     input with bias, output without
==============  ==================================  =======================================

DLRM-v3 adds position and time relative to the query to every input row, so history rows change with each request. Here
both are terms of scores, in either form: among history rows of the distance between the two, and relative to the
request for candidates alone. So history rows depend only on earlier data: what a request computes of a history, the
next may reuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recast_model.config import Block
from recast_model.ops.hstu_attention import QKV, hstu_attention
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import TIME_BUCKETS, RelativeTerms

_NORM_EPS = 1e-8


@dataclass(frozen=True)
class TokenRows:
    """The rows of a batch and the times they happened at."""

    history: Tensor  # (R, D), packed
    candidates: Tensor  # (B, M, D)
    layout: JaggedLayout
    history_times: Tensor  # (B, N) ms
    request_times: Tensor  # (B,) ms


class RelativeBias(nn.Module):
    """Learned score terms for the distance in places and in time, one table of each kind; a column per head."""

    def __init__(self, heads: int, history_length: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(history_length + 1, heads))
        self.time = nn.Parameter(torch.zeros(TIME_BUCKETS, heads))

    def forward(self, rows: TokenRows) -> RelativeTerms:
        """The tables with the times of these rows."""
        return RelativeTerms(self.position, self.time, rows.history_times, rows.request_times)


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
        self.bias = RelativeBias(heads, history_length)

    def forward(self, rows: TokenRows, *, last: bool) -> tuple[Tensor, Tensor]:
        """History (R, D) and candidates (B, M, D) after the block; a last layer returns history unchanged."""
        batch, count, dim = rows.candidates.shape
        cu, cq, ck, cv = self.gates_queries_keys_values(rows.candidates.view(batch * count, dim))
        if last:
            history_u, q = None, None
            k, v = self.keys_values(rows.history)  # (R, D) each
        else:
            history_u, q, k, v = self.gates_queries_keys_values(rows.history)
        attended, out = hstu_attention(
            QKV(q, k, v),
            QKV(*(part.view(batch, count, dim) for part in (cq, ck, cv))),
            rows.layout,
            self.bias(rows),
            heads=self.heads,
            scale=self.scale,
            attn_norm_len=self.attn_norm_len,
        )
        candidates = rows.candidates + self.update(cu, out.view(-1, dim)).view(batch, count, dim)
        if attended is None or history_u is None:
            return rows.history, candidates
        return rows.history + self.update(history_u, attended), candidates

    def gates_queries_keys_values(self, rows: Tensor) -> tuple[Tensor, ...]:
        """U, Q, K and V (R, D) of rows (R, D)."""
        return self._activate(self.project(self.norm(rows)), first=0)

    def keys_values(self, rows: Tensor) -> tuple[Tensor, ...]:
        """K and V (R, D) of rows (R, D): what a last layer needs of history."""
        bias = None if self.project.bias is None else self.project.bias[2 * self.dim :]
        return self._activate(F.linear(self.norm(rows), self.project.weight[2 * self.dim :], bias), first=2)

    def update(self, u: Tensor, attended: Tensor) -> Tensor:
        """What is added to rows (R, D). The norm sees O * sqrt(attn_norm_len): a short history's O is below any eps."""
        gated = u * self.attended_norm(attended * math.sqrt(self.attn_norm_len))
        joined = gated if self.research else torch.cat([u, attended, gated], -1)
        update: Tensor = self.output(self.dropout(joined))
        return update

    def _activate(self, projected: Tensor, *, first: int) -> tuple[Tensor, ...]:
        """Split (..., k * D) into the projections from number ``first`` on, with the form's SiLU."""
        parts = 4 - first
        if self.research:
            return F.silu(projected).tensor_split(parts, -1)
        u, *others = projected.tensor_split(parts, -1)
        return (u if first else F.silu(u), *others)


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
            current = TokenRows(history, candidates, rows.layout, rows.history_times, rows.request_times)
            history, candidates = layer(current, last=number == len(self.layers))
        return candidates
