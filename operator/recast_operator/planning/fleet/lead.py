"""Which version leads: the candidate is rejected, chosen or promoted, in this order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.clock import stamp
from recast_operator.planning.fleet.lineages import server_ready
from recast_operator.planning.plan import Event
from recast_operator.planning.snapshot import FailedTrial, FleetMember, ObservedFoundation
from recast_operator.planning.versions import verdict
from recast_operator.planning.versions.verdict import Judged

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


def members(observed: ObservedFoundation) -> tuple[FleetMember, ...]:
    """Experts that read this foundation by their spec."""
    name = observed.model.metadata.name
    return tuple(expert for expert in observed.experts if expert.foundation == name and not expert.deleting)


def pilots(observed: ObservedFoundation) -> tuple[FleetMember, ...]:
    """The pilots of ``spec.fleet`` that exist and read this foundation."""
    listed = set(observed.model.spec.fleet.pilots)
    return tuple(expert for expert in members(observed) if expert.name in listed)


def lead(observed: ObservedFoundation, judged: tuple[Judged, ...], now: datetime) -> Lead:
    """Reject, choose and promote."""
    status = observed.model.status
    rejected = _reject_failed(observed, Lead(status.current, status.candidate, judged))
    chosen = _choose(observed, rejected, now)
    return _promote(observed, chosen, now)


def reads(expert: FleetMember, observed: ObservedFoundation, ref: FoundationVersionRef) -> bool:
    """Whether the expert's stable revision reads this version."""
    stable = expert.stable
    return stable is not None and (stable.foundation, stable.version) == (observed.model.metadata.name, ref.version)


def undecided(observed: ObservedFoundation, candidate: FoundationVersionRef) -> tuple[str, ...]:
    """Pilots that rolled the candidate back together with a change of their serving, and are not trying it again."""
    return tuple(pilot.name for pilot in pilots(observed) if pilot.canary is None and any(_failures(pilot, candidate)))


def _reject_failed(observed: ObservedFoundation, state: Lead) -> Lead:
    candidate = state.candidate
    if candidate is None:
        return state
    for pilot in pilots(observed):
        failure = next((entry for entry in _failures(pilot, candidate) if not entry.serving_changed), None)
        if failure is None:
            continue
        text = f"pilot {pilot.name}: {failure.message}"[:1024]
        judged = verdict.reject(state.judged, candidate.version, PILOT_FAILED, text)
        event = Event("Warning", PILOT_FAILED, f"v{candidate.version} is rejected: {text}")
        return replace(state, judged=judged, candidate=None, events=(event,))
    return state


def _failures(pilot: FleetMember, candidate: FoundationVersionRef) -> Iterator[FailedTrial]:
    """What the pilot rolled back on its analysis with this candidate; not with a namesake that it read before."""
    for entry in pilot.failed_trials:
        tried = entry.foundation_version == candidate.version and entry.time >= candidate.since
        if tried and entry.reason == "AnalysisFailed":
            yield entry


def _choose(observed: ObservedFoundation, state: Lead, now: datetime) -> Lead:
    floor = state.current.version if state.current else 0
    newer = [entry for entry in verdict.accepted(state.judged) if entry.number > floor]
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
    if not first and any(not reads(pilot, observed, candidate) for pilot in pilots(observed)):
        return state
    current = candidate.model_copy(update={"since": stamp(now)})
    before = f", was v{state.current.version}" if state.current else ""
    event = Event("Normal", "Promoted", f"v{current.version} is the current version{before}")
    return replace(state, current=current, candidate=None, events=(*state.events, event))
