"""A landed pair, small and random, for tests of what a server makes of one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from recast_api.manifest import MANIFEST, Manifest, describe_files
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin
from recast_api.server import ExpertServerConfig, ServedArtifact
from recast_model.artifact import save_model
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_model.context import Features
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_server.histories.metrics import HistoryMetrics
from recast_server.histories.reader import HistoryReader, Snapshot
from recast_server.histories.store import HistoryStore
from recast_server.runtime.context import RequestContext
from recast_server.runtime.cost import CostModel
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler

SURFACES, TASKS = ("feed", "reels"), ("click", "like", "share")
NOW = 1_767_225_600_000
TAE_DIM, LIMIT = 8, 4
ITEMS = ItemTable(np.arange(100, 120, dtype=np.int64), np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
HISTORIES = HistorySnapshot(
    np.array([1, 2], np.int64),
    np.array([0, 6, 8], np.int64),
    History(
        items=np.array([1, 2, 3, 4, 5, 6, 7, 8], np.int64),
        surfaces=np.array([0, 1, 1, 0, 1, 1, 0, 0], np.int64),
        actions=np.array([1, 2, 3, 4, 5, 6, 7, 1], np.int64),
        times=NOW - 1000 * np.array([60, 50, 40, 30, 20, 10, 2, 1], np.int64),
        available=NOW - 1000 * np.array([59, 49, 39, 29, 19, 9, 2, 1], np.int64),
    ),
    NOW,
)


@dataclass(frozen=True)
class LandedPair:
    """A foundation and the expert that was trained with it, with the networks that were saved."""

    foundation: FoundationModel
    foundation_folder: Path
    foundation_manifest: Manifest
    expert: ExpertModel
    expert_folder: Path
    expert_manifest: Manifest

    def served(self, **changes: Any) -> ExpertServerConfig:
        m, pin = self.expert_manifest, self.expert_manifest.foundation
        assert pin is not None
        artifact = ServedArtifact(
            root=str(self.expert_folder.parent), path="em", version=m.number, lineage=m.lineage, digest=m.digest
        )
        values: dict[str, Any] = {
            "namespace": "demo", "model": "reels", "surface": "reels", "revision": "r1", "artifact": artifact,
            "tasks": [Task(name="like", weight="0.25"), Task(name="click")], "foundation": pin,
            "foundation_address": "127.0.0.1:1", "slo_milliseconds": 100, "foundation_deadline_milliseconds": 50,
            "max_connection_age_seconds": 30,
        }  # fmt: skip
        return ExpertServerConfig(**(values | changes))


def a_scheduler(
    capacity: int = 8, cost: CostModel | None = None, registry: CollectorRegistry | None = None
) -> Scheduler:
    """One that runs; without a cost, whatever it is asked seems free to it."""
    scheduler = Scheduler(capacity, QueueMetrics(registry or CollectorRegistry()))
    scheduler.start(cost)
    return scheduler


def a_context(seconds: float = 60.0) -> RequestContext:
    """A request that is waited for so many seconds."""
    return RequestContext("request-1", time.monotonic() + seconds)


def a_reader(store: HistoryStore | None = None) -> HistoryReader:
    """Of histories, over a version's own that end now."""
    snapshot = Snapshot(NOW, lambda user: HISTORIES.length(user) > 0)
    return HistoryReader(store, snapshot, LIMIT, 3600.0, HistoryMetrics(CollectorRegistry()))


def _manifest(folder: Path, files: list[str], **fields: Any) -> Manifest:
    made = Manifest(
        uid="u", created="2026-01-01T00:00:00Z", watermark="2026-01-01T00:00:00Z", surfaces=list(SURFACES),
        tasks=list(TASKS), job_name="job", inputs_hash="h", files=describe_files(folder, files), **fields,
    )  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(made.wire()))
    return made


def _randomize(model: torch.nn.Module, seed: int) -> None:
    """Every tensor, tables included: fresh tables are zero and would hide a swapped row."""
    g = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(t.shape, generator=g) * 0.3 for name, t in model.state_dict().items()}
    model.load_state_dict({name: v.abs() if name.endswith(".scale") else v for name, v in values.items()})
    model.eval()


def land_pair(root: Path, context: Features = (), limit: int = LIMIT, layers: int = 1) -> LandedPair:
    """``limit`` events of history for both, ``layers`` of the foundation."""
    content = torch.from_numpy(ITEMS.content_matrix())
    shared: dict[str, Any] = {
        "heads": 2, "history_length": limit, "attn_norm_len": limit, "tae_dim": TAE_DIM, "content_dim": 3,
        "context": context,
    }  # fmt: skip
    folders = [root / "fm", root / "em"]
    for folder in folders:
        folder.mkdir()
    foundation = FoundationModel(
        FoundationConfig(
            **shared, block="DLRMv3", layers=layers, dim=8, item_count=len(ITEMS), surfaces=SURFACES, tasks=TASKS
        ),
        content,
    )
    _randomize(foundation, 1)
    files = save_model(folders[0], foundation.state_dict(), ITEMS, HISTORIES)
    first = _manifest(
        folders[0], files, kind="FoundationModel", model="home-fm", number=3, lineage=2,
        config=foundation.config.to_dict(),
    )  # fmt: skip
    pin = FoundationPin(name="home-fm", version=3, lineage=2, digest=first.digest)
    expert = ExpertModel(
        ExpertConfig(
            **shared, layers=1, dim=8, item_count=len(ITEMS), surface="reels", surfaces=SURFACES, event_tasks=TASKS,
            tasks=(ExpertTask("click", 9.0), ExpertTask("like", 9.0)),
        ),
        content,
    )  # fmt: skip
    _randomize(expert, 2)
    files = save_model(folders[1], expert.state_dict(), ITEMS, HISTORIES)
    second = _manifest(
        folders[1], files, kind="ExpertModel", model="reels", number=7, lineage=7, config=expert.config.to_dict(),
        foundation=pin,
    )  # fmt: skip
    return LandedPair(foundation, folders[0], first, expert, folders[1], second)
