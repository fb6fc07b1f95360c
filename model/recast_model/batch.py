"""A batch of requests as tensors: what both networks take. Built from :class:`recast_model.features.BatchArrays`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from recast_model.features import BatchArrays


@dataclass(frozen=True)
class RequestBatch:
    """B requests with up to M candidates and up to N past events each; T tasks, C + K features of context.

    History is left-aligned, oldest first; a row of history or a candidate beyond its length or mask is zero.
    """

    users: Tensor  # (B,) int64, raw user id
    surfaces: Tensor  # (B,) int64, index
    request_times: Tensor  # (B,) int64, ms
    candidates: Tensor  # (B, M) int64, dense item index; 0 is unknown or padding
    candidate_mask: Tensor  # (B, M) bool, False is padding
    history_items: Tensor  # (B, N) int64
    history_surfaces: Tensor  # (B, N) int64
    history_actions: Tensor  # (B, N) int64, bitmask over tasks
    history_times: Tensor  # (B, N) int64, ms
    history_lengths: Tensor  # (B,) int64
    labels: Tensor | None = None  # (B, M, T) float32
    label_mask: Tensor | None = None  # (B, M, T) bool, False where the task has no label
    row_ids: Tensor | None = None  # (B, M) int64
    context_values: Tensor | None = None  # (B, C) int64, index of each categorical feature's value; 0 is unknown
    context_numbers: Tensor | None = None  # (B, K) float32, each numeric feature; NaN is unknown

    def __len__(self) -> int:
        return self.users.shape[0]

    @classmethod
    def from_arrays(cls, arrays: BatchArrays) -> RequestBatch:
        """The same batch as tensors, without a copy where memory is contiguous."""
        present = {entry.name: getattr(arrays, entry.name) for entry in fields(BatchArrays)}
        tensors: dict[str, Any] = {
            name: torch.from_numpy(value) for name, value in present.items() if value is not None
        }
        return cls(**tensors)

    def take(self, places: Sequence[int]) -> RequestBatch:
        """Some of the requests, with the same padding."""
        index = torch.tensor(places, dtype=torch.int64)
        present = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value[index] for name, value in present.items() if value is not None})

    def to(self, device: torch.device | str) -> RequestBatch:
        """The batch on another device."""
        present = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in present.items() if value is not None})
