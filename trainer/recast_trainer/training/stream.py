"""The run's data in time order: which requests each segment holds, when their labels mature, and batches of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.run import DataRef, RecastError
from recast_model.batch import RequestBatch
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_trainer.clock import duration_ms, from_rfc3339
from recast_trainer.data.histories import EventLog
from recast_trainer.data.pinning import PinnedData
from recast_trainer.data.requests import RequestTable
from recast_trainer.data.schema import Dataset
from recast_trainer.data.segments import Segment, list_segments, load_dataset, load_items, read_all
from recast_trainer.training.process_group import ProcessGroup

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """All requests of the run's window. ``matured`` (Q,) is when a request's last label was known.

    Histories hide what was not available at a request's time, however early it was read.
    """

    dataset: Dataset
    segments: list[Segment]
    items: ItemTable
    table: RequestTable
    log: EventLog
    matured: Ints

    @property
    def end(self) -> int:
        """End of the last segment, ms."""
        return self.segments[-1].end

    def requests(self, segment: int) -> Ints:
        """Indices of the requests shown within a segment, in time order."""
        times = self.table.rows.event_times[self.table.starts]
        first, last = np.searchsorted(times, [self.segments[segment].start, self.segments[segment].end])
        return np.arange(first, last)

    def requests_from(self, segment: int) -> Ints:
        """Indices of all requests from a segment's start on."""
        times = self.table.rows.event_times[self.table.starts]
        return np.arange(np.searchsorted(times, self.segments[segment].start), len(self.table))

    def rows_of(self, requests: Ints) -> Ints:
        """Positions in ``table.rows`` of the requests' rows, request after request: the order of a batch's mask."""
        counts = self.table.counts[requests]
        offsets = np.cumsum(counts) - counts
        return np.repeat(self.table.starts[requests] - offsets, counts) + np.arange(counts.sum())

    def truth(self, requests: Ints, tasks: Sequence[str]) -> NDArray[np.float32]:
        """(R, T) true probabilities of the requests' rows for these tasks; NaN where the data set has none."""
        columns = [self.dataset.tasks.index(task) for task in tasks]
        return self.table.rows.oracle[self.rows_of(requests)][:, columns]

    def base_rates(self, requests: Ints) -> torch.Tensor:
        """(surfaces, tasks) share of positive labels among the requests' rows; NaN where there is none.

        Counted with half a positive and half a negative more, so that it is never 0 or 1.
        """
        rows = self.table.rows.take(self.rows_of(requests))
        shape = (len(self.dataset.surfaces), len(self.dataset.tasks))
        counts, positives = np.zeros(shape), np.zeros(shape)
        np.add.at(counts, rows.surfaces, rows.label_mask)
        np.add.at(positives, rows.surfaces, rows.labels * rows.label_mask)
        return torch.from_numpy(np.where(counts > 0, (positives + 0.5) / (counts + 1), np.nan))

    def batch(self, requests: Ints, history_length: int, group: ProcessGroup) -> RequestBatch:
        """The requests as tensors on the group's device."""
        return RequestBatch.from_arrays(self.table.batch(requests, self.log, history_length)).to(group.device)

    def shard(self, requests: Ints, history_length: int, group: ProcessGroup) -> tuple[Ints, RequestBatch]:
        """This process's part of a global batch: which requests, and their tensors.

        A process for which none is left takes the first one with no label counted, since every process must take part
        in the exchange of gradients.
        """
        index = group.shard(requests)
        if len(index):
            return index, self.batch(index, history_length, group)
        batch = self.batch(requests[:1], history_length, group)
        assert batch.label_mask is not None
        return requests[:1], replace(batch, label_mask=torch.zeros_like(batch.label_mask))

    def with_items(self, items: ItemTable, *, by_surface: bool = False) -> Stream:
        """The same requests as a model with its own item table sees them, with whole or per-surface histories."""
        log = event_log(self.dataset, items, by_surface=by_surface)
        log.add(self.table.rows)
        return Stream(self.dataset, self.segments, items, RequestTable(self.table.rows, items), log, self.matured)

    def snapshot(self, history_length: int, surface: int | None = None) -> HistorySnapshot:
        """What each user's request at the end of the data would read, for servers: of one surface where histories are
        kept by surface, as an expert reads them.
        """
        return HistorySnapshot.of(self.log.histories, history_length, self.end, surface)


def event_log(dataset: Dataset, items: ItemTable, *, by_surface: bool = False) -> EventLog:
    """An empty log that takes up what this data set counts as history."""
    return EventLog(items, by_surface=by_surface, engagements_only=dataset.history == "Engagements")


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
        if late := len(segments) - len(pinned.of_these(segments)):
            group.log(f"{late} segments have arrived since this run began: they are for the next one")
    return PinnedData.model_validate_json(group.broadcast(pinned.encoded() if pinned else b""))


def open_stream(folder: Path, data: DataRef, pinned: PinnedData | None = None) -> Stream:
    """Read a data set's window, or of it what a run has pinned.

    Raises the errors of :mod:`recast_trainer.data.segments`, naming file and remedy.
    """
    dataset = load_dataset(folder)
    items = load_items(folder, dataset)
    segments = choose_segments(folder, dataset, data if pinned is None else DataRef(path=data.path))
    segments = segments if pinned is None else pinned.of_these(segments)
    rows = read_all(segments, dataset)
    if not len(rows):
        raise RecastError("DataNotFound", f"the {len(segments)} segments of {folder} hold no rows; fix spec.data")
    log = event_log(dataset, items)
    log.add(rows)
    table = RequestTable(rows, items)
    return Stream(dataset, segments, items, table, log, np.maximum.reduceat(table.rows.available_at, table.starts))
