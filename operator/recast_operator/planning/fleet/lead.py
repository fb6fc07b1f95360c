"""Which version leads: the candidate is rejected, chosen or promoted, in this order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.clock import not_ahead, stamp
from recast_operator.planning.fleet.lineages import MAX_LINEAGES, server_ready
from recast_operator.planning.fleet.members import reads, unreadable
from recast_operator.planning.fleet.pilots import blaming, missing, pilots
from recast_operator.planning.plan import Event
from recast_operator.planning.snapshot import ObservedFoundation
from recast_operator.planning.training import known
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.versions import verdict
from recast_operator.planning.versions.verdict import Judged

PILOT_FAILED = "PilotAnalysisFailed"


@dataclass(frozen=True)
class Lead:
    """Who leads, and what this pass changed about it."""

    current: FoundationVersionRef | None
    candidate: FoundationVersionRef | None
    judged: tuple[Judged, ...]
    crowded_out: int | None = None
    """An accepted version that would be the candidate, were a lineage free to serve it."""
    events: tuple[Event, ...] = ()

    @property
    def newest(self) -> FoundationVersionRef | None:
        """What the fleet is moving to."""
        return self.candidate or self.current

    @property
    def served(self) -> tuple[FoundationVersionRef, ...]:
        """What needs servers, whoever reads it."""
        return tuple(ref for ref in (self.current, self.candidate) if ref is not None)

    def with_event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> Lead:
        """The same with one more event."""
        return replace(self, events=(*self.events, Event(kind, reason, message)))


def lead(observed: ObservedFoundation, inputs: TrainingInputs) -> Lead:
    """Reject, choose and promote."""
    status = observed.model.status
    rejected = _reject_failed(observed, Lead(status.current, status.candidate, inputs.judged))
    chosen = _choose(observed, rejected, replace(inputs, judged=rejected.judged))
    return _promote(observed, chosen, inputs)


def _reject_failed(observed: ObservedFoundation, state: Lead) -> Lead:
    candidate = state.candidate
    if candidate is None:
        return state
    for pilot in pilots(observed):
        failure = blaming(pilot, candidate)
        if failure is None:
            continue
        text = f"pilot {pilot.name}: {failure.message}"[:1024]
        judged = verdict.reject(state.judged, candidate.version, PILOT_FAILED, text)
        return replace(state, judged=judged, candidate=None).with_event(
            "Warning", PILOT_FAILED, f"v{candidate.version} is rejected: {text}"
        )
    return state


def _choose(observed: ObservedFoundation, state: Lead, inputs: TrainingInputs) -> Lead:
    newer = [entry.version.spec for entry in known.asked_for(inputs) if entry.number > inputs.serving]
    if not newer:
        return _withdraw(state)
    spec, candidate = newer[-1], state.candidate
    if candidate is not None and (candidate.version, candidate.digest) == (spec.number, spec.digest):
        since = not_ahead(candidate.since, inputs.now)
        return replace(state, candidate=candidate.model_copy(update={"since": since}))
    served = {entry.lineage for entry in observed.model.status.lineages}
    if spec.lineage not in served and len(served) >= MAX_LINEAGES:
        return replace(state, crowded_out=spec.number)
    chosen = FoundationVersionRef(
        version=spec.number, lineage=spec.lineage, digest=spec.digest, since=stamp(inputs.now)
    )
    beside = " beside the current ones" if state.current is not None else ""
    text = f"v{spec.number} is the candidate; its servers start{beside}"
    state = replace(state, candidate=chosen).with_event("Normal", "CandidateChosen", text)
    if state.current is not None and (absent := missing(observed)):
        text = f"v{spec.number} is not tried by {' and '.join(absent)}: no expert of that name reads this foundation"
        state = state.with_event("Warning", "PilotNotFound", f"{text}; correct spec.fleet.pilots")
    return state


def _withdraw(state: Lead) -> Lead:
    candidate = state.candidate
    if candidate is None:
        return state
    found = verdict.by_number(state.judged, candidate.version)
    why = (
        "the spec asks again for what the current version was trained from"
        if found is not None and found.accepted
        else "it is not an accepted version any more"
    )
    return replace(state, candidate=None).with_event(
        "Normal", "CandidateWithdrawn", f"v{candidate.version} is not the candidate any more: {why}"
    )


def _promote(observed: ObservedFoundation, state: Lead, inputs: TrainingInputs) -> Lead:
    candidate = state.candidate
    if candidate is None or unreadable(observed) or not server_ready(observed, candidate):
        return state
    if state.current is not None and any(not reads(pilot, observed, candidate) for pilot in pilots(observed)):
        return state
    before = f", was v{state.current.version}" if state.current else ""
    current = candidate.model_copy(update={"since": stamp(inputs.now)})
    return replace(state, current=current, candidate=None).with_event(
        "Normal", "Promoted", f"v{current.version} is the current version{before}"
    )
