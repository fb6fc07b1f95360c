"""What a version's measurements say, all surfaces and tasks together and one by one.

Whoever may create a ModelVersion chooses its numbers. So a number is read by :func:`number`, which bounds it, and one
that no measurement can give is left out here; the :mod:`gates <recast_operator.planning.versions.gates>` object to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from recast_api.resources import Aggregate, Measurement, ModelVersionSpec
from recast_operator.planning.versions.comparison import Increase

ALL_SURFACES = "all"
"""Older trainers wrote each task over all surfaces together under this name: rows that the others have already."""
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


def read(text: str | None) -> Decimal:
    """A number that the gates let pass; 0 where there is none."""
    return number(text or "0") or Decimal(0)


@dataclass(frozen=True)
class Quality:
    """All measurements in one."""

    rows: int
    positives: int
    ne: Decimal
    change: Decimal | None
    """Absolute change of NE against the baseline, over the measurements that have one."""
    increase: Increase | None
    """Relative increase, of which users' noise alone is known."""

    @property
    def ne_text(self) -> str:
        """Four decimals, empty where nothing was measured."""
        return f"{self.ne:.4f}" if self.rows else ""

    @property
    def change_text(self) -> str:
        """Signed, four decimals, empty without a baseline."""
        return "" if self.change is None else f"{self.change:+.4f}"


def guards(version: ModelVersionSpec) -> list[Measurement]:
    """One measurement per surface and task, of rows that are counted once."""
    return [entry for entry in version.measurements if entry.surface != ALL_SURFACES]


def quality(version: ModelVersionSpec) -> Quality:
    """The aggregate, where it can be read; else the means over :func:`guards`, weighted by rows."""
    whole = version.aggregate
    if whole is None or whole.rows <= 0 or number(whole.ne) is None:
        return _means(guards(version))
    before = number(whole.baseline_ne) if whole.baseline_ne is not None else None
    change = None if before is None else read(whole.ne) - before
    return Quality(whole.rows, whole.positives, read(whole.ne), change, comparison_of(whole))


def comparison_of(entry: Measurement | Aggregate) -> Increase | None:
    """The comparison with the baseline; None where there is none, or one that cannot be read."""
    texts = (entry.ne_increase_low, entry.ne_increase_high, entry.ne_increase)
    low, high, mean = (None if text is None or (value := number(text)) is None else float(value) for text in texts)
    return None if low is None else Increase.between(low, high, mean)


def _means(measurements: Sequence[Measurement]) -> Quality:
    found = [(entry, ne) for entry in measurements if entry.rows > 0 and (ne := number(entry.ne)) is not None]
    paired = [
        (entry.rows, ne - before)
        for entry, ne in found
        if entry.baseline_ne is not None and (before := number(entry.baseline_ne)) is not None
    ]
    rows, paired_rows = sum(entry.rows for entry, _ in found), sum(weight for weight, _ in paired)
    mean = sum((ne * entry.rows for entry, ne in found), Decimal(0)) / max(rows, 1)
    moved = sum((change * weight for weight, change in paired), Decimal(0))
    return Quality(
        rows,
        sum(entry.positives for entry, _ in found),
        mean,
        moved / paired_rows if paired_rows else None,
        _mean_of([(entry.rows, known) for entry, _ in found if (known := comparison_of(entry)) is not None]),
    )


def _mean_of(found: Sequence[tuple[int, Increase]]) -> Increase | None:
    """The mean weighted by rows. How the tasks' errors correlate is not known, so they are taken to go together."""
    rows = sum(weight for weight, _ in found)
    if not rows:
        return None
    return Increase(
        sum(weight / rows * entry.mean for weight, entry in found),
        sum(weight / rows * entry.error for weight, entry in found),
    )
