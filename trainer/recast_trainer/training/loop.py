"""The foundation's loop: for each hour of data embed, log, then learn; at the end score the tail, never learned.

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

from recast_api.run import Optimization
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
from recast_trainer.tae import log as tae_log
from recast_trainer.training import probes
from recast_trainer.training.checkpoint import CHECKPOINTS, Checkpoints, Progress, resume
from recast_trainer.training.probes import Probes
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.split import Split, split
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import Ints, Stream, shard


@dataclass(frozen=True)
class TrainedFoundation:
    """A foundation at the end of its stream."""

    model: FoundationModel
    watermark: int
    """ms; labels available up to here were learned, none later."""
    similarities: list[float]
    """For each learned segment, how like the final version the model was that embedded it."""
    tail: ScoredRows
    finite: bool
    split: Split
    histories: HistorySnapshot


class FoundationTrainer:
    """One run over a stream; ``folder`` holds its checkpoints and probes and, until it lands, its TAE log."""

    def __init__(
        self,
        stream: Stream,
        config: FoundationConfig,
        optimization: Optimization,
        group: ProcessGroup,
        folder: Path,
        fingerprint: str = "run",
    ) -> None:
        self.stream, self.config, self.group, self.optimization = stream, config, group, optimization
        self.split = split(len(stream.segments))
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
        """Run, or go on from the newest checkpoint, to the end of the stream."""
        self._resume()
        begun, first = time.monotonic(), self.segment
        learned = 0
        tail = []
        walk = self.stream.walk(self.config.history_length, choose=self._wanted)
        for index, requests in walk:
            if index < first:  # what an earlier attempt left to wait
                self._wait_for(requests.with_labels(requests.rows.available_at > self._resumed_at))
            elif index < self.split.learn:
                scored = self._log(index, requests, "prequential")
                if self.learner.steps:  # before, there is nothing that could have predicted
                    self.entropy.add(scored.logits, scored.labels, scored.mask)
                learned += len(scored.row_ids)
                self.watermark = self.stream.segments[index].end - 1
                self.learn(requests)
                self.segment += 1
                self._save()
                self._progress(learned, time.monotonic() - begun, self.segment - first)
            else:
                tail.append(self._log(index, requests, "tail"))
        return TrainedFoundation(
            self.model,
            self.watermark,
            self.probes.similarities(self.model, self.stream.items, self.split.learn),
            ScoredRows.concatenate(tail),
            self.learner.finite(),
            self.split,
            walk.snapshot(self.stream.items),
        )

    def learn(self, requests: Requests) -> None:
        """Learn the labels of ``requests``, and of those that waited, that are mature at the watermark."""
        waiting = self._wait_for(requests)
        mature = waiting.rows.available_at <= self.watermark
        ready, immature = waiting.with_labels(mature), waiting.with_labels(~mature)
        ready, self.pending = ready.take(ready.labelled), immature.take(immature.labelled)
        self._begin_from(ready.base_rates(len(self.config.surfaces)))
        batches = list(global_batches(np.arange(len(ready)), self.optimization.batch_size))
        for place, chunk in enumerate(batches):
            _, batch = shard(ready.take(chunk), self.stream.items, self.group)
            done = (self.segment + place / len(batches)) / self.split.learn
            self.learner.step(partial(self._loss, batch), done)

    def _begin_from(self, rates: torch.Tensor) -> None:
        """Let heads of tasks of which these are the first labels begin from base rates (surfaces, tasks)."""
        begins = ~self.begun & ~rates.isnan().all(0)
        if begins.any():
            self.model.set_base_rates(torch.where(begins, rates, torch.nan))
        self.begun |= begins

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
        if phase == "prequential":
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
