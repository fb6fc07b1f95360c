"""Builders of resources in the states of a rollout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest_cli import CLAIM, DIGEST, T0, TRAINING, Expert, pin

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion

Foundation = Callable[..., FoundationModel]
Version = Callable[..., ModelVersion]


@pytest.fixture(autouse=True)
def _no_watch_goes_on() -> Iterator[None]:
    """A thread that outlives its command lists the cluster for ever, and its changes pile up."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("watch-"):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} still reads"


@pytest.fixture
def expert() -> Expert:
    def build(name: str = "reels", generation: int = 1, **status: Any) -> ExpertModel:
        spec = {
            "foundationRef": {"name": "home-fm"},
            "surface": name,
            "tasks": [{"name": "click"}],
            "training": TRAINING,
            "serving": {"image": "recast.invalid/server:1", "replicas": 4},
        }
        return ExpertModel.model_validate(
            {"metadata": {"name": name, "generation": generation}, "spec": spec, "status": status}
        )

    return build


@pytest.fixture
def foundation() -> Foundation:
    def build(generation: int = 1, **status: Any) -> FoundationModel:
        spec = {
            "storage": CLAIM,
            "data": {**CLAIM, "path": "stream"},
            "training": TRAINING,
            "serving": {"image": "recast.invalid/server:1"},
            "fleet": {"pilots": ["reels"], "maxConcurrentRefreshes": 2},
        }
        return FoundationModel.model_validate(
            {"metadata": {"name": "home-fm", "generation": generation}, "spec": spec, "status": status}
        )

    return build


@pytest.fixture
def version() -> Version:
    def build(number: int, model: str = "home-fm", foundation: int | None = None, **status: Any) -> ModelVersion:
        kind = "ExpertModel" if foundation else "FoundationModel"
        spec = {
            "model": {"kind": kind, "name": model, "uid": "u"},
            "number": number,
            "lineage": number,
            "digest": DIGEST,
            "path": f"x/{model}/u/v{number}",
            "watermark": "2026-01-02T00:00:00Z",
        }
        if foundation:
            spec["foundation"] = pin(foundation)
        name = f"{'em' if foundation else 'fm'}-{model}-v{number}"
        metadata = {"name": name, "creationTimestamp": T0}
        return ModelVersion.model_validate({"metadata": metadata, "spec": spec, "status": status})

    return build
