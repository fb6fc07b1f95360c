"""The figures of one surface's arms: each one's quality, how they differ, and what carries over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recast_api.run import RecastError
from recast_trainer.evaluation.compare import arms as kinds
from recast_trainer.evaluation.compare.results import ALL_TASKS, ArmResult, Gap
from recast_trainer.evaluation.compare.statistics import Estimate, Resampled, resample, transfer_ratio
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import Floats, quality

ORDER = (
    kinds.ORACLE, kinds.WITH, kinds.WITH_OTHER, kinds.HEADS, kinds.OTHER_HEADS, kinds.SHUFFLED, kinds.WITHOUT,
    kinds.BASE_RATE,
)  # fmt: skip
"""As arms are shown."""
GAPS = (
    (kinds.WITH, kinds.WITHOUT),
    (kinds.WITH, kinds.SHUFFLED),
    (kinds.SHUFFLED, kinds.WITHOUT),
    (kinds.WITH, kinds.HEADS),
    (kinds.HEADS, kinds.WITHOUT),
    (kinds.WITH, kinds.WITH_OTHER),
    (kinds.HEADS, kinds.OTHER_HEADS),
)
"""What is compared with what, as far as there is; the last two are the gaps that a transfer ratio is of."""


@dataclass(frozen=True)
class Measured:
    """The arms of one surface, scored and resampled."""

    tasks: tuple[str, ...]
    rows: ScoredRows
    logits: dict[str, list[Floats]]
    resampled: dict[str, Resampled]

    @property
    def columns(self) -> dict[str, int]:
        """What there are figures of: tasks with labels of both kinds, and all of them where there are several."""
        base = self.resampled[kinds.BASE_RATE].value
        found = {task: t for t, task in enumerate(self.tasks) if np.isfinite(base[t])}
        return found if len(found) == 1 else found | {ALL_TASKS: len(self.tasks)}

    @classmethod
    def of(cls, tasks: tuple[str, ...], rows: ScoredRows, logits: dict[str, list[Floats]], draws: int) -> Measured:
        """Resampled so many times; ``logits`` by arm, one (R, T) for each seed. Raises ``NothingToMeasure``."""
        found = cls(tasks, rows, logits, resample(rows, logits, draws=draws))
        if not np.isfinite(found.resampled[kinds.BASE_RATE].value).any():
            raise RecastError(
                "NothingToMeasure", f"no held-out label of {', '.join(tasks)} differs from the others; give more data"
            )
        return found

    def arm(self, name: str, learning_rate: str | None, steps: list[int]) -> ArmResult:
        """The figures of one arm; ``steps`` of each seed."""
        ours, base, best = (self.resampled[each].value for each in (name, kinds.BASE_RATE, kinds.ORACLE))
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = (base - ours) / (base - best)
        return ArmResult(
            arm=name,
            learning_rate=learning_rate,
            steps=steps,
            ne={task: self.resampled[name].ne(t) for task, t in self.columns.items()},
            calibration={task: self._calibration(name, t) for task, t in self.columns.items() if task != ALL_TASKS},
            reachable={task: float(reached[t]) for task, t in self.columns.items()},
        )

    def _calibration(self, name: str, task: int) -> float:
        keep = self.rows.mask[:, task]
        labels = self.rows.labels[keep, task]
        each = [quality(logits[keep, task], labels) for logits in self.logits[name]]
        return float(np.mean([found.calibration for found in each if found is not None]))

    def gaps(self) -> list[Gap]:
        """All that there is to compare."""
        return [self._gap(*pair) for pair in GAPS if self.logits.keys() >= set(pair)]

    def _gap(self, arm: str, against: str) -> Gap:
        ours, theirs = self.resampled[arm], self.resampled[against]
        return Gap(
            arm,
            against,
            difference={task: ours.difference(theirs, t) for task, t in self.columns.items()},
            relative={task: ours.relative(theirs, t) for task, t in self.columns.items()},
        )

    def transfer(self) -> dict[str, Estimate | None] | None:
        """Transfer ratio by task, None where it is withheld; None at all where there is one foundation alone."""
        if kinds.WITH_OTHER not in self.logits:
            return None
        expert = (self.resampled[kinds.WITH], self.resampled[kinds.WITH_OTHER])
        foundation = (self.resampled[kinds.HEADS], self.resampled[kinds.OTHER_HEADS])
        return {task: transfer_ratio(expert, foundation, t) for task, t in self.columns.items()}
