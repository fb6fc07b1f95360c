"""Which revisions of an expert could serve: an ordered list, newest first, each with what speaks against it.

A candidate is the pair that an accepted version was trained as, under the serving template of the spec. The first one
with no objection is rolled out; it may be the stable revision itself. The list ends with the stable version: a failed
newcomer leads back to what serves, not behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api.resources import FailedRevision, FoundationPin, ModelVersion, RevisionStatus
from recast_operator.planning import hashing
from recast_operator.planning.clock import stamp
from recast_operator.planning.snapshot import ObservedExpert
from recast_operator.planning.versions.verdict import Judged, accepted, rejected

FAILED = "it has failed before"
"""The objection that a Retry takes back."""


@dataclass(frozen=True)
class RevisionCandidate:
    """One revision that could serve."""

    revision: RevisionStatus
    objection: str = ""
    """Why it may not be rolled out now; empty where nothing speaks against it."""


@dataclass(frozen=True)
class ServableFoundations:
    """The lineages that a revision of an expert may pair with."""

    observed: ObservedExpert

    def objection(self, pin: FoundationPin) -> str:
        """Why this version may not be paired with now; empty where it may."""
        if self._rejected(pin):
            return f"{pin.name} v{pin.version} is rejected"
        canary = self.observed.model.status.canary
        if canary is not None and (canary.foundation.name, canary.foundation.lineage) == (pin.name, pin.lineage):
            return ""  # the running canary keeps its lineage, even while the foundation's servers are not ready
        foundation = self.observed.foundations.get(pin.name)
        if pin.name in self.observed.unreadable_foundations:
            return f"{pin.name} cannot be read"
        if foundation is None:
            return f"{pin.name} is not there"
        return "" if pin.lineage in foundation.offered else f"{pin.name} does not serve v{pin.version} now"

    def claim(self, name: str) -> str:
        """The volume claim with a foundation's artefacts; empty where the foundation is not there."""
        foundation = self.observed.foundations.get(name)
        return foundation.models_claim if foundation else ""

    def _rejected(self, pin: FoundationPin) -> bool:
        return any(
            entry.spec.model.name == pin.name and entry.spec.number == pin.version and rejected(entry)
            for entry in self.observed.foundation_versions
        )


def candidates(
    observed: ObservedExpert, judged: Sequence[Judged], failed: Sequence[FailedRevision], now: datetime
) -> tuple[RevisionCandidate, ...]:
    """All candidates, newest first, down to the stable version."""
    return tuple(_candidates(observed, judged, {entry.revision for entry in failed}, now))


def _candidates(
    observed: ObservedExpert, judged: Sequence[Judged], failed: set[str], now: datetime
) -> Iterator[RevisionCandidate]:
    stable, servable = observed.model.status.stable, ServableFoundations(observed)
    for entry in reversed(accepted(judged)):
        if stable is not None and entry.number < stable.version:
            return
        revision = _revision(observed, entry.version, servable, now)
        serves = stable is not None and entry.number == stable.version
        objection = "" if serves else servable.objection(revision.foundation) or _untrained(revision, entry.version)
        if not revision.models_claim:
            objection = objection or "the volume claim of its artefact is not known"
        if not objection and revision.revision in failed:
            objection = FAILED
        yield RevisionCandidate(revision, objection)


def desired(found: Sequence[RevisionCandidate]) -> RevisionStatus | None:
    """The revision that should serve, or None where nothing may."""
    return next((entry.revision for entry in found if not entry.objection), None)


def blocked(found: Sequence[RevisionCandidate]) -> RevisionStatus | None:
    """The revision that would be rolled out, had it not failed before."""
    first = next((entry for entry in found if entry.objection in ("", FAILED)), None)
    return first.revision if first is not None and first.objection == FAILED else None


def _revision(
    observed: ObservedExpert, version: ModelVersion, servable: ServableFoundations, now: datetime
) -> RevisionStatus:
    model, spec = observed.model, version.spec
    pin = spec.foundation
    assert pin is not None, "the API guarantees that an expert's version names its foundation"
    begun = (model.status.stable, model.status.canary)
    as_begun = next((entry for entry in begun if entry is not None and entry.version == spec.number), None)
    return RevisionStatus(
        revision=hashing.revision(spec.digest, pin.lineage, model.spec.serving),
        version=spec.number,
        digest=spec.digest,
        path=spec.path,
        foundation=pin,
        serving=model.spec.serving,
        tasks=as_begun.tasks if as_begun and as_begun.tasks else model.spec.tasks,
        models_claim=as_begun.models_claim if as_begun and as_begun.models_claim else servable.claim(pin.name),
        since=stamp(now),
    )


def _untrained(revision: RevisionStatus, version: ModelVersion) -> str:
    """Names come from the version, weights from the spec: an added task waits for the version that learned it."""
    missing = sorted({task.name for task in revision.tasks} - version.spec.served_tasks)
    return f"v{revision.version} was trained without {', '.join(missing)}" if missing else ""
