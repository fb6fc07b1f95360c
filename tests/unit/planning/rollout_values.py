"""Values that the tables of the roll-out tests are written in: revisions, canaries, and one pass's inputs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from planning_simulator import expert

from recast_api.resources import (
    CanaryStatus,
    FailedRevision,
    FoundationPin,
    MetricName,
    MetricResult,
    RevisionStatus,
    Rollout,
    Verdict,
)
from recast_operator.planning.clock import stamp
from recast_operator.planning.rollout.candidates import RevisionCandidate, Selection
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.state import RolloutInputs
from recast_operator.planning.rollout.traffic import Endpoints
from recast_operator.planning.rollout.verdict import Evaluation

NOW = datetime.fromisoformat("2026-11-21T03:00:00+00:00")
AT = stamp(NOW)
NO_REQUEST = RequestDecision(None, "", ())


def ago(seconds: float) -> str:
    return stamp(NOW - timedelta(seconds=seconds))


def pin(version: int = 1, name: str = "home-fm") -> FoundationPin:
    return FoundationPin(name=name, version=version, lineage=version, digest="sha256:" + "0" * 64)


def revision(name: str = "s", version: int = 1, **changes: Any) -> RevisionStatus:
    fields: dict[str, Any] = {
        "revision": name,
        "version": version,
        "digest": "sha256:" + f"{version:064x}",
        "path": f"em/{version}",
        "foundation": pin(),
        "serving": expert("reels").spec.serving,
        "models_claim": "models",
        "since": ago(1000),
    }
    return RevisionStatus(**(fields | changes))


def canary(name: str = "c", state: str = "Progressing", **changes: Any) -> CanaryStatus:
    base = revision(name, 2)
    weight = 25 if state == "Progressing" else 100
    fields = {field: getattr(base, field) for field in RevisionStatus.model_fields} | {
        "state": state,
        "step_weight": weight,
        "desired_weight": weight,
        "progressed_at": ago(20),
    }
    return CanaryStatus(**(fields | changes))


def failed(name: str) -> FailedRevision:
    return FailedRevision(revision=name, version=9, foundation_version=1, reason="Aborted", message="m", time=ago(5))


def result(verdict: str, metric: str = "error-rate", seconds_ago: float = 1) -> MetricResult:
    return MetricResult(
        metric=MetricName(metric), verdict=Verdict(verdict), time=ago(seconds_ago), message=f"{metric} is {verdict}"
    )


def look(*verdicts: str, answered: bool = True) -> Evaluation:
    metrics = ("error-rate", "slow-share", "fresh-tae-share")
    results = tuple(result(verdict, metric, 0) for metric, verdict in zip(metrics, verdicts, strict=False))
    return Evaluation(results=results, measured_weight="24.9", answered=answered)


def inputs(endpoints: dict[str, tuple[int, ...]] | None = None, **changes: Any) -> RolloutInputs:
    """Four replicas, steps of 25 and 50 %, three metrics, a deadline of 600 s."""
    seen = {name: Endpoints(*entry) for name, entry in (endpoints or {}).items()}
    fields: dict[str, Any] = {
        "model": "reels",
        "foundation": "home-fm",
        "rollout": Rollout(),
        "replicas": 4,
        "endpoints": seen,
        "trouble": None,
        "evaluation": None,
        "now": NOW,
        "remaining": frozenset(seen),
    }
    return RolloutInputs(**(fields | changes))


def wanting(*revisions: RevisionStatus, against: str = "") -> Selection:
    return Selection(tuple(RevisionCandidate(entry) for entry in revisions), against)
