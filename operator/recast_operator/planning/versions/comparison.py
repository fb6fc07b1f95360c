"""How sure an increase of normalised entropy over a baseline is, in spite of two kinds of chance.

*Users*: other users held out would have shown another increase. The trainer resamples them, and its bounds say by how
much. *Training*: the same model trained with another seed would have had another entropy. One training cannot show
that, so its relative standard deviation is stated; it is in both of the versions compared, independently, hence its
square counts twice. The sum of both is taken as normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

DOUBT = 0.05
"""How often a one-sided bound is wrong: the trainer's bounds, and those that the aggregate is judged by."""
GUARDS_DOUBT = 0.01
"""How often any of the guards' bounds is wrong, all of them together. Less than :data:`DOUBT`, so that aggregate and
guards together reject a version like its baseline in at most one case of twenty (docs/verdicts.md)."""
TASK_NOISE = 1.5
"""How much noisier one task's training is than that of all together; docs/evidence/gates.md has 0.6 to 1.8 times."""


def quantile(doubt: float) -> float:
    """How many standard errors above its mean a normal value is with probability ``doubt``; ``doubt`` in (0, 1)."""
    return NormalDist().inv_cdf(1 - doubt)


@dataclass(frozen=True)
class Increase:
    """A relative increase as it was measured, and its standard error: 0.01 is one percent."""

    mean: float
    error: float

    @classmethod
    def between(cls, low: float, high: float | None, mean: float | None) -> Increase:
        """An increase with its one-sided 95 % bounds; the upper is taken to be as far off as the lower where absent."""
        middle = mean if mean is not None else (low + (low if high is None else high)) / 2
        width = 2 * (middle - low) if high is None else high - low
        return cls(middle, max(width, 0.0) / (2 * quantile(DOUBT)))

    def with_training_noise(self, noise: float) -> Increase:
        """The same, when two trainings of one kind differ: ``noise`` is each one's relative standard deviation."""
        return Increase(self.mean, math.hypot(self.error, math.sqrt(2) * noise))

    def half_width(self, doubt: float = DOUBT) -> float:
        """From the mean to either one-sided bound."""
        return quantile(doubt) * self.error

    def lower(self, doubt: float = DOUBT) -> float:
        """The true increase is below this with probability ``doubt`` at most."""
        return self.mean - self.half_width(doubt)

    def upper(self, doubt: float = DOUBT) -> float:
        """The true increase is above this with probability ``doubt`` at most."""
        return self.mean + self.half_width(doubt)


def shared_doubt(guards: int) -> float:
    """The doubt of each of several guards, of which any may reject: Bonferroni's share, whatever ties them."""
    return GUARDS_DOUBT / max(guards, 1)
