"""Who may refresh now. The foundation alone grants slots, so that two experts never take the last one."""

from __future__ import annotations

from collections.abc import Sequence

from recast_api.resources import WaveStatus
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.fleet.members import members, reads
from recast_operator.planning.snapshot import FleetMember, ObservedFoundation

WAITING_SHOWN = 20


def wave(observed: ObservedFoundation, newest: FoundationVersionRef | None) -> WaveStatus:
    """Who refreshes towards the ``newest`` version and who waits.

    A slot is held until its expert is neither stale nor refreshing any more.
    """
    fleet = observed.model.spec.fleet
    experts = members(observed)
    held = holders(observed)
    queue = sorted(
        (expert for expert in experts if expert.refresh_since and expert.name not in held),
        key=lambda expert: _rank(expert, fleet.pilots),
    )
    free = max(0, fleet.max_concurrent_refreshes - len(held))
    waiting = [expert.name for expert in queue[free:]]
    return WaveStatus(
        granted=sorted([*held, *(expert.name for expert in queue[:free])])[:256],
        waiting=waiting[:WAITING_SHOWN],
        waiting_total=len(waiting),
        experts=len(experts),
        on_newest=sum(1 for expert in experts if newest and reads(expert, observed, newest)),
    )


def holders(observed: ObservedFoundation) -> frozenset[str]:
    """Experts that hold a slot now: those that train, and those that were granted one and have not finished.

    An expert that cannot be read keeps the slot that it was granted: nobody knows that it has finished.
    """
    before = set(observed.model.status.wave.granted)
    unreadable = [expert for expert in observed.experts if not expert.readable]
    return frozenset(
        expert.name
        for expert in (*members(observed), *unreadable)
        if expert.training or (expert.name in before and expert.busy)
    )


def _rank(expert: FleetMember, pilots: Sequence[str]) -> tuple[bool, str, str]:
    """Pilots first, then by how long an expert has waited."""
    return expert.name not in pilots, expert.refresh_since, expert.name
