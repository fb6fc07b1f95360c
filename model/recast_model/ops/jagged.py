"""Packed and padded rows. Projections run on packed rows (R, D), where no row is wasted; attention on padded ones."""

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
    """Where the R real history rows of a batch lie among its B x N padded ones. Each row occurs once."""

    batch: int
    width: int  # N
    index: Tensor  # (R,) int64 into B * N

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> JaggedLayout:
        """The layout of left-aligned histories of these lengths (B,), padded to ``width``."""
        valid = torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]
        return cls(lengths.shape[0], width, valid.reshape(-1).nonzero().squeeze(1))

    def pack(self, padded: Tensor) -> Tensor:
        """(B, N, D) -> (R, D)."""
        flat: Tensor = _Pack.apply(  # type: ignore[no-untyped-call]
            padded.reshape(self.batch * self.width, padded.shape[-1]), self.index
        )
        return flat

    def pack_values(self, padded: Tensor) -> Tensor:
        """(B, N) -> (R,), for values without a gradient."""
        return padded.reshape(-1).index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """(R, D) -> (B, N, D), zeros in padding."""
        flat: Tensor = _Unpack.apply(  # type: ignore[no-untyped-call]
            packed, self.index, self.batch * self.width
        )
        return flat.view(self.batch, self.width, packed.shape[-1])
