"""Models and versions as the apiserver sends them, each with what its kind requires."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def metadata(name: str, version: int, **more: Any) -> Object:
    return {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version), "generation": 1, **more}


def foundation(name: str = "home-fm", version: int = 1, status: Object | None = None, **spec: Any) -> Object:
    required = {
        "storage": {"persistentVolumeClaim": {"claimName": "models"}},
        "data": {"persistentVolumeClaim": {"claimName": "data"}, "path": "stream"},
        "training": {"image": "trainer:1"},
        "serving": {"image": "server:1"},
    }
    return _model("FoundationModel", name, version, required | spec, status)


def expert(name: str = "reels", version: int = 1, status: Object | None = None, **spec: Any) -> Object:
    required = {
        "foundationRef": {"name": "home-fm"},
        "surface": "feed",
        "tasks": [{"name": "click"}],
        "training": {"image": "trainer:1"},
        "serving": {"image": "server:1"},
    }
    return _model("ExpertModel", name, version, required | spec, status)


def foundation_version(
    model: str = "home-fm", number: int = 1, version: int = 1, accepted: bool | None = None, lineage: int | None = None
) -> Object:
    name = f"fm-{model}-v{number}"
    spec = {
        "model": {"kind": "FoundationModel", "name": model, "uid": model},
        "number": number,
        "lineage": lineage or number,
        "digest": digest(number),
        "path": "p",
        "watermark": "2026-01-03T00:00:00Z",
    }
    return _model(
        "ModelVersion", name, version, spec, None if accepted is None else {"conditions": [verdict(accepted)]}
    )


def verdict(accepted: bool) -> Object:
    return {
        "type": "Accepted",
        "status": "True" if accepted else "False",
        "reason": "GatesPassed" if accepted else "NotFinite",
        "lastTransitionTime": "2026-01-03T00:00:00Z",
    }


def pin(foundation: str, number: int) -> Object:
    return {"name": foundation, "version": number, "lineage": number, "digest": digest(number)}


def revision(foundation: str, number: int, **more: Any) -> Object:
    """An expert's revision that reads a foundation's version."""
    return {
        "revision": "abc",
        "version": 1,
        "digest": digest(0),
        "path": "p",
        "foundation": pin(foundation, number),
        "serving": {"image": "server:1"},
        "since": "2026-01-03T00:00:00Z",
        "modelsClaim": "models",
        **more,
    }


def digest(number: int) -> str:
    return "sha256:" + f"{number:064d}"


def _model(kind: str, name: str, version: int, spec: Object, status: Object | None) -> Object:
    raw = {"apiVersion": "recast.dev/v1alpha1", "kind": kind, "metadata": metadata(name, version), "spec": spec}
    return raw if status is None else {**raw, "status": status}
