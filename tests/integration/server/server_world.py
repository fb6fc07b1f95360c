"""Real server processes on loopback, serving small artefacts of random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from server_processes import Process, Start, until

from recast_api.manifest import MANIFEST, Manifest, describe_files
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact
from recast_model.artifact import save_model
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot

SURFACES, TASKS = ("feed", "reels"), ("click", "like")
ITEMS, USERS, EVENTS, CONTENT = 200, 20, 64, 8
NOW = 1_767_225_600_000  # 2026-01-01
INSTANT = "2026-01-01T00:00:00Z"


def items() -> ItemTable:
    rng = np.random.default_rng(0)
    return ItemTable(np.arange(ITEMS, dtype=np.int64) * 7 + 1000, rng.normal(size=(ITEMS, CONTENT)).astype(np.float32))


def histories() -> HistorySnapshot:
    rng = np.random.default_rng(1)
    count = USERS * EVENTS
    times = NOW - 1 - np.sort(rng.integers(0, 10**9, (USERS, EVENTS)), axis=1)[:, ::-1].reshape(-1)
    items, surfaces, actions = rng.integers(1, ITEMS + 1, count), rng.integers(0, 2, count), rng.integers(0, 4, count)
    events = History(items, surfaces, actions, times.astype(np.int64), times.astype(np.int64))
    return HistorySnapshot(np.arange(USERS, dtype=np.int64), np.arange(USERS + 1, dtype=np.int64) * EVENTS, events, NOW)


def _randomize(model: torch.nn.Module, seed: int) -> None:
    """Every tensor, tables included: fresh tables are zero and would hide a swapped row."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(t.shape, generator=generator) * 0.1
        for name, t in model.state_dict().items()
        if t.is_floating_point()
    }
    model.load_state_dict(state, strict=False)


@dataclass(frozen=True, repr=False)
class Landed:
    folder: Path
    manifest: Manifest

    def served(self, root: Path) -> ServedArtifact:
        m = self.manifest
        return ServedArtifact(
            root=str(root),
            path=str(self.folder.relative_to(root)),
            version=m.number,
            lineage=m.lineage,
            digest=m.digest,
        )

    @property
    def pin(self) -> FoundationPin:
        m = self.manifest
        return FoundationPin(name=m.model, version=m.number, lineage=m.lineage, digest=m.digest)


def _land(folder: Path, files: list[str], **fields: Any) -> Landed:
    manifest = Manifest(
        uid="u",
        created=INSTANT,
        watermark=INSTANT,
        files=describe_files(folder, files),
        surfaces=list(SURFACES),
        tasks=list(TASKS),
        job_name="job",
        inputs_hash="h",
        **fields,
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.wire()))
    return Landed(folder, manifest)


def land_foundation(root: Path, number: int) -> Landed:
    folder = root / f"fm-v{number}"
    folder.mkdir()
    config = FoundationConfig(
        block="DLRMv3", layers=2, dim=32, heads=2, history_length=EVENTS, attn_norm_len=EVENTS, tae_dim=16,
        content_dim=CONTENT, item_count=ITEMS, surfaces=SURFACES, tasks=TASKS,
    )  # fmt: skip
    model = FoundationModel(config, torch.from_numpy(items().content_matrix()))
    _randomize(model, number)
    files = save_model(folder, model.state_dict(), items(), histories())
    return _land(
        folder, files, kind="FoundationModel", model="home-fm", number=number, lineage=number, config=config.to_dict()
    )


def land_expert(root: Path, number: int, foundation: Landed) -> Landed:
    folder = root / f"em-v{number}"
    folder.mkdir()
    config = ExpertConfig(
        layers=1, dim=16, heads=2, history_length=32, attn_norm_len=32, tae_dim=16, content_dim=CONTENT,
        item_count=ITEMS, surface="reels", surfaces=SURFACES, event_tasks=TASKS,
        tasks=(ExpertTask("click"), ExpertTask("like", 0.5)),
    )  # fmt: skip
    model = ExpertModel(config, torch.from_numpy(items().content_matrix()))
    _randomize(model, 100 + number)
    files = save_model(folder, model.state_dict(), items(), histories())
    return _land(
        folder, files, kind="ExpertModel", model="reels", number=number, lineage=number, config=config.to_dict(),
        foundation=foundation.pin,
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class World:
    """Two foundations, an expert trained with the first."""

    root: Path
    foundation: Landed
    other: Landed
    expert: Landed
    start: Start

    until = staticmethod(until)

    def foundation_config(self, landed: Landed) -> FoundationServerConfig:
        return FoundationServerConfig(namespace="test", model="home-fm", artifact=landed.served(self.root))

    def expert_config(self, port: int, **changes: Any) -> ExpertServerConfig:
        fields: dict[str, Any] = {
            "namespace": "test",
            "model": "reels",
            "surface": "reels",
            "revision": "abcdef0123",
            "tasks": [Task(name="click"), Task(name="like", weight="0.5")],
            "artifact": self.expert.served(self.root),
            "foundation": self.foundation.pin,
            "foundation_address": f"127.0.0.1:{port}",
            "slo_milliseconds": 200,
            "foundation_deadline_milliseconds": 2000,
            "max_connection_age_seconds": 3600,
        }
        return ExpertServerConfig(**{**fields, **changes})


@dataclass(frozen=True, repr=False)
class Pair:
    world: World
    foundation: Process
    expert: Process
