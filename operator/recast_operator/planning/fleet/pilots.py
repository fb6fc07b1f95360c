"""Pilots: the experts that try a candidate first. Who they are, what they found, and why one does not move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.fleet.members import members, reads
from recast_operator.planning.snapshot import FailedTrial, FleetMember, ObservedFoundation


def pilots(observed: ObservedFoundation) -> tuple[FleetMember, ...]:
    """The pilots of ``spec.fleet`` that exist and read this foundation."""
    listed = set(observed.model.spec.fleet.pilots)
    return tuple(expert for expert in members(observed) if expert.name in listed)


def missing(observed: ObservedFoundation) -> tuple[str, ...]:
    """Pilots that are listed, and are no experts that read this foundation. They hold nothing back."""
    known = {expert.name for expert in members(observed)}
    known |= {expert.name for expert in observed.experts if not expert.readable}
    return tuple(sorted(set(observed.model.spec.fleet.pilots) - known))


@dataclass(frozen=True)
class HeldPilot:
    """A pilot that does not read the candidate and will not of itself."""

    name: str
    why: str
    """A clause that ends with what to do."""


def held(observed: ObservedFoundation, candidate: FoundationVersionRef) -> tuple[HeldPilot, ...]:
    """Pilots for which the candidate would wait for ever."""
    idle = (pilot for pilot in pilots(observed) if not pilot.busy and not reads(pilot, observed, candidate))
    found = ((pilot.name, _why_held(pilot, candidate)) for pilot in idle)
    return tuple(HeldPilot(name, why) for name, why in found if why)


def blaming(pilot: FleetMember, candidate: FoundationVersionRef) -> FailedTrial | None:
    """The trial that speaks against the candidate: rolled back on its analysis, with nothing else changed."""
    return next(
        (
            entry
            for entry in _trials(pilot, candidate)
            if entry.reason == "AnalysisFailed" and not entry.serving_changed
        ),
        None,
    )


def _why_held(pilot: FleetMember, candidate: FoundationVersionRef) -> str:
    if pilot.suspended:
        return "has spec.suspend set: unset it"
    if not pilot.follows_majors:
        return "has no FoundationMajor among its spec.refresh.triggers: add it"
    trial = next(_trials(pilot, candidate), None)
    if trial is None:
        return ""
    if trial.serving_changed:
        return (
            "rolled it back, but with a changed spec.serving, which may be at fault: change that back and it is tried "
            "again"
        )
    return f'rolled it back ({trial.reason}), which does not speak against it: request "Retry" there'


def _trials(pilot: FleetMember, candidate: FoundationVersionRef) -> Iterator[FailedTrial]:
    """What the pilot rolled back with this candidate; not with a namesake that it read before."""
    for entry in pilot.failed_trials:
        if entry.foundation_version == candidate.version and entry.time >= candidate.since:
            yield entry
