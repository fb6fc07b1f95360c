"""Which revision of an expert should serve: the newest accepted pair, under the serving template of the spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api.resources import FailedRevision, FoundationModel, FoundationPin, ModelVersion, RevisionStatus
from recast_operator.planning import hashing
from recast_operator.planning.clock import stamp
from recast_operator.planning.snapshot import ObservedExpert
from recast_operator.planning.versions import Judged, accepted, rejected


@dataclass(frozen=True)
class Offer:
    """The lineages an expert may pair with."""

    foundations: Sequence[FoundationModel]
    foundation_versions: Sequence[ModelVersion]
    pinned: frozenset[tuple[str, int]]
    """(foundation, lineage) of the running canary: kept even while the foundation's servers are not ready."""

    def foundation(self, name: str) -> FoundationModel | None:
        """The foundation of that name."""
        return next((entry for entry in self.foundations if entry.metadata.name == name), None)

    def allows(self, pin: FoundationPin) -> bool:
        """Served by its foundation as current or candidate, and not rejected since."""
        if self._rejected(pin):
            return False
        if (pin.name, pin.lineage) in self.pinned:
            return True
        model = self.foundation(pin.name)
        if model is None:
            return False
        offered = {ref.lineage for ref in (model.status.current, model.status.candidate) if ref is not None}
        ready = {entry.lineage for entry in model.status.lineages if entry.ready_replicas > 0}
        return pin.lineage in offered & ready

    def _rejected(self, pin: FoundationPin) -> bool:
        return any(
            entry.spec.model.name == pin.name and entry.spec.number == pin.version and rejected(entry)
            for entry in self.foundation_versions
        )


def desired(
    observed: ObservedExpert, judged: Sequence[Judged], failed: Sequence[FailedRevision], now: datetime
) -> RevisionStatus | None:
    """The revision that should serve, or None where nothing may. It may be the stable one.

    Older versions than the stable one are never asked for: a failed newcomer leads back to what serves, not behind it.
    """
    status = observed.model.status
    stable, canary = status.stable, status.canary
    forbidden = {entry.revision for entry in failed}
    pinned = frozenset({(canary.foundation.name, canary.foundation.lineage)} if canary else ())
    offer = Offer(observed.foundations, observed.foundation_versions, pinned)
    for entry in reversed(accepted(judged)):
        if stable is not None and entry.number < stable.version:
            break
        wanted = _revision(observed, entry.version, offer, now)
        serves = stable is not None and entry.number == stable.version
        if wanted.revision not in forbidden and (serves or offer.allows(wanted.foundation)) and wanted.models_claim:
            return wanted
    return None


def _revision(observed: ObservedExpert, version: ModelVersion, offer: Offer, now: datetime) -> RevisionStatus:
    model, spec = observed.model, version.spec
    stable = model.status.stable
    pin = spec.foundation
    assert pin is not None, "the API guarantees that an expert's version names its foundation"
    foundation = offer.foundation(pin.name)
    same = stable is not None and stable.version == spec.number
    return RevisionStatus(
        revision=hashing.revision(spec.digest, pin.lineage, model.spec.serving),
        version=spec.number,
        digest=spec.digest,
        path=spec.path,
        foundation=pin,
        serving=model.spec.serving,
        tasks=stable.tasks if same and stable and stable.tasks else model.spec.tasks,
        models_claim=(
            stable.models_claim
            if same and stable and stable.models_claim
            else foundation.spec.storage.persistent_volume_claim.claim_name
            if foundation
            else ""
        ),
        since=stamp(now),
    )
