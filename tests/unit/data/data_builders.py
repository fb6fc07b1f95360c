"""Rows by hand, for tests of histories and requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from recast_model.items import ItemTable
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Dataset, Rows, SurfaceInfo
from recast_trainer.data.segments import Segment
from recast_trainer.training.stream import Stream

START = 1_767_225_600_000
ITEMS = ItemTable(np.arange(100, 140, dtype=np.int64), np.ones((40, 2), np.float32))
DATASET = Dataset(
    name="hand",
    surfaces=[SurfaceInfo(name="reels", tasks=["click", "long_view"]), SurfaceInfo(name="ads", tasks=["click", "buy"])],
    content_dim=2,
)


def rows(events: list[tuple[int, int, int, int, int]], *, label: int = 1) -> Rows:
    """Rows of (user, surface, item, event_time, delay); times in ms after START. The first task has ``label``.

    The delay is that of all of a row's labels.
    """
    table = np.array(events, np.int64).reshape(-1, 5)
    count = len(table)
    labels = np.zeros((count, 3), np.float32)
    labels[:, 0] = label
    order = np.argsort(table[:, 3], kind="stable")
    table = table[order]
    return Rows(
        row_ids=np.arange(count, dtype=np.int64) + 1,
        request_ids=np.arange(count, dtype=np.int64) + 1,
        users=table[:, 0],
        surfaces=table[:, 1],
        items=table[:, 2],
        event_times=START + table[:, 3],
        available_at=np.repeat(START + table[:, 3:4] + table[:, 4:5], 3, axis=1),
        positions=np.zeros(count, np.int64),
        labels=labels,
        label_mask=np.ones((count, 3), np.bool_),
        oracle=np.full((count, 3), np.nan, np.float32),
        context_values=np.empty((count, 0), np.int64),
        context_numbers=np.empty((count, 0), np.float32),
    )


def labelled(given: Rows, labels: Sequence[Sequence[tuple[int, int]]]) -> Rows:
    """The rows with (label, delay in ms) of each task; a label of -1 is none. There may be more labels than rows."""
    order = given.row_ids - 1
    found = np.array(labels, np.int64).reshape(-1, 3, 2)[order]
    return replace(
        given,
        labels=np.maximum(found[..., 0], 0).astype(np.float32),
        label_mask=found[..., 0] >= 0,
        available_at=given.event_times[:, None] + found[..., 1],
    )


def stream_of(given: Rows, edges: Sequence[int] = (0, 1000), history: str = "Engagements") -> Stream:
    """The rows cut into segments at these times, in ms after START."""
    segments = [Segment((), str(begin), START + begin, START + end) for begin, end in pairwise(edges)]

    def read(segment: Segment) -> Rows:
        return given.take((given.event_times >= segment.start) & (given.event_times < segment.end))

    return Stream(DATASET.model_copy(update={"history": history}), segments, ITEMS, read)


def requests_of(stream: Stream, limit: int, surface: int | None = None) -> Requests:
    """All requests of a stream, in order."""
    return Requests.concatenate([requests for _, requests in stream.walk(limit, surface=surface)])
