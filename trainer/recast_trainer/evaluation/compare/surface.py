"""One surface: tune its arms, train them with every seed, and measure them beside what needs no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from recast_api.run import RecastError
from recast_trainer.evaluation.compare import arms as kinds
from recast_trainer.evaluation.compare.arms import Arm, Foundation, trained_arms
from recast_trainer.evaluation.compare.measured import ORDER, Measured
from recast_trainer.evaluation.compare.progress import Progress
from recast_trainer.evaluation.compare.results import SurfaceResult, Tried
from recast_trainer.evaluation.compare.settings import Settings
from recast_trainer.evaluation.compare.training import Part, Recipe, Trained, attempt, candidates, choose, train
from recast_trainer.evaluation.metrics import Floats
from recast_trainer.training.expert import Examples
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream


@dataclass(frozen=True)
class Surface:
    """A surface and what is compared on it."""

    name: str
    tasks: tuple[str, ...]
    arms: list[Arm]
    parts: dict[str, Part]
    """What is learned and held out, by arm; and by the name of each foundation's heads."""
    foundations: dict[str, Foundation]
    """By the name of their heads."""
    size: int
    """Rows of an epoch, as a measure of what it costs."""

    @classmethod
    def of(
        cls, stream: Stream, name: str, foundation: Foundation, other: Foundation | None, settings: Settings
    ) -> Surface:
        """What the logs of the foundations hold of it; of two logs the segments that both have."""
        foundations = {kinds.HEADS: foundation} | ({kinds.OTHER_HEADS: other} if other else {})
        length = settings.architecture.history_length
        logs = {
            heads: Examples(stream.known_by(source.bundle.config.context), source.log, name, length)
            for heads, source in foundations.items()
        }
        common = set.intersection(*(_segments(log) for log in logs.values()))
        parts = {heads: Part.of(log, common) for heads, log in logs.items()}
        arms = trained_arms(foundation, other)
        for arm in arms:
            parts[arm.name] = parts[kinds.HEADS if arm.foundation is foundation else kinds.OTHER_HEADS]
        size = 1 + sum(file.count().get(name, 0) for file in parts[kinds.HEADS].prequential)
        return cls(name, tuple(stream.dataset.tasks_of(name)), arms, parts, foundations, size)

    def compare(self, settings: Settings, group: ProcessGroup, progress: Progress) -> SurfaceResult:
        """All of it, in order. Raises ``NotComparable``, and what training an arm raises."""
        untrained = self._untrained()  # first: it costs little, and finds out whether there is anything to compare
        tried, tuned_on = self._tune(settings, group, progress)
        recipes = choose([arm.name for arm in self.arms], candidates(settings), tried)
        epochs = next(iter(recipes.values())).epochs
        progress.less(self.size * len(self.arms) * settings.seeds * (max(settings.epochs) - epochs))
        trained = self._train(recipes, settings, group, progress)
        rows = trained[kinds.WITH][0].scored
        logits = untrained | {
            kinds.ORACLE: [kinds.oracle_logits(rows.truth)],
            **{name: [each.scored.logits for each in runs] for name, runs in trained.items()},
        }
        measured = Measured.of(self.tasks, rows, logits, settings.resamples)
        return SurfaceResult(
            surface=self.name,
            rows=len(rows.row_ids),
            users=len(np.unique(rows.users)),
            positives={task: int(rows.labels[rows.mask[:, t], t].sum()) for t, task in enumerate(self.tasks)},
            learned=trained[kinds.WITH][0].rows,
            epochs=epochs,
            tuning_rows=tuned_on,
            tried=tried,
            arms=[
                measured.arm(
                    name,
                    recipes[name].learning_rate if name in recipes else None,
                    [each.steps for each in trained.get(name, [])],
                )
                for name in ORDER
                if name in logits
            ],
            gaps=measured.gaps(),
            transfer=measured.transfer(),
        )

    def _tune(self, settings: Settings, group: ProcessGroup, progress: Progress) -> tuple[list[Tried], int]:
        """Every candidate of every arm, and the number of rows that they were judged by; none if there is no choice."""
        found: list[Tried] = []
        most, recipes = 0, candidates(settings)
        for arm, recipe in product(self.arms, recipes if len(recipes) > 1 else []):
            tried, rows = attempt(arm, self.parts[arm.name], recipe, settings, group)
            found, most = [*found, tried], max(most, rows)
            progress.finished(f"{self.name}, tuning {arm.name}, {recipe}: NE {tried.ne:.4f}", self.size * recipe.epochs)
        return found, most

    def _train(
        self, recipes: Mapping[str, Recipe], settings: Settings, group: ProcessGroup, progress: Progress
    ) -> dict[str, list[Trained]]:
        """Each arm with every seed, by its name."""
        found: dict[str, list[Trained]] = {arm.name: [] for arm in self.arms}
        for seed, arm in product(settings.all_seeds, self.arms):
            recipe = recipes[arm.name]
            found[arm.name].append(train(arm, self.parts[arm.name], recipe, seed, settings, group))
            progress.finished(f"{self.name}, {arm.name}, {recipe}, seed {seed}", self.size * recipe.epochs)
        return found

    def _untrained(self) -> dict[str, list[Floats]]:
        """Logits of the foundations' heads and of the base rate for the held-out rows. Raises ``NotComparable``."""
        part = self.parts[kinds.HEADS]
        columns = [part.stream.dataset.tasks.index(task) for task in self.tasks]
        rates = kinds.base_rate_logits(part)[columns]
        found, rows = {}, []
        for name, foundation in self.foundations.items():
            ids, logits = [np.empty(0, np.int64)], [np.empty((0, len(columns)))]
            for example in self.parts[name].over(self.parts[name].held_out):
                ids.append(example.requests.rows.row_ids)
                logits.append(kinds.foundation_logits(foundation.bundle.model, example.tae.values)[:, columns])
            rows.append(np.concatenate(ids))
            found[name] = [np.concatenate(logits)]
        if not all(np.array_equal(rows[0], each) for each in rows):
            raise RecastError(
                "NotComparable",
                f"the logs of the two foundations hold out other rows of {self.name}: train both on the same data, up "
                "to the same time and with the same spec.data.tail",
            )
        return found | {kinds.BASE_RATE: [np.broadcast_to(rates, (len(rows[0]), len(columns)))]}


def _segments(log: Examples) -> set[str]:
    return {file.segment for files in (log.prequential, log.last_phase, log.held_out) for file in files}
