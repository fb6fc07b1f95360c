"""A stream in memory whose every time is chosen by the test, and the small networks that read it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recast_api.run import Optimization
from recast_model.artifact import FoundationBundle
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_model.foundation import FoundationModel
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Dataset, Rows, SurfaceInfo, segment_name
from recast_trainer.data.segments import Segment
from recast_trainer.training.stream import Stream

START, HOUR = 1_767_225_600_000, 3_600_000
DATASET = Dataset(
    name="hand",
    surfaces=[SurfaceInfo(name="feed", tasks=["click"]), SurfaceInfo(name="reels", tasks=["click", "like"])],
    content_dim=2,
)
ITEMS = ItemTable(np.arange(100, 140, dtype=np.int64), np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
SLATE = 2


def hand_rows(hours: int, per_hour: int, delay_ms: int = 1000) -> Rows:
    """``per_hour`` requests of two rows an hour, evenly spaced from the hour's first instant, surfaces in turn.

    Row ids count from 1, request ids from 1; the label of a row is known ``delay_ms`` after it was shown.
    """
    requests = np.arange(hours * per_hour)
    request = np.repeat(requests, SLATE)
    random = np.random.default_rng(1)
    times = START + (request // per_hour) * HOUR + (request % per_hour) * (HOUR // per_hour)
    count = len(request)
    surfaces = request % 2
    labels = random.integers(0, 2, (count, 2)).astype(np.float32)
    mask = np.stack([np.ones(count, np.bool_), surfaces == 1], 1)
    return Rows(
        row_ids=np.arange(count, dtype=np.int64) + 1,
        request_ids=request + 1,
        users=random.integers(1, 6, len(requests))[request],
        items=random.integers(100, 140, count),
        surfaces=surfaces,
        event_times=times,
        available_at=np.repeat(times[:, None] + delay_ms, 2, axis=1),
        positions=np.arange(count, dtype=np.int64) % SLATE,
        labels=labels * mask,
        label_mask=mask,
        oracle=np.full((count, 2), np.nan, np.float32),
        context_values=np.empty((count, 0), np.int64),
        context_numbers=np.empty((count, 0), np.float32),
    )


def stream_of(rows: Rows, hours: int) -> Stream:
    segments = [
        Segment((), segment_name(start), start, start + HOUR)
        for start in (START + hour * HOUR for hour in range(hours))
    ]

    def read(segment: Segment) -> Rows:
        return rows.take((rows.event_times >= segment.start) & (rows.event_times < segment.end))

    return Stream(DATASET, segments, ITEMS, read)


def requests_of(stream: Stream, *segments: int, surface: int | None = None, limit: int = 6) -> Requests:
    """The requests of some segments, or of all, with their histories."""
    parts = dict(iter(stream.walk(limit, surface=surface)))
    return Requests.concatenate([parts[segment] for segment in segments or parts])


def delayed(rows: Rows, delays: dict[int, int]) -> Rows:
    """The rows with other label delays (ms), by row id; of all labels of the row."""
    delay = np.array([[delays.get(int(row), 1000)] * 2 for row in rows.row_ids])
    return replace(rows, available_at=rows.event_times[:, None] + delay)


def optimization(**changes: Any) -> Optimization:
    values: dict[str, Any] = {"batch_size": 4, "learning_rate": "0.01", "epochs": 1, "seed": 0}
    return Optimization(**(values | changes))


SIZE: dict[str, Any] = {
    "layers": 1, "dim": 8, "heads": 2, "history_length": 6, "attn_norm_len": 6, "tae_dim": 4, "content_dim": 2,
    "item_count": len(ITEMS), "surfaces": DATASET.surface_names,
}  # fmt: skip


def foundation_config() -> FoundationConfig:
    return FoundationConfig(block="DLRMv3", tasks=DATASET.tasks, **SIZE)


def foundation() -> FoundationBundle:
    """A foundation that has learned nothing; its heads say something all the same, even of vectors of hundreds."""
    torch.manual_seed(0)
    model = FoundationModel(foundation_config(), torch.from_numpy(ITEMS.content_matrix())).eval()
    model.heads.weight.data *= 0.001
    return FoundationBundle(model, ITEMS, HistorySnapshot.concatenate([], 0))


def expert_config() -> ExpertConfig:
    return ExpertConfig(surface="reels", event_tasks=DATASET.tasks, tasks=(ExpertTask("like"),), **SIZE)
