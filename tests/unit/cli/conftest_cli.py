"""Parts of resources as the apiserver would return them, for the tests of every view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recast_api.resources import ExpertModel

Expert = Callable[..., ExpertModel]
"""Builds an expert in some state."""
DIGEST = "sha256:" + "ab" * 32
T0 = "2026-03-01T12:00:00Z"
T1 = "2026-03-01T12:01:00Z"
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
TRAINING = {"image": "recast.invalid/trainer:1"}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": T0}


def pin(version: int) -> dict[str, Any]:
    return {"name": "home-fm", "version": version, "lineage": version, "digest": DIGEST}


def revision(name: str, version: int, foundation: int, **more: Any) -> dict[str, Any]:
    serving = {"image": "recast.invalid/server:1", "replicas": 4}
    base = {"revision": name, "version": version, "digest": DIGEST, "path": f"em/reels/u/v{version}", "since": T0}
    return {**base, "foundation": pin(foundation), "serving": serving, "replicas": 4, "readyReplicas": 4, **more}


def canary(name: str, version: int, foundation: int, **more: Any) -> dict[str, Any]:
    return revision(name, version, foundation, replicas=1, readyReplicas=1) | {"progressedAt": T0} | more


def metric(name: str, verdict: str, value: str, samples: int, **more: Any) -> dict[str, Any]:
    return {"metric": name, "verdict": verdict, "value": value, "samples": samples, "time": T1} | more
