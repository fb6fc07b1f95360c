"""The run's data in time order, a segment at a time: which requests it holds, and what each saw of the past."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.run import DataRef, RecastError
from recast_model.batch import RequestBatch
from recast_model.config import FoundationConfig
from recast_model.context import Features
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_trainer.clock import duration_ms, from_rfc3339
from recast_trainer.data.ahead import ahead
from recast_trainer.data.histories import Events, GrowingHistories, events_of
from recast_trainer.data.pinning import PinnedData, PinnedFile
from recast_trainer.data.requests import Requests, Slates
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.segments import (
    Segment,
    list_segments,
    load_dataset,
    load_items,
    read_segment,
    require_readable,
)
from recast_trainer.training.process_group import ProcessGroup

Ints = NDArray[np.int64]
Choice = Callable[[int, Slates], NDArray[np.bool_]]
"""The number of a segment and its Q requests to the (Q,) that are wanted."""


@dataclass(frozen=True)
class Stream:
    """The segments of the run's window, and how one is read."""

    dataset: Dataset
    segments: list[Segment]
    items: ItemTable
    read: Callable[[Segment], Rows]
    context: Features | None = None
    """The features of context that the one who walks the stream knows; None: those of the data set."""

    def known_by(self, features: Features) -> Stream:
        """The same stream for a model that knows these features of the requests' context."""
        return replace(self, context=features)

    @property
    def end(self) -> int:
        """End of the last segment, ms."""
        return self.segments[-1].end

    def walk(self, history_length: int, *, surface: int | None = None, choose: Choice | None = None) -> Walk:
        """One pass over all segments; of one surface alone, whose histories are then of that surface too."""
        return Walk(self, history_length, surface, choose)


class Walk:
    """One pass over a stream, in time order; yields the number of each segment and its requests.

    In memory are the segment that is used, the one that is made ready meanwhile and the one after it. Histories hold
    what was known, and hide what was not available at a request's time. ``choose`` is asked which requests are wanted
    before their windows are cut; events are those of all requests.
    """

    def __init__(self, stream: Stream, history_length: int, surface: int | None, choose: Choice | None) -> None:
        self.stream, self.surface, self.choose = stream, surface, choose
        self.histories = GrowingHistories(history_length)

    def __iter__(self) -> Iterator[tuple[int, Requests]]:
        return ahead(self._segments())

    def snapshot(self, items: ItemTable) -> HistorySnapshot:
        """What each user's request at the end of the data would read, for servers; once the pass is over."""
        end = self.stream.end
        return HistorySnapshot.concatenate(
            [
                HistorySnapshot.of(users, replace(events, items=items.index(events.items)), lengths, end)
                for users, events, lengths in self.histories.at(end)
            ],
            end,
        )

    def _segments(self) -> Iterator[tuple[int, Requests]]:
        segments, waiting = self.stream.segments, Events.empty()
        following: Rows | None = self._read(segments[0])
        for index, segment in enumerate(segments):
            rows = following
            assert rows is not None
            following = self._read(segments[index + 1]) if index + 1 < len(segments) else None
            waiting = waiting.and_these(
                events_of(rows, following, engagements_only=self.stream.dataset.history == "Engagements")
            )
            known = waiting.history.available < segment.end  # what comes later is known later
            self.histories.append(waiting.take(known))
            waiting = waiting.take(~known)
            slates = Slates.of(rows)
            if self.choose is not None:
                slates = slates.take(self.choose(index, slates))
            requests = slates.seeing(self.histories)
            self.histories.release()
            yield index, requests

    def _read(self, segment: Segment) -> Rows:
        rows = self.stream.read(segment)
        if self.surface is not None:
            rows = rows.take(rows.surfaces == self.surface)
        own, known = self.stream.dataset.context_features, self.stream.context
        return rows if known is None else rows.with_context(rows.context.known_by(own, known))


def on_device(requests: Requests, items: ItemTable, group: ProcessGroup) -> RequestBatch:
    """The requests as tensors on the group's device, as a model reads them that knows these items."""
    return RequestBatch.from_arrays(requests.batch(items)).to(group.device)


def shard(requests: Requests, items: ItemTable, group: ProcessGroup) -> tuple[Ints, RequestBatch]:
    """This process's part of a global batch: which of the requests, and their tensors.

    A process for which none is left takes the first one with no label counted, since every process must take part in
    the exchange of gradients.
    """
    index = group.shard(np.arange(len(requests)))
    if len(index):
        return index, on_device(requests.take(index), items, group)
    batch = on_device(requests.take(slice(1)), items, group)
    assert batch.label_mask is not None
    return np.zeros(1, np.int64), replace(batch, label_mask=torch.zeros_like(batch.label_mask))


def choose_segments(folder: Path, dataset: Dataset, data: DataRef) -> list[Segment]:
    """The segments that there are now and that ``data`` asks for. Raises as :func:`list_segments`."""
    until = from_rfc3339(data.until) if data.until else None
    return list_segments(folder, dataset, until, duration_ms(data.window) if data.window else None)


def pin_data(folder: Path, data: DataRef, work: Path, group: ProcessGroup) -> PinnedData:
    """The run's data, the same for every process and every attempt; ``work`` is the folder of the run's attempts.

    Raises the errors of :mod:`recast_trainer.data.segments`.
    """
    segments = choose_segments(folder, load_dataset(folder), data)  # everywhere, so that every pod names what is wrong
    pinned = None
    if group.is_leader:
        try:
            pinned = PinnedData.read(work)
            changed = pinned.changed(folder, data) if pinned else ""
        except ValueError as damaged:
            changed = str(damaged)
        if changed:
            group.log(f"{changed} since this run began: it starts over from the data as they are now")
            shutil.rmtree(work, ignore_errors=True)
            pinned = None
        if pinned is None:
            pinned = PinnedData.of(folder, data, segments)
            pinned.write(work)
        if late := len({segment.name for segment in segments} - pinned.by_segment().keys()):
            group.log(f"{late} segments have arrived since this run began: they are for the next one")
    return PinnedData.model_validate_json(group.broadcast(pinned.encoded() if pinned else b""))


def open_stream(folder: Path, data: DataRef, pinned: PinnedData | None = None) -> Stream:
    """A data set's window, or of it what a run has pinned. What is wrong with a segment shows when it is read.

    Raises the errors of :mod:`recast_trainer.data.segments`, naming file and remedy.
    """
    dataset = load_dataset(folder)
    items = load_items(folder, dataset)
    segments = choose_segments(folder, dataset, data) if pinned is None else pinned.segments(folder, dataset)
    try:
        rows = require_readable(segments, dataset)
    finally:  # in the place of what it may have led to
        _require_unchanged(folder, pinned.files if pinned else [])
    if not rows:
        raise RecastError("DataNotFound", f"the {len(segments)} segments of {folder} hold no rows; fix spec.data")
    read = partial(read_segment, dataset=dataset)
    return Stream(
        dataset, segments, items, read if pinned is None else partial(_read_pinned, folder, pinned.by_segment(), read)
    )


def require_same_vocabulary(stream: Stream, config: FoundationConfig) -> None:
    """Raise ``DataChanged`` unless surfaces and tasks, indices in batches, mean the same to data and foundation."""
    if (config.surfaces, config.tasks) != (stream.dataset.surface_names, stream.dataset.tasks):
        raise RecastError(
            "DataChanged",
            f"the foundation knows surfaces {', '.join(config.surfaces)} and tasks {', '.join(config.tasks)}; the data "
            f"now have {', '.join(stream.dataset.surface_names)} and {', '.join(stream.dataset.tasks)}. "
            "Train the foundation again",
        )


def _read_pinned(
    folder: Path, pins: Mapping[str, list[PinnedFile]], read: Callable[[Segment], Rows], segment: Segment
) -> Rows:
    """A segment as it was when the run began: every pass and every process must read the same."""
    try:
        return read(segment)
    finally:  # in the place of what it may have led to
        _require_unchanged(folder, pins[segment.name])


def _require_unchanged(folder: Path, pins: Sequence[PinnedFile]) -> None:
    if changed := next(filter(None, (pin.changed(folder) for pin in pins)), ""):
        raise RecastError(
            "DataRewritten",
            f"{changed} since this run began; it is tried again, from the data as they are then",
            retryable=True,
        )
