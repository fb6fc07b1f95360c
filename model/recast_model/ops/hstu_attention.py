"""Pointwise attention of HSTU over jagged histories with a target-aware mask, a block of rows at a time.

Weights are ``SiLU(score) / attn_norm_len``, not a softmax (arXiv 2402.17152), so sums over keys may be taken in any
pieces. The mask is never built over history and candidates together; its two cases are two products:

* a history row sees itself and earlier history, and no candidate;
* a candidate sees all of its request's history and itself, and no other candidate.

Padded keys need no mask: their values are zero, and a pointwise weight times zero adds nothing. That, and the constant
divisor, is why padding and other candidates cannot change a row.

:func:`hstu_attention` is the seam behind which a kernel of another kind may stand: packed rows, where they lie, and
what indexes the terms go in, packed rows come out. :mod:`recast_model.ops.hstu_attention_reference` says in a few lines
what it must compute. Scores and terms live for one block alone, and the backward pass makes them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import RelativeTerms, time_bucket

BLOCK = 64
"""Rows to a block: few enough that little is computed above the diagonal, enough that products are of a fair size."""


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values of one kind of row: (..., H * d) float, heads side by side."""

    q: Tensor | None
    k: Tensor
    v: Tensor


def hstu_attention(
    history: QKV,
    candidates: QKV,
    layout: JaggedLayout,
    terms: RelativeTerms,
    *,
    heads: int,
    scale: float,
    attn_norm_len: int,
) -> tuple[Tensor | None, Tensor]:
    """Attended values of history (R, H * d), packed as ``layout`` says, and of candidates (B, M, H * d).

    History rows without queries get None: the last layer needs only their keys and values. ``scale`` multiplies
    products before the terms; the sum is divided by the constant ``attn_norm_len``.
    """
    k, v = (_by_head(layout.unpack(rows), heads) for rows in (history.k, history.v))
    times = terms.history_times.index_select(0, layout.order)

    def attend(q: Tensor, places: Tensor, query_times: Tensor, blocks: Iterable[_Block]) -> Tensor:
        pairs = _Pairs(places, query_times, times, scale)
        summed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            q, k, v, terms.position, terms.time, pairs, tuple(blocks)
        )
        return _side_by_side(summed) / attn_norm_len

    attended = None
    if history.q is not None:
        q = _by_head(layout.unpack(history.q), heads)
        places = torch.arange(layout.width, device=times.device)[None]
        attended = layout.pack(attend(q, places, times, _history_blocks(layout)))
    assert candidates.q is not None
    asked = layout.longest_first(candidates.q)
    at = terms.request_times.index_select(0, layout.order)[:, None]
    seen = attend(_by_head(asked, heads), layout.lengths[:, None], at, _candidate_blocks(layout, asked.shape[1]))
    return attended, layout.in_batch_order(seen) + _own(candidates, terms, heads, scale) / attn_norm_len


def _own(candidates: QKV, terms: RelativeTerms, heads: int, scale: float) -> Tensor:
    """What candidates (B, M, H * d) see of themselves."""
    assert candidates.q is not None
    q, k, v = (_split(rows, heads) for rows in (candidates.q, candidates.k, candidates.v))
    scores = (q * k).sum(-1) * scale + terms.position[0] + terms.time[0]  # (B, M, H)
    return (F.silu(scores)[..., None] * v).flatten(2)


@dataclass(frozen=True)
class _Block:
    """Some queries with some keys, in the first ``requests`` of a batch."""

    requests: int
    queries: slice
    keys: slice
    causal: bool  # the last keys are the queries' own rows

    def of_queries(self, rows: Tensor) -> Tensor:
        """(b * H, q, d), a view of (B, H, Q, d)."""
        return _together(rows[: self.requests, :, self.queries])

    def of_keys(self, rows: Tensor) -> Tensor:
        """(b * H, c, d), a view of (B, H, N, d)."""
        return _together(rows[: self.requests, :, self.keys])


def _history_blocks(layout: JaggedLayout) -> Iterator[_Block]:
    """Rows of history with all keys up to their own, for the requests that have any of those rows."""
    for rows in _spans(layout):
        yield _Block(layout.reaching(rows.start), rows, slice(0, rows.stop), causal=True)


def _candidate_blocks(layout: JaggedLayout, count: int) -> Iterator[_Block]:
    """All candidates with some keys, for the requests that have any of those keys."""
    for keys in _spans(layout):
        yield _Block(layout.reaching(keys.start), slice(0, count), keys, causal=False)


def _spans(layout: JaggedLayout) -> Iterator[slice]:
    longest = max(layout.longest, default=0)
    for start in range(0, longest, BLOCK):
        yield slice(start, min(start + BLOCK, longest))


class _Scored(NamedTuple):
    """A block's scores, and what its terms were looked up by."""

    scores: Tensor  # (b * H, q, c)
    distances: Tensor  # (1 or b, 1 or q, c) int64
    buckets: Tensor  # (b, 1 or q, c) int64


@dataclass(frozen=True)
class _Pairs:
    """Where and when queries and keys stand; 1 for Q where a request's queries do so together, for B where all do."""

    places: Tensor  # (1 or B, 1 or Q)
    times: Tensor  # (B, 1 or Q) ms
    key_times: Tensor  # (B, N) ms
    scale: float

    def score(self, block: _Block, q: Tensor, k: Tensor, position: Tensor, time: Tensor) -> _Scored:
        """A block of rows (B, H, rows, d), with the terms of tables (rows, H)."""
        keys = torch.arange(block.keys.start, block.keys.stop, device=q.device)
        apart = self.places[: block.requests, block.queries, None] - keys
        distances = apart.clamp_(min=0, max=len(position) - 1)
        times = self.times[: block.requests, block.queries, None]
        buckets = time_bucket(times - self.key_times[: block.requests, None, block.keys])
        terms = _lookup(time.T, buckets).add_(_lookup(position.T, distances))  # (b, H, 1 or q, c)
        scores = torch.baddbmm(_together(terms), block.of_queries(q), block.of_keys(k).mT, alpha=self.scale)
        return _Scored(scores, distances, buckets)


def _lookup(table: Tensor, index: Tensor) -> Tensor:
    """(b, H, q, c) of a table (H, T) at (b, q, c)."""
    size, heads = len(index), len(table)
    found = table.expand(size, -1, -1).gather(2, index.flatten(1)[:, None].expand(-1, heads, -1))
    return found.view(size, heads, *index.shape[1:])


def _tally(gradient: Tensor, index: Tensor, rows: int) -> Tensor:
    """The gradient (T, H) of a table from that of its values (b, H, q, c) at (1 or b, 1 or q, c)."""
    shared = [dim for dim, size in ((0, index.shape[0]), (2, index.shape[1])) if size == 1]
    values = gradient.sum(shared, keepdim=True) if shared else gradient
    size, heads = values.shape[:2]
    places = index.flatten(1)[:, None].expand(-1, heads, -1)
    return values.new_zeros(size, heads, rows).scatter_add_(2, places, values.flatten(2)).sum(0).T


class _Attention(torch.autograd.Function):
    """Sums (B, H, Q, d) of SiLU(scores) times values, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Tensor,
        time: Tensor,
        pairs: _Pairs,
        blocks: tuple[_Block, ...],
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, position, time)
        ctx.pairs, ctx.blocks = pairs, blocks
        out = torch.zeros_like(q)
        for block in blocks:
            scores, _, _ = pairs.score(block, q, k, position, time)
            weights = _mask(F.silu(scores, inplace=True), block)
            block.of_queries(out).add_(torch.bmm(weights, block.of_keys(v)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, position, time = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_q, to_k, to_v, to_position, to_time = (torch.zeros_like(each) for each in ctx.saved_tensors)
        for block in ctx.blocks:
            scores, distances, buckets = ctx.pairs.score(block, q, k, position, time)
            gate = scores.sigmoid()
            weights = scores.mul_(gate)  # SiLU
            slope = torch.addcmul(weights + gate, weights, gate, value=-1)
            to_out = block.of_queries(gradient)
            to_scores = _mask(slope.mul_(torch.bmm(to_out, block.of_keys(v).mT)), block)
            block.of_keys(to_v).add_(torch.bmm(_mask(weights, block).mT, to_out))
            block.of_queries(to_q).add_(torch.bmm(to_scores, block.of_keys(k)), alpha=ctx.pairs.scale)
            block.of_keys(to_k).add_(torch.bmm(to_scores.mT, block.of_queries(q)), alpha=ctx.pairs.scale)
            by_head = to_scores.view(block.requests, q.shape[1], *to_scores.shape[1:])
            to_position += _tally(by_head, distances, len(position))
            to_time += _tally(by_head, buckets, len(time))
        return to_q, to_k, to_v, to_position, to_time, None, None


def _mask(scores: Tensor, block: _Block) -> Tensor:
    """Zero, in place, what a row of history must not see. After SiLU: SiLU(-inf) is NaN."""
    if block.causal:
        own = block.queries.stop - block.queries.start
        scores[..., -own:].tril_()
    return scores


def _together(rows: Tensor) -> Tensor:
    """(b, H, ...) -> (b * H, ...), a view: what is added to it is added to the whole."""
    return rows.view(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """(B, rows, H * d) -> (B, H, rows, d), contiguous."""
    return _split(rows, heads).transpose(1, 2).contiguous()


def _split(rows: Tensor, heads: int) -> Tensor:
    """(..., H * d) -> (..., H, d)."""
    return rows.view(*rows.shape[:-1], heads, rows.shape[-1] // heads)


def _side_by_side(rows: Tensor) -> Tensor:
    """(B, H, rows, d) -> (B, rows, H * d)."""
    return rows.transpose(1, 2).flatten(2)
