"""Who reads a foundation, by spec and by what serves."""

from __future__ import annotations

from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.planning.snapshot import FleetMember, ObservedFoundation


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
    """Whether the expert's stable revision reads this version: a lineage serves one version to all who pin it."""
    stable = expert.stable
    return stable is not None and (stable.foundation, stable.lineage) == (observed.model.metadata.name, ref.lineage)
