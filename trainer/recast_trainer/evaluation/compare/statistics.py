"""Normalised entropy (NE) of several arms on the same rows, with intervals over training seeds and users.

The intervals are those of a two-level bootstrap: each draw takes users with replacement, who bring all of their rows,
and seeds with replacement, the same for every arm, so that differences between arms are of pairs. Of S seeds S - 1 are
drawn, which makes the variance that of a mean over S seeds and not a share (S - 1) / S of it (Rao and Wu, "Resampling
inference with complex survey data", 1988). NE's denominator is that of the drawn rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import Floats, log_loss

CONFIDENCE = 0.95
_CHUNK = 1 << 22
"""Weights of users that are held at a time, so that memory does not grow with draws times users."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    @classmethod
    def of(cls, value: float, draws: Floats) -> Estimate:
        """A figure and what it was in each draw (B,); draws in which it is not defined (NaN) do not count."""
        defined = draws[~np.isnan(draws)]
        if not len(defined):
            return cls(value, float("nan"), float("nan"))
        low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class Resampled:
    """NE of an arm: on all rows, mean over seeds, and in each of B draws. Of T tasks, then of all of them together."""

    value: Floats  # (T + 1,)
    draws: Floats  # (B, T + 1)

    def ne(self, task: int) -> Estimate:
        """NE of a task; T stands for all together."""
        return Estimate.of(float(self.value[task]), self.draws[:, task])

    def difference(self, other: Resampled, task: int) -> Estimate:
        """This one's NE less the other's."""
        return Estimate.of(float(self.value[task] - other.value[task]), self.draws[:, task] - other.draws[:, task])

    def relative(self, other: Resampled, task: int) -> Estimate:
        """This one's NE over the other's, less 1."""
        return Estimate.of(
            float(self.value[task] / other.value[task] - 1), self.draws[:, task] / other.draws[:, task] - 1
        )


def transfer_ratio(
    expert: tuple[Resampled, Resampled], foundation: tuple[Resampled, Resampled], task: int
) -> Estimate | None:
    """The experts' gap in NE over that of the two foundations that they read (arXiv 2508.02929).

    None where the foundations' gap does not exclude 0: a ratio with such a denominator says nothing.
    """
    gap = foundation[0].difference(foundation[1], task)
    if not gap.excludes_zero:
        return None
    above, below = ([pair.draws[:, task] for pair in pairs] for pairs in (expert, foundation))
    value = expert[0].difference(expert[1], task).value / gap.value
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate.of(value, (above[0] - above[1]) / (below[0] - below[1]))


def resample(
    rows: ScoredRows, arms: Mapping[str, Sequence[Floats]], *, draws: int, seed: int = 0
) -> dict[str, Resampled]:
    """NE of each arm. Its logits (R, T) are given once per seed, or once where it is not trained.

    Arms that are trained have the same seeds in the same order.
    """
    seeds = max(map(len, arms.values()))
    if any(len(logits) not in (1, seeds) for logits in arms.values()):
        raise ValueError("every trained arm needs as many seeds as the others")
    mask, labels = rows.mask.astype(np.float64), np.where(rows.mask, rows.labels, 0.0)
    with np.errstate(invalid="ignore"):  # NaN is a figure that is not defined
        losses = [np.where(rows.mask, log_loss(each, labels), 0.0) for logits in arms.values() for each in logits]
    _, owner = np.unique(rows.users, return_inverse=True)
    sums = _by_user(owner, np.concatenate([mask, labels, *losses], axis=1))  # (U, T * (2 + arms' seeds))
    random = np.random.default_rng(seed)
    drawn = _draw_users(sums, draws, random)
    weights = _draw_seeds(seeds, draws, random)
    tasks, even = rows.labels.shape[1], np.full((1, seeds), 1 / seeds)
    whole = _Parts.of(sums.sum(0)[None], tasks)
    parts = _Parts.of(drawn, tasks)
    found, start = {}, 0
    for name, logits in arms.items():
        own = slice(start, start + len(logits))
        start += len(logits)
        value = whole.ne(own, even if len(logits) > 1 else np.ones((1, 1)))
        each = parts.ne(own, weights if len(logits) > 1 else np.ones((draws, 1)))
        found[name] = Resampled(value[0], each)
    return found


@dataclass(frozen=True)
class _Parts:
    """Sums over the rows of each draw."""

    entropy: Floats  # (B, T), log loss of the drawn rows' base rates; 0 where all labels are alike
    losses: Floats  # (B, all arms' seeds, T)

    @classmethod
    def of(cls, sums: Floats, tasks: int) -> _Parts:
        rows, positives = sums[:, :tasks], sums[:, tasks : 2 * tasks]
        losses = sums[:, 2 * tasks :].reshape(len(sums), -1, tasks)
        both = (positives > 0) & (positives < rows)
        rate = np.where(both, positives, 1.0) / np.where(both, rows, 2.0)
        entropy = -rows * (rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return cls(np.where(both, entropy, 0.0), losses)

    def ne(self, arm: slice, weights: Floats) -> Floats:
        """(B, T + 1), by the weights (B, S) of the arm's seeds; all together are the tasks that have both classes."""
        loss = np.einsum("bs,bst->bt", weights, self.losses[:, arm])
        defined = self.entropy > 0
        loss = np.concatenate([loss, loss.sum(1, where=defined)[:, None]], 1)
        entropy = np.concatenate([self.entropy, self.entropy.sum(1)[:, None]], 1)
        ratio: Floats = np.where(entropy > 0, loss, np.nan) / np.where(entropy > 0, entropy, 1.0)
        return ratio


def _by_user(owner: np.ndarray, values: Floats) -> Floats:
    """(U, K) sums of values (R, K)."""
    return np.stack([np.bincount(owner, weights=column) for column in values.T], 1)


def _draw_users(sums: Floats, draws: int, random: np.random.Generator) -> Floats:
    """(B, K) sums over as many users as there are, drawn with replacement."""
    users = len(sums)
    chunk = max(1, _CHUNK // users)
    even = np.full(users, 1 / users)
    parts = [
        random.multinomial(users, even, size=min(chunk, draws - start)).astype(np.float64) @ sums
        for start in range(0, draws, chunk)
    ]
    return np.concatenate(parts)


def _draw_seeds(seeds: int, draws: int, random: np.random.Generator) -> Floats:
    """(B, S) weights of the seeds."""
    taken = max(1, seeds - 1)
    found: Floats = random.multinomial(taken, np.full(seeds, 1 / seeds), size=draws) / taken
    return found
