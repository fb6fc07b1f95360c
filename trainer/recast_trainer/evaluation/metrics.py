"""Normalised entropy, calibration and the paired comparison, as pure functions over rows.

All work on logits, not probabilities: the log loss of a confident logit is then exact. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 1000
MIN_USERS = 2


@dataclass(frozen=True)
class Quality:
    """How well predictions fit one task on one set of rows."""

    rows: int
    positives: int
    ne: float
    """Log loss over the log loss of always predicting the rows' own base rate; below 1 beats the base rate."""
    calibration: float
    """Mean prediction over observed rate."""


@dataclass(frozen=True)
class PairedIncrease:
    """Relative increase of normalised entropy over a baseline on the same rows, with one-sided 95 % bounds."""

    baseline_ne: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """The R rows of one surface and task whose labels are known, with the predictions of one version or of two."""

    users: Ints  # (R,)
    labels: Floats  # (R,)
    logits: Floats  # (R,)
    baseline_logits: Floats | None = None  # (R,); None where the baseline lacks the task
    weight: float = 1.0
    """How much the task's loss counts in a sum over groups, at least 0."""

    @property
    def entropy(self) -> float:
        """Weighted log loss of the group's own base rate, summed over its rows."""
        rows = len(self.labels)
        return self.weight * rows * base_rate_loss(int(self.labels.sum()), rows) if rows else 0.0


def log_loss(logits: Floats, labels: Floats) -> Floats:
    """Log loss in nats of each row."""
    return np.logaddexp(0.0, logits) - labels * logits


def base_rate_loss(positives: int, rows: int) -> float:
    """Mean log loss of the base rate itself; 0 where all rows agree."""
    if positives in (0, rows):
        return 0.0
    rate = positives / rows
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def quality(logits: Floats, labels: Floats) -> Quality | None:
    """The quality on these rows, or None where labels are all alike: normalised entropy is then undefined.

    Non-finite logits give a non-finite NE; the caller decides what that means.
    """
    rows, positives = len(labels), int(labels.sum())
    entropy = base_rate_loss(positives, rows) if rows else 0.0
    if entropy == 0.0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        loss = float(log_loss(logits, labels).mean())
        mean = float((0.5 * (1 + np.tanh(logits / 2))).mean())
    return Quality(rows, positives, loss / entropy, mean * rows / positives)


def summed_ne(groups: Sequence[Group]) -> float | None:
    """Weighted log loss summed over the groups, over that of each group's own base rate; None where that is 0."""
    entropy = sum(group.entropy for group in groups)
    if entropy <= 0.0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return float(sum(group.weight * log_loss(group.logits, group.labels).sum() for group in groups) / entropy)


def summed_increase(groups: Sequence[Group], *, seed: int = 0, resamples: int = RESAMPLES) -> PairedIncrease | None:
    """Compare two versions by their summed losses on the same rows, resampling users with replacement.

    Rows of one user are not independent, in one group or across groups: a user who is drawn brings all of their rows,
    so that the bounds contain the covariance between tasks and surfaces. The base rates' entropies cancel in the ratio,
    so the bounds are those of ``sum(loss) / sum(baseline) - 1``. Every group must have ``baseline_logits``.
    None where labels are all alike or fewer than two users are left: there is nothing to resample.
    """
    entropy = sum(group.entropy for group in groups)
    if entropy <= 0.0:
        return None
    users = np.concatenate([group.users for group in groups])
    unique, owner = np.unique(users, return_inverse=True)
    if len(unique) < MIN_USERS:
        return None
    ours, theirs = [], []
    for group in groups:
        assert group.baseline_logits is not None
        with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
            ours.append(group.weight * log_loss(group.logits, group.labels))
            theirs.append(group.weight * log_loss(group.baseline_logits, group.labels))
    loss = np.bincount(owner, weights=np.concatenate(ours), minlength=len(unique))
    base = np.bincount(owner, weights=np.concatenate(theirs), minlength=len(unique))
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for index in range(resamples):
        weights = np.bincount(random.integers(0, len(unique), len(unique)), minlength=len(unique))
        ratios[index] = (weights @ loss) / (weights @ base) - 1.0
    low, high = np.quantile(ratios, [0.05, 0.95])
    return PairedIncrease(float(base.sum() / entropy), float(loss.sum() / base.sum() - 1.0), float(low), float(high))


def paired_increase(
    users: Ints, logits: Floats, baseline_logits: Floats, labels: Floats, *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedIncrease | None:
    """:func:`summed_increase` of one group."""
    return summed_increase([Group(users, labels, logits, baseline_logits)], seed=seed, resamples=resamples)


class RunningNE:
    """Normalised entropy so far, per task, in sums that a checkpoint can hold."""

    def __init__(self, tasks: int) -> None:
        self.sums: Floats = np.zeros((tasks, 3), dtype=np.float64)  # rows, positives, loss

    def add(self, logits: Floats, labels: Floats, mask: NDArray[np.bool_]) -> None:
        """Count rows (R, T); where ``mask`` is false the label is unknown."""
        loss = log_loss(logits, labels)
        for task in range(self.sums.shape[0]):
            keep = mask[:, task]
            self.sums[task] += (keep.sum(), labels[keep, task].sum(), loss[keep, task].sum())

    def mean(self) -> float:
        """Row-weighted mean over tasks; NaN before both classes were seen."""
        ratios = [
            (rows, loss / rows / base_rate_loss(int(positives), int(rows)))
            for rows, positives, loss in self.sums
            if 0 < positives < rows
        ]
        total = sum(rows for rows, _ in ratios)
        return float(sum(rows * ratio for rows, ratio in ratios) / total) if total else float("nan")
