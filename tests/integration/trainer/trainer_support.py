"""Small data sets and orders for the trainer's tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from recast_api.manifest import Manifest
from recast_api.run import TrainingRun
from recast_model.context import Context
from recast_model.items import ItemTable
from recast_trainer.data.schema import ContextInfo, Dataset, Rows, SurfaceInfo
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import DatasetWriter, write_dataset

HOUR = 3_600_000
START = 1_767_225_600_000


CONTEXT = [
    ContextInfo(name="battery", type="Numeric"),
    ContextInfo(name="device", type="Categorical", values=["phone", "tablet", "tv"]),
]


def write_synthetic(
    folder: Path, *, hours: int = 10, requests: int = 40, seed: int = 0, in_context: bool = False
) -> Path:
    """A small generated stream of three surfaces; with :data:`CONTEXT` that says nothing, if that is wanted."""
    stream = SyntheticStream(
        SyntheticConfig(users=40, items=120, hours=hours, requests_per_hour=requests, slate=4, seed=seed)
    )
    dataset, parts = stream.dataset, stream.segments()
    if in_context:
        dataset = dataset.model_copy(update={"context": CONTEXT})
        parts = ((start, rows.with_context(some_context(rows.request_ids))) for start, rows in parts)
    write_dataset(folder, dataset, stream.items, parts)
    return folder


def some_context(requests: np.ndarray) -> Context:
    """Of each request of :data:`CONTEXT`, by its id: now and then unknown."""
    ids, place = np.unique(requests, return_inverse=True)
    drawn = np.stack([np.random.default_rng(abs(int(each))).random(2) for each in ids])
    numbers = np.where(drawn[:, :1] < 0.9, 20 + 30 * drawn[:, :1], np.nan).astype(np.float32)
    return Context(np.floor(drawn[:, 1:] * 4).astype(np.int64)[place], numbers[place])


def write_memorisable(
    folder: Path,
    *,
    hours: int = 8,
    requests: int = 60,
    slate: int = 4,
    delays_ms: Mapping[str, int] = MappingProxyType({"click": 1000}),
) -> Path:
    """Labels are coin flips and every row has an item of its own: nothing can be learned, everything memorised.

    Each task is known with its delay.
    """
    random = np.random.default_rng(7)
    count = hours * requests * slate
    rows = np.arange(count)
    request = rows // slate
    times = START + (request // requests) * HOUR + (request % requests) * (HOUR // requests)
    writer = DatasetWriter(
        folder,
        Dataset(name="coins", surfaces=[SurfaceInfo(name="feed", tasks=list(delays_ms))], content_dim=2),
    )
    writer.items(ItemTable(rows + 1, np.zeros((count, 2), np.float32)))
    everything = Rows(
        row_ids=rows, request_ids=request, users=random.integers(0, 20, hours * requests)[request], items=rows + 1,
        surfaces=np.zeros(count, np.int64), event_times=times,
        available_at=times[:, None] + np.array(list(delays_ms.values())), positions=rows % slate,
        labels=random.integers(0, 2, (count, len(delays_ms))).astype(np.float32),
        label_mask=np.ones((count, len(delays_ms)), bool), oracle=np.full((count, len(delays_ms)), 0.5, np.float32),
        context_values=np.empty((count, 0), np.int64), context_numbers=np.empty((count, 0), np.float32),
    )  # fmt: skip
    for hour in range(hours):
        start = START + hour * HOUR
        writer.segment(start, everything.take((times >= start) & (times < start + HOUR)))
    writer.finish()
    return folder


def order(root: Path, number: int = 1, **changes: Any) -> TrainingRun:
    """A foundation's run over the data set in ``root / "data" / "set"``."""
    return TrainingRun.model_validate(
        {
            "kind": "FoundationModel", "namespace": "demo", "model": "home-fm", "uid": "u1", "number": number,
            "attempt": 1, "jobName": f"fm-home-fm-r{number}-a1", "inputsHash": f"h{number}",
            "modelsRoot": str(root / "models"), "dataRoot": str(root / "data"), "data": {"path": "set"},
            "optimization": {"batchSize": 8, "learningRate": "0.003"},
            "architecture": {"layers": 1, "dim": 16, "heads": 2, "historyLength": 16, "taeDim": 8},
        }
        | changes
    )  # fmt: skip


def expert_order(root: Path, foundation: dict[str, Any], number: int = 1, **changes: Any) -> TrainingRun:
    """An expert's run for the surface "reels" on a landed foundation."""
    expert = {
        "surface": "reels", "tasks": [{"name": "click"}, {"name": "long_view", "weight": "0.5"}],
        "architecture": {"dim": 16, "historyLength": 8}, "foundation": foundation,
    } | changes.pop("expert", {})  # fmt: skip
    return order(
        root, number, kind="ExpertModel", model="reels", uid="u2", architecture=None, expert=expert,
        jobName=f"em-reels-r{number}-a1", **changes,
    )  # fmt: skip


def reference(manifest: Manifest) -> dict[str, Any]:
    """How a run names a landed version."""
    prefix = "fm" if manifest.kind == "FoundationModel" else "em"
    return {
        "model": manifest.model, "version": manifest.number, "lineage": manifest.lineage, "digest": manifest.digest,
        "path": f"{prefix}/{manifest.model}/{manifest.uid}/v{manifest.number}",
    }  # fmt: skip
