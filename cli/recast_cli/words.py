"""Short texts that the views share: pairs, bounds, conditions, ages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from recast_api import names
from recast_api.resources import (
    Condition,
    ExpertModel,
    FailedRevision,
    FoundationModel,
    MetricResult,
    ModelVersion,
    RevisionStatus,
)
from recast_cli.world import World


def unknown(world: World, kind: str, name: str, known: Sequence[ExpertModel | FoundationModel]) -> LookupError:
    """The error for a name that no object of the kind has, or only one that cannot be read."""
    if unreadable := world.cannot_read(kind, name):
        return LookupError(str(unreadable))
    others = ", ".join(model.metadata.name for model in known) or "there are none"
    return LookupError(f'{kind} "{name}" not found in this namespace; known: {others}')


def condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of that type, or None where the operator has not judged it yet."""
    return next((entry for entry in conditions if entry.type == kind), None)


def holds(conditions: Sequence[Condition], kind: str) -> bool:
    """Whether the condition is there and True."""
    found = condition(conditions, kind)
    return found is not None and found.status == "True"


def pair(revision: RevisionStatus, expert: ExpertModel) -> str:
    """The expert's version and the foundation version it reads; named where the spec refers to another foundation."""
    pin = revision.foundation
    return names.pair(revision.version, pin.name, pin.version, expert.spec.foundation_ref.name)


def failed_pair(failed: FailedRevision, expert: ExpertModel) -> str:
    """The same for a revision that was rolled back."""
    expected = expert.spec.foundation_ref.name
    return names.pair(failed.version, failed.foundation_name or expected, failed.foundation_version, expected)


def verdict_of(version: ModelVersion) -> str:
    """One word for a version's state: what the operator wrote, or Landed where it has not judged yet."""
    return version.status.summary.state or "Landed"


def quality(version: ModelVersion) -> str:
    """``NE 0.7312 (-0.0041)`` as the operator summed it up; empty where there is nothing to say."""
    summary = version.status.summary
    if not summary.ne:
        return ""
    return f"NE {summary.ne} ({summary.change})" if summary.change else f"NE {summary.ne}"


def measured(result: MetricResult) -> str:
    """``error-rate Failure 0.197 > 0.010 (312 requests)``: what was judged, against what, on how much."""
    value = result.value or "no value"
    against = f" vs stable {result.stable_value}" if result.stable_value else ""
    bound = f" ({result.bound})" if result.bound else ""
    needed = f" of at least {result.min_samples}" if result.samples < result.min_samples else ""
    return f"{result.metric.value} {result.verdict.value}: {value}{against}{bound}, {result.samples}{needed} requests"


def headline(message: str) -> str:
    """A message's first sentence: what happened; the rest, what to do, stands in the status."""
    return message.split(". ", 1)[0].rstrip(".")


def instant(timestamp: str) -> datetime:
    """The moment an API timestamp names."""
    return datetime.fromisoformat(timestamp)


def age(since: str, now: datetime) -> str:
    """``45s``, ``12m``, ``3h`` or ``2d`` from a timestamp to now."""
    seconds = max(0, int((now - instant(since)).total_seconds()))
    for size, unit, limit in ((1, "s", 120), (60, "m", 120), (3600, "h", 48)):
        if seconds < size * limit:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"


def ready(expert: ExpertModel) -> str:
    """``4/4 ready`` for what serves an expert as stable."""
    stable = expert.status.stable
    return f"{stable.ready_replicas}/{stable.replicas} ready" if stable else "nothing serves"
