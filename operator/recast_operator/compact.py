"""What is worth keeping of an object: a fleet's templates, managed fields and pod details would fill the memory.

Of a child's template its *record* is left (:mod:`recast_operator.children.record`): whether it is as it was applied.

A field that :mod:`recast_operator.observe` or :mod:`recast_operator.child_objects` begins to read belongs here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recast_api import names
from recast_api.names import Kind
from recast_operator.adapters.objects import Object, labels
from recast_operator.children.kinds import CHILD_KINDS, COMPANIONS
from recast_operator.children.record import condense
from recast_operator.keys import Key

MODEL_KINDS: tuple[Kind, ...] = ("FoundationModel", "ExpertModel")
METADATA = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "labels",
    "annotations", "finalizers", "ownerReferences",
)  # fmt: skip
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
POD_CONDITIONS = ("Ready", "PodScheduled", "DisruptionTarget")


def compact(kind: str, raw: Mapping[str, Any]) -> Object:
    """The part of an object that is read."""
    if kind in CHILD_KINDS:
        raw = condense(dict(raw))
    kept = _only(raw, ("apiVersion", "record")) | {"kind": kind, "metadata": _metadata(raw["metadata"])}
    if kind in COMPANIONS:
        return kept
    parts = {"spec": raw.get("spec") or {}, "status": raw.get("status") or {}}
    if kind in ("Job", "Deployment"):
        parts["spec"] = _only(parts["spec"], ("replicas", "selector", "suspend", "parallelism"))
        parts["status"] = _only(
            parts["status"], ("conditions", "ready", "observedGeneration", "updatedReplicas", "readyReplicas")
        )
    elif kind == "Pod":
        parts = {"spec": _pod_spec(parts["spec"]), "status": _pod_status(parts["status"])}
    return kept | {name: part for name, part in parts.items() if part}


def _metadata(raw: Mapping[str, Any]) -> Object:
    kept = _only(raw, METADATA)
    annotations = {key: value for key, value in kept.pop("annotations", {}).items() if key != LAST_APPLIED}
    return kept | ({"annotations": annotations} if annotations else {})


def _pod_spec(spec: Mapping[str, Any]) -> Object:
    """Of several containers the first counts: ours have one."""
    return {"containers": [_only(item, ("image",)) for item in (spec.get("containers") or [])[:1]]}


def _pod_status(status: Mapping[str, Any]) -> Object:
    kept = _only(status, ("phase",))
    conditions = [
        _only(item, ("type", "status", "message"))
        for item in status.get("conditions") or []
        if item["type"] in POD_CONDITIONS
    ]
    containers = [
        _only(item, ("state", "lastState", "restartCount")) for item in (status.get("containerStatuses") or [])[:1]
    ]
    return kept | {"conditions": conditions, "containerStatuses": containers}


def _only(value: Mapping[str, Any], wanted: Iterable[str]) -> Object:
    """These entries, as far as they are there: the apiserver may send null for an absent list or map."""
    return {key: value[key] for key in wanted if value.get(key) is not None}


def owner(kind: str, raw: Mapping[str, Any]) -> Key | None:
    """The model that an object belongs to: by its label, or by what a ModelVersion says in its spec."""
    namespace = raw["metadata"]["namespace"]
    if kind in MODEL_KINDS:
        return None
    if kind == "ModelVersion":
        model = (raw.get("spec") or {}).get("model") or {}
        found, name = model.get("kind"), model.get("name") or ""
        return Key(found, namespace, name) if found in MODEL_KINDS else None
    marks = labels(raw)
    found, name = kind_of_child(marks), marks.get(names.LABEL_MODEL, "")
    return Key(found, namespace, name) if found and name else None


def kind_of_child(marks: Mapping[str, str]) -> Kind | None:
    """Which kind of model a child's labels say it belongs to."""
    kind = marks.get(names.LABEL_KIND, "")
    if kind.startswith("foundation"):
        return "FoundationModel"
    return "ExpertModel" if kind.startswith("expert") else None
