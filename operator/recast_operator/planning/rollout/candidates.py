"""Which revisions of an expert could serve: an ordered list, newest first, each with what speaks against it.

A candidate is the pair that an accepted version was trained as, under the serving template of the spec. The first one
with no objection is rolled out; it may be the stable revision itself. The list ends with the stable version: a failed
newcomer leads back to what serves, not behind it. What is newer than the first one is held back, for the reason given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from recast_api.pair import is_pair
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
class Selection:
    """What could serve, and what speaks against the canary itself."""

    candidates: tuple[RevisionCandidate, ...]
    """Newest first."""
    against_canary: str = ""
    """From :func:`against_canary`."""

    @property
    def desired(self) -> RevisionStatus | None:
        """The revision that should serve, or None where nothing may."""
        return next((entry.revision for entry in self.candidates if not entry.objection), None)

    @property
    def blocked(self) -> RevisionStatus | None:
        """The revision that would be rolled out, had it not failed before."""
        first = next((entry for entry in self.candidates if entry.objection in ("", FAILED)), None)
        return first.revision if first is not None and first.objection == FAILED else None

    @property
    def held_back(self) -> tuple[RevisionCandidate, ...]:
        """Those newer than the desired one that wait for something; what has failed waits for nothing."""
        newer = takewhile(lambda entry: entry.objection, self.candidates)
        return tuple(entry for entry in newer if entry.objection != FAILED)


@dataclass(frozen=True)
class ServableFoundations:
    """The lineages that a revision of an expert may pair with."""

    observed: ObservedExpert

    def objection(self, pin: FoundationPin) -> str:
        """Why this version may not be paired with now; empty where it may."""
        if self.rejected(pin):
            return f"{pin.name} v{pin.version} is rejected"
        canary = self.observed.model.status.canary
        if canary is not None and (canary.foundation.name, canary.foundation.lineage) == (pin.name, pin.lineage):
            return ""  # the running canary keeps its lineage, even while the foundation's servers are not ready
        foundation = self.observed.foundations.get(pin.name)
        if pin.name in self.observed.unreadable_foundations:
            return f"{pin.name} cannot be read"
        if foundation is None:
            return f"{pin.name} is not there"
        served = any(is_pair(version, pin) for version in foundation.offered)
        return "" if served else f"{pin.name} does not serve v{pin.version} now"

    def claim(self, name: str) -> str:
        """The volume claim with a foundation's artefacts; empty where the foundation is not there."""
        foundation = self.observed.foundations.get(name)
        return foundation.models_claim if foundation else ""

    def rejected(self, pin: FoundationPin) -> bool:
        """Whether the operator has said that this version must not serve."""
        return any(
            entry.spec.model.name == pin.name and entry.spec.number == pin.version and rejected(entry)
            for entry in self.observed.foundation_versions
        )


def candidates(
    observed: ObservedExpert, judged: Sequence[Judged], failed: Sequence[FailedRevision], now: datetime
) -> tuple[RevisionCandidate, ...]:
    """All candidates, newest first, down to the stable version."""
    return tuple(_candidates(observed, judged, {entry.revision for entry in failed}, now))


def against_canary(observed: ObservedExpert, judged: Sequence[Judged]) -> str:
    """Why the running canary must not go on, whatever else could serve; empty where nothing speaks against it."""
    canary = observed.model.status.canary
    if canary is None:
        return ""
    pin, own = canary.foundation, (canary.version, canary.digest)
    if ServableFoundations(observed).rejected(pin):
        return f"{pin.name} v{pin.version}, which it reads, is rejected"
    same = any((entry.number, entry.version.spec.digest) == own for entry in accepted(judged))
    return "" if same else f"v{canary.version} is no longer an accepted version"


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
