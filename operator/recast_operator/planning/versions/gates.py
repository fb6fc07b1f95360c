"""Acceptance: whether a landed version may serve, judged from its own measurements and the model's gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from recast_api.resources import Gates, Measurement, ModelVersionSpec

CALIBRATION_MIN_POSITIVES = 1600
"""Below this many positives the ratio's own noise (about 2.5 % at 1,600) exceeds what a gate could tell."""


@dataclass(frozen=True)
class Judgement:
    """The verdict with the numbers it rests on."""

    accepted: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Quality:
    """Measurements in one line, means weighted by rows."""

    rows: int
    ne: Decimal
    change: Decimal | None
    """Absolute change of NE against the baseline, over the measurements that have one."""

    @property
    def ne_text(self) -> str:
        """Four decimals, empty where nothing was measured."""
        return f"{self.ne:.4f}" if self.rows else ""

    @property
    def change_text(self) -> str:
        """Signed, four decimals, empty without a baseline."""
        return "" if self.change is None else f"{self.change:+.4f}"


def quality(measurements: Sequence[Measurement]) -> Quality:
    """The row-weighted mean of NE and of its change."""
    rows = sum(entry.rows for entry in measurements)
    paired = [entry for entry in measurements if entry.baseline_ne is not None and entry.rows]
    paired_rows = sum(entry.rows for entry in paired)
    ne = sum((Decimal(entry.ne) * entry.rows for entry in measurements), Decimal(0)) / max(rows, 1)
    moved = sum(((Decimal(entry.ne) - Decimal(entry.baseline_ne or 0)) * entry.rows for entry in paired), Decimal(0))
    return Quality(rows, ne, moved / paired_rows if paired_rows else None)


Gate = Callable[[ModelVersionSpec, Gates], Judgement | None]


def not_finite(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Weights with NaN or infinity never serve."""
    if version.finite:
        return None
    return Judgement(
        False, "NotFinite", "the weights hold NaN or infinity; lower training.learningRate and train again"
    )


def not_measured(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """A version without held-out rows cannot be judged, and what cannot be judged does not serve."""
    if any(entry.rows for entry in version.measurements):
        return None
    return Judgement(False, "NotMeasured", "spec.measurements has no held-out rows; land a version with measurements")


def ne_increased(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Worse than the serving version beyond doubt, on any surface and task."""
    limit = Decimal(gates.max_ne_increase)
    worst = max(
        (entry for entry in version.measurements if entry.rows and entry.ne_increase_low is not None),
        key=lambda entry: Decimal(entry.ne_increase_low or 0),
        default=None,
    )
    if worst is None or Decimal(worst.ne_increase_low or 0) <= limit:
        return None
    against = f"v{version.baseline.version}" if version.baseline else "the baseline"
    return Judgement(
        False,
        "NEIncreased",
        f"{worst.surface}/{worst.task}: NE {Decimal(worst.ne):.4f} is {_relative(worst.ne_increase)} against {against} "
        f"on {worst.rows} rows, at least {_relative(worst.ne_increase_low)} at 95 %; gates.maxNEIncrease allows "
        f"{_relative(gates.max_ne_increase)}. {against} goes on serving; change the training and apply it",
    )


def worse_than_base_rate(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Without a baseline to pair with, a version must at least beat a constant: NE below 1."""
    if any(entry.ne_increase_low is not None for entry in version.measurements):
        return None
    measured = quality(version.measurements)
    if measured.ne < 1:
        return None
    return Judgement(
        False,
        "WorseThanBaseRate",
        f"NE {measured.ne_text} over {measured.rows} rows is no better than predicting the base rate (1.0); "
        "it has learned nothing: check the data and training.learningRate",
    )


def miscalibrated(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Predictions off by a factor, where there are positives enough to tell."""
    low, high = Decimal(gates.calibration.min), Decimal(gates.calibration.max)
    for entry in version.measurements:
        enough = entry.positives >= CALIBRATION_MIN_POSITIVES
        if enough and not low <= Decimal(entry.calibration) <= high:
            return Judgement(
                False,
                "Miscalibrated",
                f"{entry.surface}/{entry.task}: predictions are {Decimal(entry.calibration):.3f} of what was observed "
                f"over {entry.positives} positives; gates.calibration allows {low} to {high}",
            )
    return None


GATES: tuple[Gate, ...] = (not_finite, not_measured, ne_increased, worse_than_base_rate, miscalibrated)
"""In order; the first that objects is the verdict."""


def judge(version: ModelVersionSpec, gates: Gates) -> Judgement:
    """The verdict on a version."""
    for gate in GATES:
        objection = gate(version, gates)
        if objection is not None:
            return objection
    measured = quality(version.measurements)
    against = (
        f" ({measured.change_text} against v{version.baseline.version})"
        if measured.change is not None and version.baseline
        else ""
    )
    return Judgement(True, "GatesPassed", f"NE {measured.ne_text}{against} over {measured.rows} held-out rows")


def _relative(text: str | None) -> str:
    return "unmeasured" if text is None else f"{Decimal(text) * 100:+.2f} %"
