"""Foundations, experts and versions as plain values, to call the rules of a fleet directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from planning_simulator import START, digest_of, foundation, measured

from recast_api.resources import LineageStatus, ModelReference, ModelVersion, ModelVersionSpec, Training, WaveStatus
from recast_api.resources.foundation import FoundationVersionRef
from recast_api.resources.version import TrainingRunRef
from recast_operator.planning.clock import stamp
from recast_operator.planning.snapshot import (
    Children,
    FailedTrial,
    FleetMember,
    LineagePin,
    ObservedDeployment,
    ObservedFoundation,
)
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.versions.verdict import Judged

FM = "home-fm"


def at(seconds: float) -> str:
    """An instant, in seconds from the start."""
    return stamp(START + timedelta(seconds=seconds))


def pin(version: int, lineage: int | None = None, foundation: str = FM) -> LineagePin:
    return LineagePin(foundation, lineage or version, version, digest_of("fm", version))


def member(name: str, stable: int | LineagePin | None = None, **changes: Any) -> FleetMember:
    """An expert of this foundation; ``stable`` and ``canary`` may be given as version numbers."""
    fields: dict[str, Any] = {"foundation": FM, "stable": stable} | changes
    for key in ("stable", "canary"):
        if isinstance(fields.get(key), int):
            fields[key] = pin(fields[key])
    return FleetMember(name=name, **fields)


def unreadable(name: str, *pins: LineagePin) -> FleetMember:
    return FleetMember(name=name, foundation="", retiring=pins, readable=False)


def trial(version: int, reason: str = "AnalysisFailed", *, seconds: float = 1, serving: bool = False) -> FailedTrial:
    return FailedTrial(version, reason, f"v{version} said no", at(seconds), serving)


def ref(version: int, lineage: int | None = None, since: float = 0) -> FoundationVersionRef:
    return FoundationVersionRef(
        version=version, lineage=lineage or version, digest=digest_of("fm", version), since=at(since)
    )


def landed(number: int, *, accepted: bool = True, lineage: int | None = None, inputs: str | None = None) -> Judged:
    """A judged version of this foundation; with ``inputs``, of a run of ours."""
    name = f"fm-{FM}-v{number}"
    spec = ModelVersionSpec(
        model=ModelReference(kind="FoundationModel", name=FM, uid=f"uid-{FM}"),
        number=number,
        lineage=lineage or number,
        digest=digest_of("fm", number),
        path=f"fm/{FM}/u/v{number}",
        watermark="2026-01-01T00:00:00Z",
        run=TrainingRunRef(job_name=f"fm-{FM}-r{number}-a1", inputs_hash=inputs) if inputs else None,
        measurements=[measured()],
    )
    meta = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "generation": 1}
    version = ModelVersion.model_validate({"metadata": meta, "spec": spec.wire()})
    reason = "GatesPassed" if accepted else "NEIncreased"
    return Judged(version, True, accepted, reason, "as measured", False)


def lineage(number: int, version: int | None = None, unpinned: float | None = None) -> LineageStatus:
    since = None if unpinned is None else at(unpinned)
    return LineageStatus(lineage=number, version=version or number, pinned_by=[], unpinned_since=since)


def servers(number: int, **changes: Any) -> ObservedDeployment:
    """A ready Deployment of a lineage."""
    fields: dict[str, Any] = {"replicas": 1, "ready": 1, "updated": 1, "lineage": number} | changes
    return ObservedDeployment(
        name=f"fm-{FM}-l{number}", owner_uid=fields.pop("owner_uid", f"uid-{FM}"), template_hash="h", **fields
    )


def observed(
    *experts: FleetMember,
    current: FoundationVersionRef | None = None,
    candidate: FoundationVersionRef | None = None,
    lineages: Sequence[LineageStatus] = (),
    granted: Sequence[str] = (),
    deployments: Sequence[ObservedDeployment] = (),
    **fleet: Any,
) -> ObservedFoundation:
    model = foundation(fleet=fleet)
    status = model.status.model_copy(
        update={
            "current": current,
            "candidate": candidate,
            "lineages": list(lineages),
            "wave": WaveStatus(granted=list(granted)),
        }
    )
    model = model.model_copy(update={"status": status})
    return ObservedFoundation(model=model, children=Children(deployments=tuple(deployments)), experts=experts)


def inputs(seen: ObservedFoundation, *judged: Judged, wanted: str = "none.x", seconds: float = 10) -> TrainingInputs:
    current = seen.model.status.current
    base = TrainingInputs(
        "FoundationModel",
        FM,
        f"uid-{FM}",
        Training(image="t:1"),
        wanted,
        (),
        judged,
        START + timedelta(seconds=seconds),
    )
    return replace(base, serving=current.version if current else 0)
