"""Acceptance: whether a landed version may serve, judged from its own measurements and the model's gates.

Whoever may create a ModelVersion chooses its numbers. So a number is read by :func:`number`, which bounds it, and one
that no measurement can give is an objection in words and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from recast_api.resources import Gates, Measurement, ModelVersionSpec

CALIBRATION_MIN_POSITIVES = 1600
"""Below this many positives the ratio's own noise (about 2.5 % at 1,600) exceeds what a gate could tell."""

LARGEST = Decimal(1_000_000_000)
"""No entropy or ratio that was measured is larger."""
SMALLEST = Decimal("1e-12")
"""What is nearer to 0 counts as 0."""


def number(text: str) -> Decimal | None:
    """A measured number; None where it is infinite, NaN, beyond :data:`LARGEST`, or no number at all."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or value.copy_abs().compare(LARGEST) > 0:
        return None
    return value if value.copy_abs().compare(SMALLEST) >= 0 else Decimal(0)


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
    """The row-weighted mean of NE and of its change, over the measurements that can be read."""
    read = [(entry, ne) for entry in measurements if entry.rows > 0 and (ne := number(entry.ne)) is not None]
    paired = [
        (entry.rows, ne - before)
        for entry, ne in read
        if entry.baseline_ne is not None and (before := number(entry.baseline_ne)) is not None
    ]
    rows, paired_rows = sum(entry.rows for entry, _ in read), sum(weight for weight, _ in paired)
    mean = sum((ne * entry.rows for entry, ne in read), Decimal(0)) / max(rows, 1)
    moved = sum((change * weight for weight, change in paired), Decimal(0))
    return Quality(rows, mean, moved / paired_rows if paired_rows else None)


Gate = Callable[[ModelVersionSpec, Gates], Judgement | None]


def not_finite(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Weights or measurements with NaN or infinity never serve."""
    if not version.finite:
        return Judgement(
            False, "NotFinite", "the weights hold NaN or infinity; lower training.learningRate and train again"
        )
    for entry, field, text in _numbers(version):
        if number(text) is None:
            return Judgement(
                False,
                "NotFinite",
                f"{entry.surface}/{entry.task}: {field} {text} is no finite number up to {LARGEST}; lower "
                "training.learningRate and train again",
            )
    return None


def not_measured(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """A version without held-out rows cannot be judged, and what cannot be judged does not serve."""
    for entry in version.measurements:
        if impossible := _impossible(entry):
            return Judgement(
                False,
                "NotMeasured",
                f"{entry.surface}/{entry.task}: {impossible}, which no measurement gives; land a version with the "
                "measurements of its own evaluation",
            )
    if any(entry.rows for entry in version.measurements):
        return None
    return Judgement(False, "NotMeasured", "spec.measurements has no held-out rows; land a version with measurements")


def _impossible(entry: Measurement) -> str:
    if entry.rows < 0 or entry.positives < 0:
        return f"{entry.positives} positives of {entry.rows} rows"
    shares = {"ne": entry.ne, "calibration": entry.calibration, "baselineNe": entry.baseline_ne or "0"}
    return next((f"{field} {text}" for field, text in shares.items() if (number(text) or 0) < 0), "")


def _numbers(version: ModelVersionSpec) -> Iterator[tuple[Measurement, str, str]]:
    """Every number that was measured, with the name of its field."""
    for entry in version.measurements:
        for field, text in (
            ("ne", entry.ne),
            ("calibration", entry.calibration),
            ("baselineNe", entry.baseline_ne),
            ("neIncrease", entry.ne_increase),
            ("neIncreaseLow", entry.ne_increase_low),
            ("neIncreaseHigh", entry.ne_increase_high),
        ):
            if text is not None:
                yield entry, field, text


def ne_increased(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Worse than the serving version beyond doubt, on any surface and task."""
    limit = Decimal(gates.max_ne_increase)
    worst = max(
        (entry for entry in version.measurements if entry.rows and entry.ne_increase_low is not None),
        key=lambda entry: _read(entry.ne_increase_low),
        default=None,
    )
    if worst is None or _read(worst.ne_increase_low) <= limit:
        return None
    against = f"v{version.baseline.version}" if version.baseline else "the baseline"
    return Judgement(
        False,
        "NEIncreased",
        f"{worst.surface}/{worst.task}: NE {_read(worst.ne):.4f} is {_relative(worst.ne_increase)} against {against} "
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
        if enough and not low <= _read(entry.calibration) <= high:
            return Judgement(
                False,
                "Miscalibrated",
                f"{entry.surface}/{entry.task}: predictions are {_read(entry.calibration):.3f} of what was observed "
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
    return "unmeasured" if text is None else f"{_read(text) * 100:+.2f} %"


def _read(text: str | None) -> Decimal:
    """A number that :func:`not_finite` let pass."""
    return number(text or "0") or Decimal(0)
