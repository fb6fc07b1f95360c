"""What a comparison comes to: plain values, which JSON and the reports show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recast_trainer.evaluation.compare.statistics import Estimate

ALL_TASKS = "all tasks"
"""Losses of a surface's tasks summed, over their summed entropies; with its space no task's name."""


@dataclass(frozen=True)
class Tried:
    """One candidate of the tuning, and its NE over all tasks on the rows before the held-out window."""

    arm: str
    learning_rate: str
    epochs: int
    ne: float


@dataclass(frozen=True)
class ArmResult:
    """An arm's figures on the held-out rows, by task."""

    arm: str
    learning_rate: str | None
    """As tuned; None for an arm that is not trained."""
    steps: list[int]
    """Of each seed; empty for an arm that is not trained."""
    ne: dict[str, Estimate]
    calibration: dict[str, float]
    """Mean prediction over observed rate, mean over seeds."""
    reachable: dict[str, float]
    """Share of the way from the base rate to the oracle."""


@dataclass(frozen=True)
class Gap:
    """One arm against another, by task."""

    arm: str
    against: str
    difference: dict[str, Estimate]
    """NE less the other's; below 0 is better."""
    relative: dict[str, Estimate]
    """NE over the other's, less 1."""


@dataclass(frozen=True)
class SurfaceResult:
    """One surface's comparison."""

    surface: str
    rows: int
    """Held out."""
    users: int
    positives: dict[str, int]
    learned: int
    """Rows that each trained arm learned."""
    epochs: int
    tuning_rows: int
    tried: list[Tried]
    arms: list[ArmResult]
    gaps: list[Gap]
    transfer: dict[str, Estimate | None] | None
    """Transfer ratio by task, None where the foundations' gap includes 0; None where there is one foundation alone."""

    @property
    def tasks(self) -> list[str]:
        """What there are figures of, in order."""
        return list(self.arms[0].ne)


@dataclass(frozen=True)
class Comparison:
    """All of it."""

    foundation: str
    """Name and number of the version."""
    against: str | None
    seeds: list[int]
    settings: dict[str, Any]
    surfaces: Sequence[SurfaceResult]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null for a figure that is not defined."""
        found: dict[str, Any] = _finite(asdict(self))
        return found


def counted(number: int, thing: str) -> str:
    """So many of them, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
