"""Packed and padded rows. Projections run on packed rows (R, D), where no row is wasted; attention on padded ones.

Padded rows are by length, the longest first: the requests that reach any place are then a slice of the batch, and
attention can leave the others out without gathering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _Pack(torch.autograd.Function):
    """(B * N, D) -> (R, D). Its gradient is a copy, where index_select would add row by row."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = padded.shape[0]
        return padded.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, index, gradient), None


class _Unpack(torch.autograd.Function):
    """(R, D) -> (B * N, D), zeros where there is no row."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        return packed.new_zeros(rows, packed.shape[1]).index_copy_(0, index, packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.index_select(0, index), None, None


@dataclass(frozen=True)
class JaggedLayout:
    """Where the R real history rows of a batch lie, packed in the batch's order and padded with the longest first."""

    width: int  # N
    lengths: Tensor  # (B,) of the histories, falling
    longest: tuple[int, ...]  # the same on the host, where loops over rows are laid out
    order: Tensor  # (B,) int64: which request each of them is
    source: Tensor  # (R,) int64: each row's place in B x N in the batch's order
    target: Tensor  # (R,) int64: its place in B x N with the longest first

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> JaggedLayout:
        """The layout of left-aligned histories of these lengths (B,), padded to ``width``."""
        falling, order = lengths.sort(descending=True, stable=True)
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        longest = tuple(falling.tolist())
        rows = sum(longest)
        request = torch.arange(len(order), device=order.device).repeat_interleave(lengths, output_size=rows)
        place = torch.arange(rows, device=order.device) - (lengths.cumsum(0) - lengths)[request]
        return cls(width, falling, longest, order, request * width + place, rank[request] * width + place)

    def reaching(self, place: int) -> int:
        """How many histories have a row at ``place``: the first so many, as padded."""
        return sum(length > place for length in self.longest)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, N, D) longest first -> (R, D)."""
        flat: Tensor = _Pack.apply(padded.flatten(0, 1), self.target)  # type: ignore[no-untyped-call]
        return flat

    def unpack(self, packed: Tensor) -> Tensor:
        """(R, D) -> (B, N, D) longest first, zeros in padding."""
        size = len(self.longest)
        flat: Tensor = _Unpack.apply(packed, self.target, size * self.width)  # type: ignore[no-untyped-call]
        return flat.view(size, self.width, packed.shape[-1])

    def pack_values(self, padded: Tensor) -> Tensor:
        """(B, N) in the batch's order -> (R,), for values without a gradient."""
        return padded.reshape(-1).index_select(0, self.source)

    def longest_first(self, requests: Tensor) -> Tensor:
        """(B, ...) from the batch's order."""
        flat: Tensor = _Pack.apply(requests.flatten(1), self.order)  # type: ignore[no-untyped-call]
        return flat.view(requests.shape)

    def in_batch_order(self, requests: Tensor) -> Tensor:
        """(B, ...) back from :meth:`longest_first`."""
        flat: Tensor = _Unpack.apply(requests.flatten(1), self.order, len(requests))  # type: ignore[no-untyped-call]
        return flat.view(requests.shape)
