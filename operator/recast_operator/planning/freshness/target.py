"""Which foundation version an expert should read: its reference resolved, and whether it may refresh now."""

from __future__ import annotations

from dataclasses import dataclass

from recast_api.resources import FoundationPin, ModelVersion
from recast_operator.planning.snapshot import FoundationView, ObservedExpert


@dataclass(frozen=True)
class FoundationTarget:
    """The foundation an expert should read."""

    foundation: FoundationView | None
    """The referenced one, if it exists and can be read."""
    version: ModelVersion | None = None
    """Its version to train against: the candidate for pilots, else the current one."""
    granted: bool = False

    @property
    def pin(self) -> FoundationPin | None:
        """The version as a pin."""
        if self.version is None:
            return None
        spec = self.version.spec
        return FoundationPin(name=spec.model.name, version=spec.number, lineage=spec.lineage, digest=spec.digest)


def foundation_target(observed: ObservedExpert) -> FoundationTarget:
    """Look the reference up; a version that the snapshot lacks is no target yet."""
    foundation = observed.foundation
    if foundation is None:
        return FoundationTarget(None)
    ref = foundation.candidate if foundation.pilot and foundation.candidate else foundation.current
    version = next(
        (
            entry
            for entry in observed.foundation_versions
            if ref is not None
            and (entry.spec.model.name, entry.spec.number, entry.spec.digest)
            == (foundation.name, ref.version, ref.digest)
        ),
        None,
    )
    return FoundationTarget(foundation, version, foundation.granted)
