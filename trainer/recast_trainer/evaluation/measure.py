"""From scored rows to the measurements that a ModelVersion carries and the operator's gates judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from recast_api.resources.version import Measurement
from recast_trainer.data.schema import ALL_SURFACES
from recast_trainer.evaluation.metrics import Floats, Ints, paired_increase, quality


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
    """One measurement per surface and task that has both classes, then each task over all surfaces.

    ``baseline`` holds the baseline's logits (R,) by task; a task that it lacks is measured without comparison.
    """
    groups: list[tuple[str, NDArray[np.bool_]]] = [
        (name, scored.surfaces == index) for index, name in enumerate(surfaces)
    ]
    if len(surfaces) > 1:
        groups.append((ALL_SURFACES, np.ones(len(scored.surfaces), dtype=np.bool_)))
    result = []
    for surface, member in groups:
        for column, task in enumerate(tasks):
            keep = member & scored.mask[:, column]
            theirs = baseline.get(task) if baseline is not None else None
            found = _measure(surface, task, column, scored.select(keep), None if theirs is None else theirs[keep])
            if found is not None:
                result.append(found)
    return result


def _measure(surface: str, task: str, column: int, scored: ScoredRows, baseline: Floats | None) -> Measurement | None:
    logits, labels = scored.logits[:, column], scored.labels[:, column]
    ours = quality(logits, labels)
    if ours is None or not math.isfinite(ours.ne) or not math.isfinite(ours.calibration):
        return None
    increase = None if baseline is None else paired_increase(scored.users, logits, baseline, labels)
    compared = increase is not None and all(
        map(math.isfinite, (increase.baseline_ne, increase.mean, increase.low, increase.high))
    )
    return Measurement(
        surface=surface,
        task=task,
        rows=ours.rows,
        positives=ours.positives,
        ne=decimal(ours.ne),
        calibration=decimal(ours.calibration),
        baseline_ne=decimal(increase.baseline_ne) if compared and increase else None,
        ne_increase=decimal(increase.mean) if compared and increase else None,
        ne_increase_low=decimal(increase.low) if compared and increase else None,
        ne_increase_high=decimal(increase.high) if compared and increase else None,
    )


def decimal(value: float) -> str:
    """A finite number as the API writes it: a decimal string, at most 24 characters."""
    return f"{value:.6f}" if abs(value) < 1e12 else f"{value:.6e}".replace("e+", "e")


def headline(found: Sequence[Measurement]) -> str:
    """One line for people: NE by surface, over tasks, weighted by rows."""
    surfaces = list(dict.fromkeys(item.surface for item in found))
    parts = []
    for surface in surfaces:
        mine = [item for item in found if item.surface == surface]
        rows = sum(item.rows for item in mine)
        parts.append(f"{surface} {sum(item.rows * float(item.ne) for item in mine) / rows:.4f}")
    return "  ".join(parts)
