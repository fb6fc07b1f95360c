"""Acceptance: whether a landed version may serve, judged from its own measurements and the model's gates.

Whoever may create a ModelVersion chooses its numbers. One that no measurement can give is an objection in words and
never an exception. What the gates promise, and why, is in docs/verdicts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from recast_api.resources import Aggregate, FoundationGates, Gates, Measurement, ModelVersionSpec
from recast_operator.planning.versions.comparison import TASK_NOISE, Increase, shared_doubt
from recast_operator.planning.versions.measured import LARGEST, comparison_of, guards, number, quality, read

CALIBRATION_MIN_POSITIVES = 1600
"""Below this many positives the ratio's own noise (about 2.5 % at 1,600) exceeds what a gate could tell."""


@dataclass(frozen=True)
class Judgement:
    """The verdict with the numbers it rests on."""

    accepted: bool
    reason: str
    message: str


Gate = Callable[[ModelVersionSpec, Gates], Judgement | None]


def not_finite(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Weights or measurements with NaN or infinity never serve."""
    if not version.finite:
        return Judgement(
            False, "NotFinite", "the weights hold NaN or infinity; lower training.learningRate and train again"
        )
    for name, entry in _entries(version):
        for field, text in _numbers(entry).items():
            if number(text) is None:
                return Judgement(
                    False,
                    "NotFinite",
                    f"{name}: {field} {text} is no finite number up to {LARGEST}; lower training.learningRate and "
                    "train again",
                )
    return None


def not_measured(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """A version without held-out rows cannot be judged, and what cannot be judged does not serve."""
    for name, entry in _entries(version):
        if impossible := _impossible(entry):
            return Judgement(
                False,
                "NotMeasured",
                f"{name}: {impossible}, which no measurement gives; land a version with the measurements of its own "
                "evaluation",
            )
    if quality(version).rows:
        return None
    return Judgement(False, "NotMeasured", "spec.measurements has no held-out rows; land a version with measurements")


def _entries(version: ModelVersionSpec) -> Iterator[tuple[str, Measurement | Aggregate]]:
    """Everything that was measured, with what to call it."""
    for entry in version.measurements:
        yield f"{entry.surface}/{entry.task}", entry
    if version.aggregate is not None:
        yield "aggregate", version.aggregate
    if version.tail is not None and version.tail.gap is not None:
        yield "tail.gap", version.tail.gap


def _numbers(entry: Measurement | Aggregate) -> dict[str, str]:
    """Every number of an entry by the name of its field."""
    found = {
        "ne": entry.ne,
        "calibration": entry.calibration if isinstance(entry, Measurement) else None,
        "baselineNe": entry.baseline_ne,
        "neIncrease": entry.ne_increase,
        "neIncreaseLow": entry.ne_increase_low,
        "neIncreaseHigh": entry.ne_increase_high,
    }
    return {field: text for field, text in found.items() if text is not None}


def _impossible(entry: Measurement | Aggregate) -> str:
    if entry.rows < 0 or entry.positives < 0:
        return f"{entry.positives} positives of {entry.rows} rows"
    texts = _numbers(entry)
    for field in ("ne", "calibration", "baselineNe"):
        if read(texts.get(field)) < 0:
            return f"{field} {texts[field]}"
    low, high = texts.get("neIncreaseLow"), texts.get("neIncreaseHigh")
    if low is not None and high is not None and read(low) > read(high):
        return f"neIncreaseLow {low} above neIncreaseHigh {high}"
    return ""


def ne_increased(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Worse than the serving version beyond doubt, over all surfaces and tasks together."""
    measured = quality(version)
    if measured.increase is None or measured.positives < gates.min_positives:
        return None
    sure = measured.increase.with_training_noise(float(gates.training_noise))
    if sure.lower() <= float(gates.max_ne_increase):
        return None
    against = _baseline(version)
    return Judgement(
        False,
        "NEIncreased",
        f"NE {measured.ne_text} is {sure.mean:+.2%} against {against} over {measured.rows} held-out rows, one-sided "
        f"95 % lower bound {sure.lower():+.2%} with {_noise(gates)}; gates.maxNEIncrease allows "
        f"{float(gates.max_ne_increase):+.2%}. {against} goes on serving; change the training and apply it",
    )


def task_ne_increased(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Worse beyond doubt on one surface and task, which the sum may hide: the worst of those with positives enough."""
    noise = TASK_NOISE * float(gates.training_noise)
    judged = [
        (entry, found.with_training_noise(noise))
        for entry in guards(version)
        if entry.rows > 0 and entry.positives >= gates.min_positives and (found := comparison_of(entry)) is not None
    ]
    if not judged:
        return None
    doubt, limit = shared_doubt(len(judged)), task_limit(gates)
    worst, sure = max(judged, key=lambda pair: pair[1].lower(doubt))
    if sure.lower(doubt) <= limit:
        return None
    against = _baseline(version)
    return Judgement(
        False,
        "TaskNEIncreased",
        f"{worst.surface}/{worst.task}: NE {read(worst.ne):.4f} is {sure.mean:+.2%} against {against} on {worst.rows} "
        f"rows, one-sided {1 - doubt:.2%} lower bound {sure.lower(doubt):+.2%} with {_noise(gates)}, as one of "
        f"{len(judged)} guards; gates.maxTaskNEIncrease allows {limit:+.2%}. {against} goes on serving; change the "
        "training and apply it",
    )


def task_limit(gates: Gates) -> float:
    """What one task may increase by: never less than all of them together may."""
    return max(float(gates.max_task_ne_increase), float(gates.max_ne_increase))


def worse_than_base_rate(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """Without a baseline to pair with, a version must at least beat a constant: NE below 1."""
    measured = quality(version)
    if measured.increase is not None or measured.ne < 1:
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
    for entry in guards(version):
        enough = entry.positives >= CALIBRATION_MIN_POSITIVES
        if enough and not low <= read(entry.calibration) <= high:
            return Judgement(
                False,
                "Miscalibrated",
                f"{entry.surface}/{entry.task}: predictions are {read(entry.calibration):.3f} of what was observed "
                f"over {entry.positives} positives; gates.calibration allows {low} to {high}",
            )
    return None


def moving_gap(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """A foundation that goes stale within its own tail, beyond the doubt of which users came."""
    gap = version.tail.gap if version.tail is not None else None
    if not isinstance(gates, FoundationGates) or gap is None or gap.positives < gates.min_positives:
        return None
    if read(gap.ne_increase_low) <= Decimal(gates.max_moving_gap):
        return None
    return Judgement(
        False,
        "MovingGap",
        f"over the tail, weights that stand still have NE {read(gap.ne):.4f} and weights that learn it "
        f"{read(gap.baseline_ne):.4f}: {read(gap.ne_increase):+.2%}, one-sided 95 % lower bound "
        f"{read(gap.ne_increase_low):+.2%}; gates.maxMovingGap allows {Decimal(gates.max_moving_gap):+.2%}. What "
        "serves would go stale within the tail: shorten spec.data.tail, and train as often as it lasts",
    )


def inconclusive(version: ModelVersionSpec, gates: Gates) -> Judgement | None:
    """A comparison that cannot tell: too few positives, or bounds wider than the limit that still reach over it.

    A version that is shown to be within the limit is not in doubt, however wide the bounds.
    """
    measured = quality(version)
    if measured.increase is None:
        return None
    limit, least = float(gates.max_ne_increase), gates.min_positives
    sure = measured.increase.with_training_noise(float(gates.training_noise))
    most = max((entry.positives for entry in guards(version)), default=0)
    if most < least:
        what = f"no task has {least} positives (gates.minPositives), the most has {most}"
        todo = "hold out more data"
    elif sure.half_width() > limit and sure.upper() > limit:
        what = (
            f"the one-sided 95 % bounds are {_bounds(sure)} with {_noise(gates)}, "
            f"{sure.half_width():.2%} to either side, wider than gates.maxNEIncrease {limit:.2%}"
        )
        todo = "hold out more data, state the gates.trainingNoise that you measure, or raise the limit"
    else:
        return None
    accepted = gates.inconclusive == "Accept"
    then = "so the canary judges next" if accepted else f"so {_baseline(version)} goes on serving"
    return Judgement(
        accepted,
        "Inconclusive",
        f"{_summary(version)}: {what}. gates.inconclusive is {gates.inconclusive}, {then}; to know more, {todo}",
    )


GATES: tuple[Gate, ...] = (
    not_finite, not_measured, ne_increased, task_ne_increased, worse_than_base_rate, miscalibrated, moving_gap,
    inconclusive,
)  # fmt: skip
"""In order; the first that speaks has the verdict. Only the last may speak for a version."""


def judge(version: ModelVersionSpec, gates: Gates) -> Judgement:
    """The verdict on a version."""
    for gate in GATES:
        verdict = gate(version, gates)
        if verdict is not None:
            return verdict
    return Judgement(True, "GatesPassed", f"{_summary(version)}{_unjudged(version, gates)}")


def _summary(version: ModelVersionSpec) -> str:
    measured = quality(version)
    compared = measured.change is not None and version.baseline is not None
    against = f" ({measured.change_text} against {_baseline(version)})" if compared else ""
    since = ", learned since" if version.tail is not None and version.tail.learned else ""
    return f"NE {measured.ne_text}{against} over {measured.rows} held-out rows{since}"


def _unjudged(version: ModelVersionSpec, gates: Gates) -> str:
    """Which tasks were compared and are too small for a guard."""
    small = [
        entry for entry in guards(version) if comparison_of(entry) is not None and entry.positives < gates.min_positives
    ]
    if not small:
        return ""
    first, more = small[0], f" and {len(small) - 1} more" if len(small) > 1 else ""
    return (
        f"; not judged alone: {first.surface}/{first.task} with {first.positives} positives{more} "
        f"(gates.minPositives is {gates.min_positives})"
    )


def _baseline(version: ModelVersionSpec) -> str:
    return f"v{version.baseline.version}" if version.baseline else "the baseline"


def _bounds(sure: Increase) -> str:
    return f"{sure.lower():+.2%} and {sure.upper():+.2%}"


def _noise(gates: Gates) -> str:
    return f"gates.trainingNoise {float(gates.training_noise):.2%}"
