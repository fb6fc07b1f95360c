"""Who reads a foundation, by spec and by what serves."""

from __future__ import annotations

from recast_api.pair import is_pair
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.snapshot import FleetMember, LineagePin, ObservedFoundation


def members(observed: ObservedFoundation) -> tuple[FleetMember, ...]:
    """Experts that read this foundation by their spec."""
    name = observed.model.metadata.name
    return tuple(expert for expert in observed.experts if expert.foundation == name and not expert.deleting)


def unreadable(observed: ObservedFoundation) -> tuple[str, ...]:
    """Experts that this operator cannot read.

    Whether they read this foundation, and which lineage, is unknown beyond the pins of their raw status. So nothing is
    promoted and no server is taken away while there is one.
    """
    return tuple(sorted(expert.name for expert in observed.experts if not expert.readable))


def reads(expert: FleetMember, observed: ObservedFoundation, ref: FoundationVersionRef) -> bool:
    """Whether this version may answer the expert's stable revision: a lineage serves one to all who pin it."""
    served = LineagePin(observed.model.metadata.name, ref.lineage, ref.version, ref.digest)
    return expert.stable is not None and is_pair(served, expert.stable)
