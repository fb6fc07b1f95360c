"""Which lineages have or need servers. A lineage goes when nobody pins it: by reference count, never by age alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api.resources import LineageStatus
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.snapshot import ObservedDeployment, ObservedFoundation
from recast_operator.planning.versions import verdict
from recast_operator.planning.versions.verdict import Judged

UNPINNED_GRACE_SECONDS = 15
"""An expert may be about to pin a lineage that it read as offered a moment ago."""
PINS_SHOWN = 20


@dataclass(frozen=True)
class _Demand:
    """Who needs a lineage, and what serves it now."""

    lineage: int
    users: tuple[str, ...]
    leads: bool
    before: LineageStatus | None


def pins(observed: ObservedFoundation) -> dict[int, tuple[str, ...]]:
    """By lineage, the experts that read it or may still read it, whatever their spec says now."""
    name = observed.model.metadata.name
    found: dict[int, set[str]] = {}
    for expert in observed.experts:
        for pin in expert.pins:
            if pin.foundation == name:
                found.setdefault(pin.lineage, set()).add(expert.name)
    return {lineage: tuple(sorted(users)) for lineage, users in found.items()}


def used_by(observed: ObservedFoundation) -> dict[int, int]:
    """By version, how many experts read it."""
    name = observed.model.metadata.name
    counts: dict[int, int] = {}
    for expert in observed.experts:
        for version in {pin.version for pin in expert.pins if pin.foundation == name}:
            counts[version] = counts.get(version, 0) + 1
    return counts


def lineages(
    observed: ObservedFoundation,
    judged: Sequence[Judged],
    leading: Sequence[FoundationVersionRef],
    now: datetime,
) -> tuple[LineageStatus, ...]:
    """The lineages that have or need servers, oldest first; one that nobody needs stays for a grace period."""
    pinned = pins(observed)
    leads = {ref.lineage for ref in leading}
    before = {entry.lineage: entry for entry in observed.model.status.lineages}
    planned = (
        _lineage(observed, judged, _Demand(number, pinned.get(number, ()), number in leads, before.get(number)), now)
        for number in sorted(set(pinned) | leads | set(before))
    )
    return tuple(entry for entry in planned if entry is not None)


def _lineage(
    observed: ObservedFoundation, judged: Sequence[Judged], demand: _Demand, now: datetime
) -> LineageStatus | None:
    before, needed = demand.before, demand.leads or bool(demand.users)
    unpinned = None if needed else (before.unpinned_since if before else None) or stamp(now)
    if unpinned is not None and elapsed(unpinned, now) >= UNPINNED_GRACE_SECONDS:
        return None
    landed = [entry.number for entry in judged if entry.ours and entry.version.spec.lineage == demand.lineage]
    deployment = lineage_deployment(observed, demand.lineage)
    return LineageStatus(
        lineage=demand.lineage,
        version=max(landed, default=before.version if before else demand.lineage),
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        pinned_by=list(demand.users[:PINS_SHOWN]),
        pins=len(demand.users),
        unpinned_since=unpinned,
    )


def server_ready(observed: ObservedFoundation, lineage: int) -> bool:
    """Whether all servers of a lineage are ready and of the newest template."""
    found = lineage_deployment(observed, lineage)
    wanted = observed.model.spec.serving.replicas
    return found is not None and found.current and found.ready >= wanted and found.updated >= wanted


def lineage_deployment(observed: ObservedFoundation, lineage: int) -> ObservedDeployment | None:
    """Our Deployment of a lineage."""
    uid = observed.model.metadata.uid
    return next(
        (entry for entry in observed.children.deployments if entry.lineage == lineage and entry.owner_uid == uid), None
    )


def retired(
    judged: Sequence[Judged], current: FoundationVersionRef | None, serving: Sequence[LineageStatus]
) -> frozenset[int]:
    """Accepted versions below the current one whose lineage has no servers any more."""
    served = {entry.lineage for entry in serving}
    floor = current.version if current else 0
    return frozenset(
        entry.number
        for entry in verdict.accepted(judged)
        if entry.number < floor and entry.version.spec.lineage not in served
    )
