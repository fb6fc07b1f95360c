"""The expert's loop: usable rows of the TAE log in time order, then the frozen tail's older half as the last phase.

The tail is embedded by the landed foundation, the one that will serve; ending on it moves the expert from the
embeddings of a foundation in motion to those it will really be given. The tail's newer half is held out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.run import Optimization, RecastError
from recast_model.batch import RequestBatch
from recast_model.config import ExpertConfig
from recast_model.embeddings import TableOptimizer
from recast_model.expert import ExpertModel
from recast_model.losses import expert_loss
from recast_trainer.evaluation.scoring import TaeSource, logged
from recast_trainer.tae import log as tae_log
from recast_trainer.training.checkpoint import Checkpoints, Progress, resume
from recast_trainer.training.loop import global_batches
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import Ints, Stream

MIN_USABLE_ROWS = 200
WARM_UP_STEPS = 20
BASE_RATE_REQUESTS = 1000
"""The first of its requests, from which an expert takes the base rates that it starts from."""
CHECKPOINT_SECONDS = 30.0
"""A run that is cut off repeats this much, and what it wrote in between cost it nothing that one would notice."""


@dataclass(frozen=True)
class Examples:
    """A surface's requests that the log covers, as indices into the stream, in time order."""

    prequential: Ints
    last_phase: Ints
    held_out: Ints
    watermark: int
    """ms; labels available up to here may be learned. Held-out requests are all later."""
    tae: TaeSource


def find_examples(stream: Stream, folder: Path, surface: str, tae_dim: int, device: torch.device) -> Examples:
    """Join a foundation's TAE log with the data. Raises ``TooFewRows``, ``TaeLeak`` or ``TaeLogCorrupt``."""
    prequential = tae_log.read(folder, surface, "prequential")
    tail = tae_log.read(folder, surface, "tail")
    older, newer = tail[: (len(tail) + 1) // 2], tail[(len(tail) + 1) // 2 :]
    index = tae_log.TaeIndex(tae_log.concatenate([rows for _, rows in [*prequential, *tail]], tae_dim))
    own = stream.table.on_surface(stream.dataset.surface_names.index(surface))
    held_out = _covered(stream, own, newer)
    watermark = int(stream.table.rows.event_times[stream.table.starts[held_out]].min()) - 1 if len(held_out) else 0
    mature = own[stream.matured[own] <= watermark]
    found = Examples(
        _covered(stream, mature, prequential), _covered(stream, mature, older), held_out, watermark,
        logged(index, device),
    )  # fmt: skip
    learnable = int(stream.table.counts[np.concatenate([found.prequential, found.last_phase])].sum())
    if learnable < MIN_USABLE_ROWS or not len(held_out):
        raise RecastError(
            "TooFewRows",
            f'the foundation\'s log holds {learnable} usable rows of surface "{surface}" to learn from and '
            f"{int(stream.table.counts[held_out].sum())} to measure on; at least {MIN_USABLE_ROWS} and 1 are needed: "
            "train the foundation on more data, or let spec.data cover what it learned",
        )
    return found


def _covered(stream: Stream, requests: Ints, parts: list[tuple[int, tae_log.TaeRows]]) -> Ints:
    """The requests all of whose rows are in these parts of the log."""
    if not len(requests):
        return requests
    known = np.unique(np.concatenate([rows.row_ids for _, rows in parts])) if parts else np.empty(0, np.int64)
    there = np.isin(stream.table.rows.row_ids[stream.rows_of(requests)], known)
    counts = stream.table.counts[requests]
    whole: NDArray[np.bool_] = np.logical_and.reduceat(there, np.cumsum(counts) - counts)
    return requests[whole]


class ExpertTrainer:
    """One expert from its examples. ``stream`` is read by the foundation's items, with per-surface histories.

    Without ``checkpoints`` a run that is cut off begins anew.
    """

    def __init__(
        self,
        stream: Stream,
        config: ExpertConfig,
        optimization: Optimization,
        group: ProcessGroup,
        examples: Examples,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.stream, self.config, self.group = stream, config, group
        self.optimization, self.examples = optimization, examples
        self.checkpoints, self._saved, self._total = checkpoints, 0.0, 1
        torch.manual_seed(optimization.seed)
        rate = float(optimization.learning_rate)
        self.model = ExpertModel(
            config,
            torch.from_numpy(stream.items.content_matrix()),
            TableOptimizer(learning_rate=rate),
            group.device,
        )
        self.learner = Learner(self.model, group, rate, optimization.seed, WARM_UP_STEPS)

    def train(self) -> ExpertModel:
        """All epochs over the prequential rows, then the last phase once; or what an earlier attempt left of them."""
        begun = self._saved = time.monotonic()
        done = self._resume()
        if not self.learner.steps:
            first = np.concatenate([self.examples.prequential, self.examples.last_phase])[:BASE_RATE_REQUESTS]
            rates = self.stream.base_rates(first)[self.config.surface_index]
            self.model.set_base_rates(rates[list(self.config.task_columns)])
        phases = self._phases()
        self._total = sum(len(chunks) for _, chunks in phases)
        for what, chunks in phases:
            left, done = chunks[done:], max(0, done - len(chunks))
            if left or not chunks:
                loss = self._learn(left)
                self._progress(what, loss, time.monotonic() - begun)
        return self.model

    def _learn(self, chunks: list[Ints]) -> float:
        """Mean log loss over the labels of these global batches, each before it was learned."""
        sums = torch.zeros(2, dtype=torch.float64)  # log loss, labels
        for chunk in chunks:
            index, batch = self.stream.shard(chunk, self.config.history_length, self.group)
            self.learner.step(partial(self._loss, batch, index, sums), self.learner.steps / self._total)
            self._save_at_times()
        return float(sums[0] / sums[1].clamp(min=1))

    def _phases(self) -> list[tuple[str, list[Ints]]]:
        """What is learned, in order: a phase's name and its global batches of requests."""
        epochs, size = self.optimization.epochs, self.optimization.batch_size
        often = list(global_batches(self.examples.prequential, size))
        phases = [(f"epoch {epoch + 1}/{epochs}", often) for epoch in range(epochs)]
        return [*phases, ("last phase", list(global_batches(self.examples.last_phase, size)))]

    def _save_at_times(self) -> None:
        if self.checkpoints is None or time.monotonic() - self._saved < CHECKPOINT_SECONDS:
            return
        if self.group.is_leader:
            self.checkpoints.save(Progress(self.learner.steps, self.learner.steps), self.learner.state())
        self._saved = time.monotonic()

    def _resume(self) -> int:
        """Global batches that an earlier attempt has learned."""
        found = resume(self.checkpoints, self.group) if self.checkpoints else None
        if found is None:
            return 0
        progress, tensors = found
        self.learner.restore(tensors, progress.step)
        self.group.log(f"resumed after {progress.step} steps")
        return progress.position

    def _loss(self, batch: RequestBatch, index: Ints, sums: torch.Tensor) -> torch.Tensor:
        tae, present = self.examples.tae(batch, index)
        found = expert_loss(self.model(batch, tae.float(), present), batch, self.config.task_columns)
        sums += torch.stack([found.main_sum, found.valid]).to(sums)
        return found.total

    def _progress(self, what: str, loss: float, seconds: float) -> None:
        self.group.log(f"{what}  log loss {loss:.4f}  {self.learner.steps} steps  {seconds:.0f} s")
