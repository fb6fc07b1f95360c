"""Which foundation version an expert should read: its reference resolved, and whether it may refresh now."""

from __future__ import annotations

from dataclasses import dataclass

from recast_api.resources import FoundationModel, FoundationPin, ModelVersion
from recast_operator.planning.snapshot import ObservedExpert


@dataclass(frozen=True)
class Reading:
    """The foundation an expert should read."""

    foundation: FoundationModel | None
    """The referenced one, if it exists."""
    target: ModelVersion | None
    """Its version to train against: the candidate for pilots, else the current one."""
    granted: bool

    @property
    def pin(self) -> FoundationPin | None:
        """The target as a pin."""
        if self.target is None:
            return None
        spec = self.target.spec
        return FoundationPin(name=spec.model.name, version=spec.number, lineage=spec.lineage, digest=spec.digest)


def read(observed: ObservedExpert) -> Reading:
    """Look the reference up; a version that the snapshot lacks is no target yet."""
    model = observed.model
    name = model.spec.foundation_ref.name
    foundation = next((entry for entry in observed.foundations if entry.metadata.name == name), None)
    if foundation is None:
        return Reading(None, None, False)
    status = foundation.status
    pilot = model.metadata.name in foundation.spec.fleet.pilots
    ref = status.candidate if pilot and status.candidate else status.current
    target = next(
        (
            entry
            for entry in observed.foundation_versions
            if ref is not None
            and (entry.spec.model.name, entry.spec.number, entry.spec.digest) == (name, ref.version, ref.digest)
        ),
        None,
    )
    return Reading(foundation, target, model.metadata.name in status.wave.granted)
