"""How the arms that learn are tuned and trained: the same rows, budget, epochs and recipe for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from recast_api.run import Optimization, RecastError
from recast_model.config import ExpertTask
from recast_trainer.evaluation.compare.arms import Arm
from recast_trainer.evaluation.compare.results import Tried, counted
from recast_trainer.evaluation.compare.settings import Settings
from recast_trainer.evaluation.compare.statistics import resample
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.tae.log import LogFile
from recast_trainer.training.expert import Examples, ExpertTrainer, reader_config
from recast_trainer.training.process_group import ProcessGroup


class Quiet(ProcessGroup):
    """A group whose trainings say nothing: the comparison has one line for each of them."""

    def log(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Files:
    """Files of a TAE log, by what they are for."""

    prequential: tuple[LogFile, ...] = ()
    last_phase: tuple[LogFile, ...] = ()
    held_out: tuple[LogFile, ...] = ()


@dataclass(frozen=True)
class Part(Examples):
    """Examples of a log of which files serve other ends than in a run."""

    files: Files = Files()

    @cached_property
    def prequential(self) -> list[LogFile]:
        """Learned first, as often as there are epochs."""
        return list(self.files.prequential)

    @cached_property
    def last_phase(self) -> list[LogFile]:
        """Learned last, once."""
        return list(self.files.last_phase)

    @cached_property
    def held_out(self) -> list[LogFile]:
        """Scored, and never learned."""
        return list(self.files.held_out)

    @classmethod
    def of(cls, examples: Examples, segments: set[str]) -> Part:
        """The files of some segments, each for what it is for in a run."""
        return cls._with(
            examples,
            *([f for f in files if f.segment in segments]
              for files in (examples.prequential, examples.last_phase, examples.held_out)),
        )  # fmt: skip

    def earlier(self) -> Part:
        """For tuning: the same as a run, but ending where this one's held-out window begins.

        The last phase is divided as the tail is: its older half is the last phase, its newer half is held out.
        """
        last = self.files.last_phase
        return self._with(self, self.files.prequential, last[: len(last) // 2], last[len(last) // 2 :])

    @classmethod
    def _with(cls, of: Examples, *files: Sequence[LogFile]) -> Part:
        return cls(of.stream, of.folder, of.surface, of.history_length, files=Files(*map(tuple, files)))


@dataclass(frozen=True)
class Trained:
    """What a trained arm predicts for the rows that were held out, and how long it learned."""

    scored: ScoredRows
    steps: int
    rows: int
    """Rows that it learned."""


@dataclass(frozen=True)
class Recipe:
    """What can be chosen for an arm."""

    learning_rate: str
    epochs: int

    def __str__(self) -> str:
        return f"rate {self.learning_rate}, {counted(self.epochs, 'epoch')}"


def train(arm: Arm, part: Part, recipe: Recipe, seed: int, settings: Settings, group: ProcessGroup) -> Trained:
    """Train an arm as a run trains an expert, and score what its part holds out.

    Raises ``TooFewRows``, ``LabelLeak``, and what training an expert raises.
    """
    config = reader_config(
        arm.foundation.bundle.config,
        settings.architecture,
        part.surface,
        [ExpertTask(task) for task in part.stream.dataset.tasks_of(part.surface)],
    )
    optimization = Optimization(
        batch_size=settings.batch_size, learning_rate=recipe.learning_rate, epochs=recipe.epochs, seed=seed
    )
    examples = replace(part, instead=arm.reading(seed))
    quiet = Quiet(group.rank, group.size, group.device)
    trainer = ExpertTrainer(arm.foundation.bundle, config, optimization, quiet, examples, reads_heads=arm.reads_heads)
    trainer.train()
    return Trained(trainer.measure(examples.over(examples.held_out)), trainer.learner.steps, trainer.rows)


def attempt(arm: Arm, part: Part, recipe: Recipe, settings: Settings, group: ProcessGroup) -> tuple[Tried, int]:
    """A recipe tried with the first seed on rows before the held-out window, and how many those are.

    One whose training diverges has an infinite NE. Raises ``NothingToMeasure``, and what :func:`train` raises.
    """
    ne, rows = math.inf, 0
    try:
        scored = train(arm, part.earlier(), recipe, settings.first_seed, settings, group).scored
        rows = len(scored.row_ids)
        if np.isfinite(scored.logits).all():
            ne = float(resample(scored, {arm.name: [scored.logits]}, draws=1)[arm.name].value[-1])
    except RecastError as error:
        if error.termination.reason != "NotFinite":
            raise
    if math.isnan(ne):
        raise RecastError(
            "NothingToMeasure",
            f"the {rows} rows of {part.surface} to tune on have labels all alike: give one of learningRates and one of "
            "epochs, and nothing is tuned",
        )
    return Tried(arm.name, recipe.learning_rate, recipe.epochs, ne), rows


def candidates(settings: Settings) -> list[Recipe]:
    """What each arm is tried with: its budget, the same for all of them."""
    return [Recipe(rate, epochs) for rate, epochs in product(settings.learning_rates, settings.epochs)]


def choose(arms: Sequence[str], recipes: Sequence[Recipe], tried: Sequence[Tried]) -> dict[str, Recipe]:
    """The recipe of each arm: one number of epochs for all, and of each arm the best rate with it.

    The number of epochs is that with the lowest NE, mean over arms of each one's best rate, so that all arms take
    equally many steps. The first of those that are equally good; the only one where none was tried.
    """
    if not tried:
        (only,) = recipes
        return dict.fromkeys(arms, only)

    def best(arm: str, epochs: int) -> Tried:
        return min((t for t in tried if (t.arm, t.epochs) == (arm, epochs)), key=lambda t: t.ne)

    counts = dict.fromkeys(recipe.epochs for recipe in recipes)
    epochs = min(counts, key=lambda count: sum(best(arm, count).ne for arm in arms))
    return {arm: Recipe(best(arm, epochs).learning_rate, epochs) for arm in arms}
