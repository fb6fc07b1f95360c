"""A foundation and its experts: which version leads, who may refresh now, which lineages still need servers.

*Current* is what everybody reads. *Candidate* is the newest accepted version above it, served beside it until its
pilots have promoted it; then it becomes current and the others follow, a few at a time. The foundation alone grants
slots, so that two experts never take one. A lineage goes when nobody pins it: by reference count, never by age.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from recast_api.resources import ExpertModel, FailedRevision, FoundationModel, LineageStatus, WaveStatus
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning import versions as version_rules
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.outcome import Event
from recast_operator.planning.snapshot import ObservedDeployment, ObservedFoundation
from recast_operator.planning.versions import Judged

UNPINNED_GRACE_SECONDS = 15
"""An expert may be about to pin a lineage that it read as offered a moment ago."""
MAX_LINEAGES = 16
PILOT_FAILED = "PilotAnalysisFailed"


@dataclass(frozen=True)
class Lead:
    """Who leads, and what this pass changed about it."""

    current: FoundationVersionRef | None
    candidate: FoundationVersionRef | None
    judged: tuple[Judged, ...]
    events: tuple[Event, ...] = ()

    @property
    def newest(self) -> FoundationVersionRef | None:
        """What the fleet is moving to."""
        return self.candidate or self.current


def members(observed: ObservedFoundation) -> tuple[ExpertModel, ...]:
    """Experts that read this foundation by their spec."""
    name = observed.model.metadata.name
    return tuple(
        expert
        for expert in observed.experts
        if expert.spec.foundation_ref.name == name and expert.metadata.deletion_timestamp is None
    )


def pilots(observed: ObservedFoundation) -> tuple[ExpertModel, ...]:
    """The pilots of ``spec.fleet`` that exist and read this foundation."""
    listed = set(observed.model.spec.fleet.pilots)
    return tuple(expert for expert in members(observed) if expert.metadata.name in listed)


def lead(observed: ObservedFoundation, judged: tuple[Judged, ...], now: datetime) -> Lead:
    """Reject, choose and promote, in this order."""
    status = observed.model.status
    rejected = _reject_failed(observed, Lead(status.current, status.candidate, judged))
    chosen = _choose(observed, rejected, now)
    return _promote(observed, chosen, now)


def _reject_failed(observed: ObservedFoundation, state: Lead) -> Lead:
    candidate = state.candidate
    if candidate is None:
        return state
    for pilot in pilots(observed):
        failure = next((entry for entry in _failures(pilot, candidate) if not entry.serving_changed), None)
        if failure is None:
            continue
        text = f"pilot {pilot.metadata.name}: {failure.message}"[:1024]
        judged = version_rules.reject(state.judged, candidate.version, PILOT_FAILED, text)
        event = Event("Warning", PILOT_FAILED, f"v{candidate.version} is rejected: {text}")
        return replace(state, judged=judged, candidate=None, events=(event,))
    return state


def _failures(pilot: ExpertModel, candidate: FoundationVersionRef) -> Iterator[FailedRevision]:
    """What the pilot rolled back on its analysis with this candidate; not with a namesake that it read before."""
    for entry in pilot.status.failed_revisions:
        tried = entry.foundation_version == candidate.version and entry.time >= candidate.since
        if tried and entry.reason == "AnalysisFailed":
            yield entry


def undecided(observed: ObservedFoundation, candidate: FoundationVersionRef) -> tuple[str, ...]:
    """Pilots that rolled the candidate back together with a change of their serving, and are not trying it again."""
    return tuple(
        pilot.metadata.name
        for pilot in pilots(observed)
        if pilot.status.canary is None and any(_failures(pilot, candidate))
    )


def _choose(observed: ObservedFoundation, state: Lead, now: datetime) -> Lead:
    floor = state.current.version if state.current else 0
    newer = [entry for entry in version_rules.accepted(state.judged) if entry.number > floor]
    if not newer:
        return replace(state, candidate=None)
    spec = newer[-1].version.spec
    if state.candidate is not None and state.candidate.version == spec.number:
        return state
    known = {entry.lineage for entry in observed.model.status.lineages}
    if spec.lineage not in known and len(known) >= MAX_LINEAGES:
        return state
    chosen = FoundationVersionRef(version=spec.number, lineage=spec.lineage, digest=spec.digest, since=stamp(now))
    event = Event(
        "Normal", "CandidateChosen", f"v{spec.number} is the candidate; its servers start beside the current ones"
    )
    return replace(state, candidate=chosen, events=(*state.events, event))


def _promote(observed: ObservedFoundation, state: Lead, now: datetime) -> Lead:
    candidate = state.candidate
    if candidate is None or not server_ready(observed, candidate.lineage):
        return state
    first = state.current is None
    if not first and any(not _on(pilot, observed.model, candidate) for pilot in pilots(observed)):
        return state
    current = candidate.model_copy(update={"since": stamp(now)})
    before = f", was v{state.current.version}" if state.current else ""
    event = Event("Normal", "Promoted", f"v{current.version} is the current version{before}")
    return replace(state, current=current, candidate=None, events=(*state.events, event))


def _on(expert: ExpertModel, model: FoundationModel, ref: FoundationVersionRef) -> bool:
    stable = expert.status.stable
    return stable is not None and (stable.foundation.name, stable.foundation.version) == (
        model.metadata.name,
        ref.version,
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


def wave(observed: ObservedFoundation, state: Lead) -> WaveStatus:
    """Who refreshes and who waits. A slot is held until its expert is neither stale nor refreshing any more."""
    fleet = observed.model.spec.fleet
    experts = {expert.metadata.name: expert for expert in members(observed)}
    before = set(observed.model.status.wave.granted)
    held = [name for name, expert in experts.items() if expert.status.run or (name in before and _busy(expert))]
    queue = sorted(
        (expert for name, expert in experts.items() if expert.status.refresh and name not in held),
        key=lambda expert: _rank(expert, set(fleet.pilots)),
    )
    free = max(0, fleet.max_concurrent_refreshes - len(held))
    waiting = [expert.metadata.name for expert in queue[free:]]
    newest = state.newest
    return WaveStatus(
        granted=sorted([*held, *(expert.metadata.name for expert in queue[:free])])[:256],
        waiting=waiting[:20],
        waiting_total=len(waiting),
        experts=len(experts),
        on_newest=sum(1 for expert in experts.values() if newest and _on(expert, observed.model, newest)),
    )


def _busy(expert: ExpertModel) -> bool:
    status = expert.status
    return status.refresh is not None or status.run is not None or status.canary is not None


def _rank(expert: ExpertModel, first: set[str]) -> tuple[bool, str, str]:
    since = expert.status.refresh.since if expert.status.refresh else ""
    return expert.metadata.name not in first, since, expert.metadata.name


def pins(observed: ObservedFoundation) -> dict[int, tuple[str, ...]]:
    """By lineage, the experts whose stable or running canary reads it, whatever their spec says now."""
    name = observed.model.metadata.name
    found: dict[int, set[str]] = {}
    for expert in observed.experts:
        for revision in (expert.status.stable, expert.status.canary):
            if revision is not None and revision.foundation.name == name:
                found.setdefault(revision.foundation.lineage, set()).add(expert.metadata.name)
    return {lineage: tuple(sorted(users)) for lineage, users in found.items()}


def used_by(observed: ObservedFoundation) -> dict[int, int]:
    """By version, how many experts read it."""
    name = observed.model.metadata.name
    counts: dict[int, int] = {}
    for expert in observed.experts:
        revisions = (expert.status.stable, expert.status.canary)
        for version in {entry.foundation.version for entry in revisions if entry and entry.foundation.name == name}:
            counts[version] = counts.get(version, 0) + 1
    return counts


def lineages(observed: ObservedFoundation, state: Lead, now: datetime) -> list[LineageStatus]:
    """The lineages that have or need servers, oldest first; one that nobody needs stays for a grace period."""
    pinned = pins(observed)
    leading = {ref.lineage: ref.version for ref in (state.current, state.candidate) if ref is not None}
    before = {entry.lineage: entry for entry in observed.model.status.lineages}
    planned = (
        _lineage(observed, state, number, pinned.get(number, ()), number in leading, before.get(number), now)
        for number in sorted(set(pinned) | set(leading) | set(before))
    )
    return [entry for entry in planned if entry is not None]


def _lineage(
    observed: ObservedFoundation,
    state: Lead,
    lineage: int,
    users: tuple[str, ...],
    leads: bool,
    before: LineageStatus | None,
    now: datetime,
) -> LineageStatus | None:
    unpinned = None if leads or users else (before.unpinned_since if before else None) or stamp(now)
    if unpinned is not None and elapsed(unpinned, now) >= UNPINNED_GRACE_SECONDS:
        return None
    landed = [entry.number for entry in state.judged if entry.ours and entry.version.spec.lineage == lineage]
    deployment = lineage_deployment(observed, lineage)
    return LineageStatus(
        lineage=lineage,
        version=max(landed, default=before.version if before else lineage),
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.ready if deployment else 0,
        pinned_by=list(users[:20]),
        pins=len(users),
        unpinned_since=unpinned,
    )


def retired(state: Lead, serving: Sequence[LineageStatus]) -> frozenset[int]:
    """Accepted versions below the current one whose lineage has no servers any more."""
    served = {entry.lineage for entry in serving}
    floor = state.current.version if state.current else 0
    return frozenset(
        entry.number
        for entry in version_rules.accepted(state.judged)
        if entry.number < floor and entry.version.spec.lineage not in served
    )
