"""What the tail tells beside a version's quality: whether the step through it may serve, and what standing still costs.

Measured are the weights from before the tail. What serves has learned it since, so that experts must still understand
its embedding. And what serves stands still, as the measured weights did for the tail, while most of what experts learn
from was embedded by weights in motion: what that costs is measured here, and judged by the operator's gates.
"""

from __future__ import annotations

from collections.abc import Sequence

from recast_api.resources.version import Aggregate
from recast_trainer.evaluation.measure import ScoredRows, aggregate

MIN_SIMILARITY = 0.8
"""Of the TAE before the step through the tail and after it, as :mod:`recast_trainer.evaluation.burnin` measures it.
Ordinary runs have 0.91 to 0.98, and experts predict later data no worse for the step in any (docs/evidence/tail.md)."""


def refusal(finite: bool, similarity: float) -> str:
    """Why the weights that learned the tail may not serve; empty where they may."""
    if not finite:
        return "a weight is not finite"
    if similarity < MIN_SIMILARITY:
        return f"the TAE turned: similarity {similarity:.3f} to what was measured, at least {MIN_SIMILARITY} is needed"
    return ""


def moving_gap(
    fixed: ScoredRows, moving: ScoredRows, surfaces: Sequence[str], tasks: Sequence[str]
) -> Aggregate | None:
    """The tail's NE by weights that stand still, and as its baseline by weights that learn each segment after it.

    Both score every row before they learn it. None where no surface has both labels.
    """
    return aggregate(fixed, surfaces, tasks, {task: moving.logits[:, column] for column, task in enumerate(tasks)})


def describe_gap(gap: Aggregate | None) -> str:
    """The gap in words."""
    if gap is None or gap.ne_increase is None:
        return "NE of fixed against moving TAE on the tail: nothing to compare"
    low, mean, high = (float(value or "nan") for value in (gap.ne_increase_low, gap.ne_increase, gap.ne_increase_high))
    fixed, moving = float(gap.ne), float(gap.baseline_ne or "nan")
    return (
        f"NE of fixed against moving TAE on the tail: {fixed:.4f} against {moving:.4f}, {mean:+.2%} "
        f"[{low:+.2%}, {high:+.2%}]"
    )
