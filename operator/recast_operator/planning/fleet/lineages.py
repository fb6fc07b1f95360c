"""Which lineages have or need servers. A lineage goes when nobody pins it: by reference count, never by age alone.

A lineage serves the newest *accepted* version that continues it; a rejected one never comes to serve. Where the version
that serves is rejected afterwards, the lineage goes back to the newest accepted one, unless an expert was trained with
a later version than that: the pair rule then keeps what serves until that expert has moved on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api.pair import is_pair
from recast_api.resources import LineageStatus
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.clock import elapsed, not_ahead, stamp
from recast_operator.planning.fleet.members import unreadable
from recast_operator.planning.snapshot import LineagePin, ObservedDeployment, ObservedFoundation
from recast_operator.planning.versions import verdict
from recast_operator.planning.versions.verdict import Judged

UNPINNED_GRACE_SECONDS = 15
"""An expert may be about to pin a lineage that it read as offered a moment ago."""
MAX_LINEAGES = 16
"""That have servers at once."""
PINS_SHOWN = 20


@dataclass(frozen=True)
class _Demand:
    """Who needs a lineage, and what serves it now."""

    lineage: int
    users: tuple[str, ...]
    pins: tuple[LineagePin, ...]
    """The versions of it that they were trained with."""
    kept: bool
    """Whether it leads, or nobody knows who may need it."""
    before: LineageStatus | None


def pins(observed: ObservedFoundation) -> dict[int, tuple[str, ...]]:
    """By lineage, the experts that read it or may still read it, whatever their spec says now."""
    found: dict[int, set[str]] = {}
    for expert, pin in _pinned(observed):
        found.setdefault(pin.lineage, set()).add(expert)
    return {lineage: tuple(sorted(users)) for lineage, users in found.items()}


def used_by(observed: ObservedFoundation) -> dict[int, int]:
    """By version, how many experts read it."""
    counts: dict[int, int] = {}
    for _, version in {(expert, pin.version) for expert, pin in _pinned(observed)}:
        counts[version] = counts.get(version, 0) + 1
    return counts


def lineages(
    observed: ObservedFoundation, judged: Sequence[Judged], leading: Sequence[FoundationVersionRef], now: datetime
) -> tuple[LineageStatus, ...]:
    """The lineages that have or need servers, oldest first; one that nobody needs stays for a grace period."""
    pinned, users, leads = _pinned(observed), pins(observed), {ref.lineage for ref in leading}
    before = {entry.lineage: entry for entry in observed.model.status.lineages}
    doubt = bool(unreadable(observed))
    found = []
    for number in set(users) | leads | set(before):
        versions = tuple(pin for _, pin in pinned if pin.lineage == number)
        demand = _Demand(number, users.get(number, ()), versions, doubt or number in leads, before.get(number))
        if (entry := _lineage(observed, judged, demand, now)) is not None:
            found.append(entry)
    first = sorted(found, key=lambda entry: (entry.lineage not in leads, entry.lineage not in before, entry.lineage))
    return tuple(sorted(first[:MAX_LINEAGES], key=lambda entry: entry.lineage))


def _lineage(
    observed: ObservedFoundation, judged: Sequence[Judged], demand: _Demand, now: datetime
) -> LineageStatus | None:
    version, unpinned = _version(judged, demand), _unpinned_since(demand, now)
    if version is None or (unpinned is not None and elapsed(unpinned, now) >= UNPINNED_GRACE_SECONDS):
        return None
    deployment = lineage_deployment(observed, demand.lineage)
    return LineageStatus(
        lineage=demand.lineage,
        version=version,
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        pinned_by=list(demand.users[:PINS_SHOWN]),
        pins=len(demand.users),
        unpinned_since=unpinned,
    )


def _version(judged: Sequence[Judged], demand: _Demand) -> int | None:
    """What a lineage serves; None where nothing of it may begin to serve."""
    accepted = [entry for entry in verdict.accepted(judged) if entry.version.spec.lineage == demand.lineage]
    newest = max(accepted, key=lambda entry: entry.number, default=None)
    if newest is None:
        return demand.before.version if demand.before else None
    spec = newest.version.spec
    served = LineagePin(spec.model.name, spec.lineage, spec.number, spec.digest)
    goes_back = demand.before is not None and newest.number < demand.before.version
    if demand.before is not None and goes_back and not all(is_pair(served, pin) for pin in demand.pins):
        return demand.before.version
    return newest.number


def _unpinned_since(demand: _Demand, now: datetime) -> str | None:
    if demand.kept or demand.users:
        return None
    before = demand.before.unpinned_since if demand.before else None
    return not_ahead(before, now) if before else stamp(now)


def grace_left(entry: LineageStatus, now: datetime) -> float | None:
    """Seconds until the servers of a lineage that nobody needs are deleted; None for one that is needed."""
    return None if entry.unpinned_since is None else UNPINNED_GRACE_SECONDS - elapsed(entry.unpinned_since, now)


def busiest(lineages: Sequence[LineageStatus], current: FoundationVersionRef | None) -> LineageStatus | None:
    """The lineage that most experts read; of equals the current one, then the newest.

    An autoscaler looks at its pods alone. All lineages get the replicas that it asks for: over the pods of several it
    would count the load of each pod once more for every lineage.
    """
    leads = current.lineage if current else 0
    return max(lineages, key=lambda entry: (entry.pins, entry.lineage == leads, entry.lineage), default=None)


def server_ready(observed: ObservedFoundation, ref: FoundationVersionRef) -> bool:
    """Whether all servers of a lineage are ready, of the newest template, and meant to serve this very version."""
    meant = {(entry.lineage, entry.version) for entry in observed.model.status.lineages}
    found, wanted = lineage_deployment(observed, ref.lineage), observed.model.spec.serving.replicas
    if found is None or (ref.lineage, ref.version) not in meant:
        return False
    return found.current and min(found.ready, found.updated) >= wanted


def lineage_deployment(observed: ObservedFoundation, lineage: int) -> ObservedDeployment | None:
    """Our Deployment of a lineage."""
    uid = observed.model.metadata.uid
    return next(
        (entry for entry in observed.children.deployments if entry.lineage == lineage and entry.owner_uid == uid), None
    )


def retired(
    observed: ObservedFoundation,
    judged: Sequence[Judged],
    current: FoundationVersionRef | None,
    serving: Sequence[LineageStatus],
) -> frozenset[int]:
    """Accepted versions below the current one whose lineage has no servers any more; none while that is in doubt."""
    if current is None or unreadable(observed):
        return frozenset()
    served = {entry.lineage for entry in serving}
    return frozenset(
        entry.number
        for entry in verdict.accepted(judged)
        if entry.number < current.version and entry.version.spec.lineage not in served
    )


def _pinned(observed: ObservedFoundation) -> set[tuple[str, LineagePin]]:
    """Expert and pin, of every pin on this foundation."""
    name = observed.model.metadata.name
    return {(expert.name, pin) for expert in observed.experts for pin in expert.pins if pin.name == name}
