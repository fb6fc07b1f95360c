"""How long the model takes for a batch, from what was measured. Pure.

A batch costs something however small it is, something a request, and something a unit of work (an engine says how many
units a request has). Warm-up measures all three; after that each batch that ran moves one factor over them, since what
changes in a running server, a neighbour on the core or a slower clock, changes all alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

BATCH_OVERHEADS = 4.0
"""A batch saves its own overhead for every request but one. Filled to four times the overhead it has saved four fifths
of what batches can; more would only keep the first of its requests waiting."""
SMOOTHING = 0.1
LARGEST_SURPRISE = 5.0
"""One batch counts at most as this many times its estimate: a process that was stopped for a second is no trend."""


@dataclass(frozen=True)
class Sample:
    """A batch that ran."""

    requests: int
    units: float
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Seconds of a batch of n requests with u units: ``scale * (overhead + n * per_request + u * per_unit)``."""

    overhead: float = 0.0
    per_request: float = 0.0
    per_unit: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> CostModel:
        """What fits the samples best by relative error, no part of it negative. Without samples all is free."""
        if not samples:
            return cls()
        seconds = np.array([max(sample.seconds, 1e-9) for sample in samples])
        columns = np.array([[1.0, sample.requests, sample.units] for sample in samples]) / seconds[:, None]
        best, least = np.zeros(3), float("inf")
        for chosen in (list(some) for size in (3, 2, 1) for some in combinations(range(3), size)):
            found, *_ = np.linalg.lstsq(columns[:, chosen], np.ones(len(samples)), rcond=None)
            error = float(np.square(columns[:, chosen] @ found - 1).sum())
            if (found >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(3), error
                best[chosen] = found
        return cls(*best.tolist())

    def batch(self, requests: int, units: float) -> float:
        """Seconds of one batch."""
        return self.scale * (self.overhead + self._beside(requests, units))

    def backlog(self, requests: int, units: float) -> float:
        """Seconds until all of these are done, in batches as :meth:`is_full` makes them."""
        if not requests:
            return 0.0
        beside, full = self._beside(requests, units), BATCH_OVERHEADS * self.overhead
        batches = requests if full <= 0 else min(requests, max(1.0, np.ceil(beside / full)))
        return self.scale * (batches * self.overhead + beside)

    def is_full(self, requests: int, units: float) -> bool:
        """Whether a batch of these should take no more."""
        return self._beside(requests, units) >= BATCH_OVERHEADS * self.overhead

    def after(self, ran: Sample) -> CostModel:
        """The model once it has seen a batch run."""
        expected = self.batch(ran.requests, ran.units)
        if not 0 < expected < math.inf or not math.isfinite(ran.seconds):
            return self
        surprise = min(max(ran.seconds / expected, 1 / LARGEST_SURPRISE), LARGEST_SURPRISE)
        return replace(self, scale=self.scale * (1 + SMOOTHING * (surprise - 1)))

    def _beside(self, requests: int, units: float) -> float:
        return requests * self.per_request + units * self.per_unit
