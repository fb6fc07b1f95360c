"""The expert's loop: usable rows of the TAE log in time order, then the frozen tail's older half as the last phase.

The tail is embedded by the landed foundation, the one that will serve; ending on it moves the expert from the
embeddings of a foundation in motion to those it will really be given. The tail's newer half is held out.

The last phase also decides how much of what was learned counts beside the foundation's own heads: what does not gain on
rows that it has not learned is left out, so that no expert is worse than the heads that it starts from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.resources.expert import ExpertArchitecture
from recast_api.run import Optimization, RecastError
from recast_model.artifact import FoundationBundle
from recast_model.batch import RequestBatch
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.expert import ExpertModel
from recast_model.items import ItemTable
from recast_model.losses import expert_loss
from recast_model.snapshot import HistorySnapshot
from recast_trainer.data.requests import Index, Requests, Slates
from recast_trainer.evaluation.leak import require_no_leak
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.scoring import RequestTae, logged, score_expert
from recast_trainer.tae import log as tae_log
from recast_trainer.training.checkpoint import Checkpoints, Progress, resume
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.share import ShareSearch
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import Stream, shard

MIN_USABLE_ROWS = 200
BASE_RATE_REQUESTS = 1000
"""The first of its requests, from which an expert takes the base rates that it starts from."""
CHECKPOINT_SECONDS = 30.0
"""A run that is cut off repeats this much, and what it wrote in between cost it nothing that one would notice."""


@dataclass(frozen=True)
class Example:
    """Requests of one segment with their logged TAE."""

    segment: int
    requests: Requests
    tae: RequestTae

    def __len__(self) -> int:
        return len(self.requests)

    def take(self, index: Index) -> Example:
        """Some of the requests."""
        return Example(self.segment, self.requests.take(index), self.tae.take(self.requests, index))

    def and_these(self, other: Example) -> Example:
        """The requests of both, of which ``other`` come later."""
        return Example(
            other.segment,
            Requests.concatenate([self.requests, other.requests]),
            RequestTae.concatenate([self.tae, other.tae]),
        )


@dataclass(frozen=True)
class Examples:
    """A surface's requests that a foundation's log covers, read a segment at a time in time order, as often as needed.

    Learned are the rows of the log's prequential part, then those of the tail's older half; the newer half is held out.
    Every request is given the history of its surface.
    """

    stream: Stream
    folder: Path
    """The foundation's TAE log."""
    surface: str
    history_length: int
    instead: Callable[[Example], RequestTae] | None = None
    """What an arm of a comparison reads in the place of the logged TAE."""

    @cached_property
    def prequential(self) -> list[tae_log.LogFile]:
        """The first phase's part of the log: of those segments that the stream has."""
        return self._of_this_stream(tae_log.files(self.folder, "prequential"))

    @cached_property
    def last_phase(self) -> list[tae_log.LogFile]:
        """The tail's older half."""
        return self._of_this_stream(self._tail[: (len(self._tail) + 1) // 2])

    @cached_property
    def held_out(self) -> list[tae_log.LogFile]:
        """The tail's newer half."""
        return self._of_this_stream(self._tail[(len(self._tail) + 1) // 2 :])

    @cached_property
    def watermark(self) -> int:
        """ms; labels available up to here may be learned. Held-out requests are all later. 0 where none is held out."""
        for file in self.held_out:
            segment = next(each for each in self.stream.segments if each.name == file.segment)
            rows = self.stream.read(segment)
            slates = Slates.of(rows.take(rows.surfaces == self.surface_index))
            covered = _covered(slates, file, file.read(self.surface))
            if covered.any():
                return int(slates.times[covered].min()) - 1
        return 0

    def over(self, phase: list[tae_log.LogFile]) -> Pass:
        """One pass, in time order, over the requests of a phase that the log covers whole."""
        return Pass(self, phase)

    def learned(self, phase: list[tae_log.LogFile]) -> Iterator[Example]:
        """The examples of a phase with the labels that were known at the watermark; those that have any."""
        for example in self.over(phase):
            requests = example.requests.with_labels(example.requests.rows.available_at <= self.watermark)
            if requests.labelled.any():
                yield replace(example, requests=requests).take(requests.labelled)

    def is_held_out(self, index: int, slates: Slates) -> NDArray[np.bool_]:
        """Which requests of a segment are measured on: those of the surface that the log's newer half covers whole."""
        name = self.stream.segments[index].name
        file = next((file for file in self.held_out if file.segment == name), None)
        none = np.zeros(len(slates), np.bool_)
        return none if file is None else _covered(slates, file, file.read(self.surface))

    def require_enough(self, learned: int, measured: int) -> None:
        """Raise ``TooFewRows`` unless there were rows enough to learn from, and any to measure on."""
        if not measured:
            raise RecastError(
                "TooFewRows",
                f'nothing to measure on: the newer half of the foundation\'s tail has no row of "{self.surface}" that '
                "spec.data has too. Train the foundation on more data, or let spec.data cover what it learned",
            )
        if learned < MIN_USABLE_ROWS:
            raise RecastError(
                "TooFewRows",
                f'the foundation\'s log holds {learned} usable rows of surface "{self.surface}" to learn from; '
                f"at least {MIN_USABLE_ROWS} are needed: "
                "train the foundation on more data, or let spec.data cover what it learned",
            )

    @cached_property
    def _tail(self) -> list[tae_log.LogFile]:
        return tae_log.files(self.folder, "tail")

    @property
    def surface_index(self) -> int:
        """The surface's place in the data set."""
        return self.stream.dataset.surface_names.index(self.surface)

    def _of_this_stream(self, files: list[tae_log.LogFile]) -> list[tae_log.LogFile]:
        names = {segment.name for segment in self.stream.segments}
        return [file for file in files if file.segment in names]


class Pass:
    """One pass over the stream for the examples of a phase."""

    def __init__(self, examples: Examples, phase: list[tae_log.LogFile]) -> None:
        self._segments, self._surface = examples.stream.segments, examples.surface
        self._files, self._instead = {file.segment: file for file in phase}, examples.instead
        self._walk = examples.stream.walk(
            examples.history_length,
            surface=examples.surface_index,
            choose=partial(_in_segments, [each.name in self._files for each in self._segments]),
        )

    def __iter__(self) -> Iterator[Example]:
        for index, requests in self._walk:
            if len(requests):
                file = self._files[self._segments[index].name]
                rows = file.read(self._surface)
                covered = requests.take(_covered(requests, file, rows))
                if len(covered):
                    if file.partial:
                        covered = covered.with_labels(np.isin(covered.rows.row_ids, rows.row_ids)[:, None])
                    tae = logged(tae_log.TaeIndex(rows), covered, partial=file.partial)
                    found = Example(index, covered, tae)
                    yield found if self._instead is None else replace(found, tae=self._instead(found))

    def snapshot(self, items: ItemTable) -> HistorySnapshot:
        """What servers are given of the surface's histories; once the pass is over."""
        return self._walk.snapshot(items)


def _in_segments(wanted: Sequence[bool], index: int, slates: Slates) -> NDArray[np.bool_]:
    """A choice that does not hold the pass that holds it: histories go with their pass, not when memory runs short."""
    return np.full(len(slates), wanted[index])


def _covered(requests: Slates, file: tae_log.LogFile, rows: tae_log.TaeRows) -> NDArray[np.bool_]:
    """(Q,) which requests have all of their rows among a file's, or any where that file is partial."""
    if not len(requests):
        return np.zeros(0, np.bool_)
    there = np.isin(requests.rows.row_ids, rows.row_ids)
    covered: NDArray[np.bool_] = (np.logical_or if file.partial else np.logical_and).reduceat(there, requests.starts)
    return covered


def global_batches(examples: Iterator[Example], size: int) -> Iterator[Example]:
    """The requests of all examples in order, ``size`` at a time; the last batch has what is left."""
    rest: Example | None = None
    for example in examples:
        rest = example if rest is None else rest.and_these(example)
        whole = len(rest) - len(rest) % size
        for start in range(0, whole, size):
            yield rest.take(slice(start, start + size))
        rest = rest.take(slice(whole, None))
    if rest is not None and len(rest):
        yield rest


def reader_config(
    foundation: FoundationConfig, architecture: ExpertArchitecture, surface: str, tasks: Sequence[ExpertTask]
) -> ExpertConfig:
    """The network of a surface's expert that reads this foundation."""
    return ExpertConfig(
        layers=architecture.layers,
        dim=architecture.dim,
        heads=architecture.heads,
        history_length=architecture.history_length,
        attn_norm_len=architecture.history_length,
        tae_dim=foundation.tae_dim,
        content_dim=foundation.content_dim,
        item_count=foundation.item_count,
        surface=surface,
        surfaces=foundation.surfaces,
        event_tasks=foundation.tasks,
        tasks=tuple(tasks),
        context=foundation.context,
    )


class ExpertTrainer:
    """One expert of a foundation, from examples that its log covers. It starts as the foundation's heads.

    Without ``checkpoints`` a run that is cut off begins anew. Without ``reads_heads`` the expert starts from base
    rates, for TAE that are not the request's own.
    """

    def __init__(
        self,
        foundation: FoundationBundle,
        config: ExpertConfig,
        optimization: Optimization,
        group: ProcessGroup,
        examples: Examples,
        checkpoints: Checkpoints | None = None,
        *,
        reads_heads: bool = True,
    ) -> None:
        self.items, self.config, self.group = foundation.items, config, group
        self.reads_heads = reads_heads
        self.optimization, self.examples = optimization, examples
        self.checkpoints, self._saved = checkpoints, 0.0
        self.rows = 0
        """Rows that were learned, each counted once."""
        torch.manual_seed(optimization.seed)
        self.model = ExpertModel(
            config,
            torch.from_numpy(self.items.content_matrix()),
            TableOptimizer(learning_rate=float(optimization.optimizer.table_learning_rate)),
            group.device,
        )
        self.model.standardise_as(foundation.model)
        if reads_heads:
            self.model.start_from(foundation.model)
        self.share, self.earlier = ShareSearch(len(config.tasks)), ShareSearch(len(config.tasks))
        self.learner = Learner(self.model, group, optimization)

    def train(self) -> ExpertModel:
        """All epochs over the prequential rows, then the last phase once; or what an earlier attempt left of them."""
        begun = self._saved = time.monotonic()
        left = self._resume()
        if not self.learner.steps:
            rates = self._first_requests().base_rates(len(self.config.surfaces))[self.config.surface_index]
            self.model.set_base_rates(rates[list(self.config.task_columns)], for_tae=not self.reads_heads)
        for phase in self._phases():
            loss, steps = torch.zeros(2, dtype=torch.float64), self.learner.steps
            for batch in global_batches(self.examples.learned(phase.files), self.optimization.batch_size):
                self.rows += len(batch.requests.rows) if phase.counts else 0
                if left:  # an earlier attempt has learned it
                    left -= 1
                else:
                    segment = self.examples.stream.segments[batch.segment].name
                    self._learn(batch, phase.done(segment), loss, phase.search_at(segment))
            if self.learner.steps > steps:
                self._progress(phase.name, float(loss[0] / loss[1].clamp(min=1)), time.monotonic() - begun)
        chosen = self.share.or_else(self.earlier)
        self.model.set_learned_share(chosen.best())
        said = chosen.said([task.name for task in self.config.tasks])
        self.group.log(f"share of what was learned that counts beside the foundation's heads: {said}")
        return self.model

    def measure(self, held_out: Pass) -> ScoredRows:
        """What the trained expert predicts for rows that were held out. Raises ``TooFewRows`` or ``LabelLeak``."""
        parts = [
            score_expert(self.model, example.requests, example.tae, self.items, self.group) for example in held_out
        ]
        self.examples.require_enough(self.rows, sum(len(part.row_ids) for part in parts))
        scored = ScoredRows.concatenate(parts)
        require_no_leak(scored, [task.name for task in self.config.tasks])
        return scored

    def _learn(self, example: Example, done: float, sums: torch.Tensor, search: ShareSearch | None = None) -> None:
        """One step; ``sums`` (2,) takes up the log loss and the number of the labels, each before it was learned."""
        index, batch = shard(example.requests, self.items, self.group)
        tae = example.tae.take(example.requests, index)
        if search is not None:
            search.add(self.model, batch, *tae.on_device(batch))
        self.learner.step(partial(self._loss, batch, tae, sums), done)
        self._save_at_times()

    def _phases(self) -> list[Phase]:
        """What is learned, in order."""
        epochs, often, last = self.optimization.epochs, self.examples.prequential, self.examples.last_phase
        total = epochs * len(often) + len(last)
        found = [
            Phase(f"epoch {epoch + 1}/{epochs}", often, epoch * len(often), total, counts=not epoch)
            for epoch in range(epochs)
        ]
        if self._some_label_waits():
            found[0] = replace(found[0], search=self.earlier, searched_from=len(often) // 2)
        return [*found, Phase("last phase", last, epochs * len(often), total, counts=True, search=self.share)]

    def _some_label_waits(self) -> bool:
        """Whether of some task no label of the last phase is known before the held-out rows."""
        known = np.zeros(len(self.config.tasks), np.bool_)
        for example in self.examples.learned(self.examples.last_phase):
            known |= example.requests.rows.label_mask[:, list(self.config.task_columns)].any(0)
        return not known.all()

    def _first_requests(self) -> Requests:
        found: list[Requests] = []
        for files in (self.examples.prequential, self.examples.last_phase):
            for example in self.examples.learned(files):
                left = BASE_RATE_REQUESTS - sum(map(len, found))
                found.append(example.requests.take(slice(left)))
                if len(example) >= left:
                    return Requests.concatenate(found)
        if not found:
            self.examples.require_enough(0, int(self.examples.watermark > 0))
        return Requests.concatenate(found)

    def _save_at_times(self) -> None:
        if self.checkpoints is None:
            return
        if not self.group.leaders(time.monotonic() - self._saved >= CHECKPOINT_SECONDS):
            return
        state = self.learner.state()
        if self.group.is_leader:
            sums = torch.cat([self.share.sums, self.earlier.sums])
            progress = Progress(self.learner.steps, self.learner.steps, metrics=sums.tolist())
            self.checkpoints.save(progress, state)
        self._saved = time.monotonic()

    def _resume(self) -> int:
        """Global batches that an earlier attempt has learned."""
        found = resume(self.checkpoints, self.group) if self.checkpoints else None
        if found is None:
            return 0
        progress, tensors = found
        self.learner.restore(tensors, progress.step)
        self.share.sums, self.earlier.sums = torch.tensor(progress.metrics, dtype=torch.float64).chunk(2)
        self.group.log(f"resumed after {progress.step} steps")
        return progress.position

    def _loss(self, batch: RequestBatch, tae: RequestTae, sums: torch.Tensor) -> torch.Tensor:
        values, present = tae.on_device(batch)
        logits, weights = self.model(batch, values.float(), present), tae.weights_on_device(batch)
        found = expert_loss(logits, batch, self.config.task_columns, weights)
        sums += torch.stack([found.main_sum, found.valid]).to(sums)
        return found.total

    def _progress(self, what: str, loss: float, seconds: float) -> None:
        self.group.log(f"{what}  log loss {loss:.4f}  {self.learner.steps} steps  {seconds:.0f} s")


@dataclass(frozen=True)
class Phase:
    """A part of an expert's run: the log's files that it goes through once."""

    name: str
    files: list[tae_log.LogFile]
    before: int
    """Files that the run has gone through before it."""
    total: int
    """Files that the whole run goes through."""
    counts: bool
    """Whether its rows are learned for the first time."""
    search: ShareSearch | None = None
    """What its batches are scored for, before they are learned."""
    searched_from: int = 0
    """The first of the files of which they are."""

    def done(self, segment: str) -> float:
        """Share of the run that is over at a segment of this phase."""
        return (self.before + self._place(segment)) / self.total

    def search_at(self, segment: str) -> ShareSearch | None:
        """What batches that end in this segment are scored for."""
        return self.search if self._place(segment) >= self.searched_from else None

    def _place(self, segment: str) -> int:
        return next(place for place, file in enumerate(self.files) if file.segment == segment)
