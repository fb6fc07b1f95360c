"""What a score knows of place and time: two small tables and the times that index them, never a matrix over rows.

An attention kernel looks a pair's terms up where it needs them. Built beforehand for every pair and head they would be
larger than all else that a layer holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIME_BUCKETS = 32


def time_bucket(milliseconds: Tensor) -> Tensor:
    """Bucket (int64, 0..TIME_BUCKETS-1) of an elapsed time: two per doubling, from one minute to about a month."""
    minutes = milliseconds.to(torch.float32, copy=True).clamp_(min=0).div_(60_000)
    return minutes.add_(1).log2_().mul_(2).clamp_(max=TIME_BUCKETS - 1).to(torch.int64)


@dataclass(frozen=True)
class RelativeTerms:
    """Each score's additive terms, by head: ``position[i - j] + time[time_bucket(t_i - t_j)]``.

    History row i stands at place i and at its own time. A candidate stands one place after the last event, at the
    request's time, and at no distance from itself. Distances beyond the table's end take its last row.
    """

    position: Tensor  # (P + 1, H)
    time: Tensor  # (TIME_BUCKETS, H)
    history_times: Tensor  # (B, N) int64, ms
    request_times: Tensor  # (B,) int64, ms
