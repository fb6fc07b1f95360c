"""The foundation's loop: for each hour of data embed, log, then learn; of the tail first all, then learn.

The tail is embedded and measured by the weights that have learned all before it; then it is learned as well, an hour
after the other, so that what serves has seen the newest mature data. Where that step goes wrong, what was measured
serves.

Two times rule it. A segment is embedded by a model that has learned only labels available before the segment began
(the *cursor*), and each label is learned once, when it is mature. Requests with labels that are not wait for them in
``pending``, with those labels alone, since their segment is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.manifest import MEASURED
from recast_api.run import Optimization, RecastError
from recast_model.artifact import load_weights, save_weights
from recast_model.batch import RequestBatch
from recast_model.config import FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.foundation import FoundationModel
from recast_model.losses import foundation_loss
from recast_model.snapshot import HistorySnapshot
from recast_trainer.data.requests import Requests, Slates
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import RunningNE
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.evaluation.tail import refusal
from recast_trainer.tae import log as tae_log
from recast_trainer.training import probes
from recast_trainer.training.checkpoint import CHECKPOINTS, Checkpoints, Progress, resume
from recast_trainer.training.probes import Probes
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.split import Split, split
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import Ints, Stream, Walk, shard


@dataclass(frozen=True)
class TrainedFoundation:
    """A foundation at the end of its stream."""

    model: FoundationModel
    """What is to serve."""
    watermark: int
    """ms; labels available up to here were learned, none later."""
    similarities: list[float]
    """For each segment before the tail, how like the final version the model was that embedded it."""
    tail: ScoredRows
    """By the weights from before the tail."""
    through: LearnedThrough
    finite: bool
    split: Split
    histories: HistorySnapshot


@dataclass(frozen=True)
class LearnedThrough:
    """The step from the weights that were measured on the tail to those that have learned it."""

    watermark: int
    """ms; labels available up to here were learned by the weights that were measured."""
    weights: Path
    """Those weights."""
    refused: str
    """Why what serves is what was measured; empty where it has learned the tail."""
    similarity: float
    """Of the tail's TAE after the step to those in the log, mean over its segments."""
    moving: ScoredRows
    """The tail's rows, each segment by weights that had learned those before it."""


class FoundationTrainer:
    """One run over a stream; ``folder`` holds its checkpoints and probes and, until it lands, its TAE log.

    ``tail_ms`` is how much of the stream is measured on before it is learned; None: as :func:`split` has it.
    """

    def __init__(
        self,
        stream: Stream,
        config: FoundationConfig,
        optimization: Optimization,
        group: ProcessGroup,
        folder: Path,
        fingerprint: str = "run",
        tail_ms: int | None = None,
    ) -> None:
        self.stream, self.config, self.group, self.optimization = stream, config, group, optimization
        self.split = split(stream.segments, tail_ms)
        self.measured = folder / MEASURED
        self.logs, self.checkpoints = folder / tae_log.FOLDER, Checkpoints(folder / CHECKPOINTS, fingerprint)
        self.probes = Probes(folder / probes.FOLDER, group)
        torch.manual_seed(optimization.seed)
        self.model = FoundationModel(
            config,
            torch.from_numpy(stream.items.content_matrix()),
            TableOptimizer(learning_rate=float(optimization.optimizer.table_learning_rate)),
            group.device,
        )
        self.learner = Learner(self.model, group, optimization)
        self.entropy = RunningNE(len(config.tasks))
        self.segment, self.watermark = 0, stream.segments[0].start - 1
        self.begun = torch.zeros(len(config.tasks), dtype=torch.bool)
        """Tasks of which labels were learned."""
        self.pending: Requests | None = None

    def train(self) -> TrainedFoundation:
        """Run, or go on from the newest checkpoint, to the end of the stream. The tail begins anew in each attempt."""
        self._resume()
        tail = self._learn_and_measure()
        through, walk = self._learn_through()
        return TrainedFoundation(
            self.model,
            self.watermark,
            self.probes.similarities(self.model, self.stream.items, range(self.split.learn)),
            tail,
            through,
            self.learner.finite(),
            self.split,
            walk.snapshot(self.stream.items),
        )

    def _learn_and_measure(self) -> ScoredRows:
        """Learn all before the tail; the tail as the weights then predict it."""
        begun, first = time.monotonic(), self.segment
        learned = 0
        tail = []
        for index, requests in self.stream.walk(self.config.history_length, choose=self._wanted):
            if index < first:  # what an earlier attempt left to wait
                self._wait_for(requests.with_labels(requests.rows.available_at > self._resumed_at))
            elif index < self.split.learn:
                scored = self._log(index, requests, "prequential")
                known = scored.mask & self.begun.numpy()  # before its first labels, nothing predicts a task
                self.entropy.add(scored.logits, scored.labels, known)
                learned += len(scored.row_ids)
                self.watermark = self._known_after(index)
                self.learn(requests)
                self.segment += 1
                self._save()
                self._progress(learned, time.monotonic() - begun, self.segment - first)
            else:
                tail.append(self._log(index, requests, "tail"))
        return ScoredRows.concatenate(tail)

    def _learn_through(self) -> tuple[LearnedThrough, Walk]:
        """Learn the tail at the rate of the run's end, or go back to the weights that were measured; the pass over it.

        Each segment is scored by the weights in motion before they learn it, and nothing is logged.
        """
        weights = self.model.state_dict()  # of every process a part
        if self.group.is_leader:
            save_weights(weights, self.measured)
        self.group.barrier()
        measured_at, refused = self.watermark, ""
        moving = []
        walk = self.stream.walk(self.config.history_length, choose=self._in_tail)
        for index, requests in walk:
            if index >= self.split.learn:
                moving.append(score_foundation(self.model, requests, self.stream.items, self.group)[0])
                self.watermark = self._known_after(index)
                refused = refused or self._try_to_learn(requests)
        likeness = self.probes.similarities(self.model, self.stream.items, range(self.split.learn, self.split.end))
        similarity = float(np.mean(likeness))
        refused = refused or refusal(self.learner.finite(), similarity)
        if refused:
            load_weights(self.model, self.measured)
            self.watermark = measured_at
        through = LearnedThrough(measured_at, self.measured, refused, similarity, ScoredRows.concatenate(moving))
        return through, walk

    def _try_to_learn(self, requests: Requests) -> str:
        """Why the requests could not be learned; empty where they were."""
        try:
            self.learn(requests)
        except RecastError as error:
            if error.termination.reason != "NotFinite":
                raise
            return str(error)
        return ""

    def _in_tail(self, index: int, slates: Slates) -> NDArray[np.bool_]:
        return np.full(len(slates), index >= self.split.learn)

    def learn(self, requests: Requests) -> None:
        """Learn the labels of ``requests``, and of those that waited, that are mature at the watermark."""
        self.model.observe_context(requests.context_numbers)
        waiting = self._wait_for(requests)
        mature = waiting.rows.available_at <= self.watermark
        ready, immature = waiting.with_labels(mature), waiting.with_labels(~mature)
        ready, self.pending = ready.take(ready.labelled), immature.take(immature.labelled)
        self._begin_from(ready.base_rates(len(self.config.surfaces)))
        batches = list(global_batches(np.arange(len(ready)), self.optimization.batch_size))
        for place, chunk in enumerate(batches):
            _, batch = shard(ready.take(chunk), self.stream.items, self.group)
            done = (self.segment + place / len(batches)) / self.split.learn
            self.learner.step(partial(self._loss, batch), min(1.0, done))

    def _begin_from(self, rates: torch.Tensor) -> None:
        """Let heads of tasks of which these are the first labels begin from base rates (surfaces, tasks)."""
        begins = ~self.begun & ~rates.isnan().all(0)
        if begins.any():
            self.model.set_base_rates(torch.where(begins, rates, torch.nan))
        self.begun |= begins

    def _known_after(self, index: int) -> int:
        """ms; labels available up to here are known when a segment is over."""
        return self.stream.segments[index].end - 1

    def _wait_for(self, requests: Requests) -> Requests:
        self.pending = requests if self.pending is None else Requests.concatenate([self.pending, requests])
        return self.pending

    def _wanted(self, index: int, slates: Slates) -> NDArray[np.bool_]:
        """Of segments that an earlier attempt has learned, what had not matured; all of the others."""
        return (slates.matured > self._resumed_at) | (index >= self._resumed_from)

    def _loss(self, batch: RequestBatch) -> torch.Tensor:
        return foundation_loss(self.model(batch), batch).total

    def _log(self, index: int, requests: Requests, phase: tae_log.Phase) -> ScoredRows:
        scored, tae = score_foundation(self.model, requests, self.stream.items, self.group)
        if self.group.is_leader:
            names = np.array(self.config.surfaces)[scored.surfaces]
            cursor = np.full(len(tae), self.watermark, np.int64)
            rows = tae_log.TaeRows(scored.row_ids, scored.available_at, cursor, tae)
            tae_log.write_segment(self.logs, index, phase, rows, names, self.stream.segments[index].name)
        self.probes.keep(index, requests, tae)
        return scored

    def _save(self) -> None:
        state = self.learner.state()
        if self.group.is_leader:
            progress = Progress(self.segment, self.learner.steps, self.watermark, self.entropy.sums.tolist())
            self.checkpoints.save(progress, state | {"begun": self.begun})
        self.group.barrier()

    def _resume(self) -> None:
        self._resumed_from, self._resumed_at = 0, self.watermark
        found = resume(self.checkpoints, self.group)
        if found is None:
            self.probes.clear()
            self.group.barrier()  # before the first is kept
            return
        progress, tensors = found
        self.learner.restore(tensors, progress.step)
        self.begun = tensors["begun"]
        self.segment, self.watermark = progress.position, progress.watermark
        self._resumed_from, self._resumed_at = self.segment, self.watermark
        self.entropy.sums = np.array(progress.metrics, np.float64)
        self.group.log(f"resumed after segment {self.segment}/{self.split.learn}")

    def _progress(self, rows: int, seconds: float, done: int) -> None:
        left = seconds / done * (self.split.learn - self.segment)
        self.group.log(
            f"segment {self.segment}/{self.split.learn} {self.stream.segments[self.segment - 1].name}  "
            f"{rows / seconds:,.0f} rows/s  NE so far {self.entropy.mean():.4f}  {left:.0f} s left"
        )


def global_batches(requests: Ints, size: int) -> Iterator[Ints]:
    """``requests`` in order, in batches as even as can be and none above ``size``."""
    if len(requests):
        yield from np.array_split(requests, -(-len(requests) // size))
