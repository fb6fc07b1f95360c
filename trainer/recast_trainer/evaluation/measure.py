"""From scored rows to the measurements that a ModelVersion carries and the operator's gates judge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from recast_api.resources.version import Aggregate, Measurement
from recast_trainer.data.schema import ALL_SURFACES
from recast_trainer.evaluation.metrics import (
    Floats,
    Group,
    Ints,
    PairedIncrease,
    quality,
    summed_increase,
    summed_ne,
)


@dataclass(frozen=True)
class ScoredRows:
    """Predictions and labels of R rows for T tasks."""

    row_ids: Ints  # (R,)
    users: Ints  # (R,)
    surfaces: Ints  # (R,) index into the surfaces' names
    available_at: Ints  # (R,) ms, when the row's first label became known
    labels: Floats  # (R, T)
    mask: NDArray[np.bool_]  # (R, T) whether the label is known
    logits: Floats  # (R, T)
    truth: NDArray[np.float32]  # (R, T) the labels' true probabilities, NaN where the data set has none

    def select(self, keep: NDArray[np.bool_]) -> ScoredRows:
        """The rows where ``keep`` (R,) holds."""
        return ScoredRows(**{entry.name: getattr(self, entry.name)[keep] for entry in fields(ScoredRows)})

    @classmethod
    def concatenate(cls, parts: Sequence[ScoredRows]) -> ScoredRows:
        """The rows of several parts, in order; at least one."""
        return cls(**{entry.name: np.concatenate([getattr(p, entry.name) for p in parts]) for entry in fields(cls)})


def measurements(
    scored: ScoredRows, surfaces: Sequence[str], tasks: Sequence[str], baseline: Mapping[str, Floats] | None = None
) -> list[Measurement]:
    """One measurement per surface and task that has both classes.

    ``baseline`` holds the baseline's logits (R,) by task; a task that it lacks is measured without comparison.
    """
    return [
        _measure(surface, task, group)
        for surface, task, group in _groups(scored, surfaces, tasks, baseline or {}, [1.0] * len(tasks))
    ]


def aggregate(
    scored: ScoredRows,
    surfaces: Sequence[str],
    tasks: Sequence[str],
    baseline: Mapping[str, Floats] | None = None,
    weights: Sequence[float] | None = None,
) -> Aggregate | None:
    """One measurement over all surfaces and tasks that have both classes: losses summed, each times its task's weight.

    ``weights`` (T,) are 1 where absent. Where there is a comparison, the aggregate is of the tasks that the baseline
    has too, so that its figures are all of the same rows. None where nothing can be measured, or all weights are 0.
    """
    found = [group for *_, group in _groups(scored, surfaces, tasks, baseline or {}, weights or [1.0] * len(tasks))]
    compared = [group for group in found if group.baseline_logits is not None]
    increase = _finite(summed_increase(compared)) if compared else None
    groups = compared if increase else found
    ne = summed_ne(groups)
    if ne is None:
        return None
    return Aggregate(
        rows=sum(len(group.labels) for group in groups),
        positives=sum(int(group.labels.sum()) for group in groups),
        ne=decimal(ne),
        **_compared(increase),
    )


def _groups(
    scored: ScoredRows,
    surfaces: Sequence[str],
    tasks: Sequence[str],
    baseline: Mapping[str, Floats],
    weights: Sequence[float],
) -> Iterator[tuple[str, str, Group]]:
    """What can be measured: rows of both classes with finite predictions, by surface and task."""
    for index, surface in enumerate(surfaces):
        for column, task in enumerate(tasks):
            keep = (scored.surfaces == index) & scored.mask[:, column]
            theirs = baseline.get(task)
            group = Group(
                users=scored.users[keep],
                labels=scored.labels[keep, column],
                logits=scored.logits[keep, column],
                baseline_logits=None if theirs is None else theirs[keep],
                weight=weights[column],
            )
            ours = quality(group.logits, group.labels)
            if ours is not None and math.isfinite(ours.ne) and math.isfinite(ours.calibration):
                yield surface, task, group


def _measure(surface: str, task: str, group: Group) -> Measurement:
    ours = quality(group.logits, group.labels)
    assert ours is not None
    increase = None if group.baseline_logits is None else _finite(summed_increase([group]))
    return Measurement(
        surface=surface,
        task=task,
        rows=ours.rows,
        positives=ours.positives,
        ne=decimal(ours.ne),
        calibration=decimal(ours.calibration),
        **_compared(increase),
    )


def _finite(increase: PairedIncrease | None) -> PairedIncrease | None:
    """The comparison, or None where the baseline's predictions are not finite."""
    return increase if increase is not None and all(map(math.isfinite, astuple(increase))) else None


def _compared(increase: PairedIncrease | None) -> dict[str, str]:
    """The fields of a comparison as the API writes them."""
    if increase is None:
        return {}
    return {
        "baseline_ne": decimal(increase.baseline_ne),
        "ne_increase": decimal(increase.mean),
        "ne_increase_low": decimal(increase.low),
        "ne_increase_high": decimal(increase.high),
    }


def decimal(value: float) -> str:
    """A finite number as the API writes it: a decimal string, at most 24 characters."""
    return f"{value:.6f}" if abs(value) < 1e12 else f"{value:.6e}".replace("e+", "e")


def headline(found: Sequence[Measurement], whole: Aggregate | None = None) -> str:
    """One line for people: NE by surface, over tasks, weighted by rows; then the aggregate where there are several."""
    surfaces = list(dict.fromkeys(item.surface for item in found))
    parts = []
    for surface in surfaces:
        mine = [item for item in found if item.surface == surface]
        rows = sum(item.rows for item in mine)
        parts.append(f"{surface} {sum(item.rows * float(item.ne) for item in mine) / rows:.4f}")
    if whole is not None and len(found) > 1:
        parts.append(f"{ALL_SURFACES} {float(whole.ne):.4f}")
    return "  ".join(parts)


def warnings(found: Sequence[Measurement]) -> list[str]:
    """Lines for people: what was measured no better than the base rate, or not at all."""
    if not found:
        return ["WARNING: nothing could be measured: no task has labels of both kinds in the held-out window"]
    return [
        f"WARNING: {item.surface} {item.task}: NE {float(item.ne):.4f} is no better than the base rate, "
        f"on {item.positives} positives of {item.rows} rows"
        for item in found
        if float(item.ne) >= 1
    ]
