"""From a request's context to one vector, which its candidates' tokens get added.

All vectors start at zero, so that a network with context begins where one without does.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.context import Features, Moments

FIRST_NUMBERS = 1000
"""Known values of a numeric feature after which its mean and scale stay as they are."""
_FARTHEST = 5.0
"""Scales from the mean at which numbers are cut off."""


class ContextEncoder(nn.Module):
    """A vector for each value of a categorical feature, one times the standardised number of a numeric one.

    Mean and scale of numbers are part of the weights; they come from the first requests that are learned.
    """

    offsets: Tensor
    count: Tensor
    mean: Tensor
    squares: Tensor
    scale: Tensor

    def __init__(self, features: Features, dim: int) -> None:
        super().__init__()
        sizes = [1 + len(feature.values) for feature in features if feature.categorical]
        numeric = sum(not feature.categorical for feature in features)
        self.values = nn.Parameter(torch.zeros(sum(sizes), dim))  # feature after feature, of each the unknown first
        self.numbers = nn.Parameter(torch.zeros(numeric, dim))
        self.unknown_numbers = nn.Parameter(torch.zeros(numeric, dim))
        offsets = torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], dtype=torch.int64)
        self.register_buffer("offsets", offsets, persistent=False)
        self._keep(Moments.none(numeric))

    def forward(self, batch: RequestBatch) -> Tensor:
        """(B, D). Raises ``ValueError`` for a batch without context."""
        if batch.context_values is None or batch.context_numbers is None:
            raise ValueError("a network that knows context was given a batch without any")
        of_values = F.embedding(batch.context_values + self.offsets, self.values).sum(1)  # (B, C, D) -> (B, D)
        known = ~batch.context_numbers.isnan()  # (B, K)
        # In float64, where no difference of float32 overflows.
        apart = torch.where(known, batch.context_numbers.double() - self.mean, 0.0) / self.scale
        standard = apart.clamp(-_FARTHEST, _FARTHEST).to(self.numbers.dtype)
        unknown = (~known).to(self.numbers.dtype)
        vector: Tensor = of_values + standard @ self.numbers + unknown @ self.unknown_numbers
        return vector

    @torch.no_grad()
    def observe(self, numbers: NDArray[np.float32]) -> None:
        """Let these (n, K), of requests that are learned first, count for mean and scale, until there are enough."""
        before = Moments(*(values.cpu().numpy() for values in (self.count, self.mean, self.squares)))
        self._keep(before.and_these(np.where(before.count < FIRST_NUMBERS, numbers, np.float32(np.nan))))

    @torch.no_grad()
    def standardise_as(self, other: ContextEncoder) -> None:
        """Mean and scale of another network that knows the same features."""
        self._keep(Moments(*(values.cpu().numpy() for values in (other.count, other.mean, other.squares))))

    def _keep(self, moments: Moments) -> None:
        for name in ("count", "mean", "squares", "scale"):
            self.register_buffer(name, torch.tensor(getattr(moments, name), device=self.numbers.device))
