"""The versions of one model: which are ours, which may serve, and what to write on them.

A verdict is given once and stays: later gates do not judge old versions again. Only two things change it afterwards:
a forged version never had one to lose, and a foundation candidate whose pilot failed is rejected by :func:`reject`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api import names
from recast_api.resources import (
    Condition,
    ExpertModel,
    FoundationModel,
    Gates,
    ModelVersion,
    ModelVersionStatus,
    RunStatus,
)
from recast_api.resources.version import VersionSummary
from recast_operator.planning import gates as gate_chain
from recast_operator.planning.conditions import Fact, find, merge
from recast_operator.planning.outcome import Event, Object, VersionWrite

ACCEPTED = "Accepted"
RETIRED = "Retired"


@dataclass(frozen=True)
class Judged:
    """A version with its verdict."""

    version: ModelVersion
    ours: bool
    accepted: bool
    reason: str
    message: str
    new: bool
    """The verdict was given in this pass."""

    @property
    def number(self) -> int:
        """The version's number."""
        return self.version.spec.number


def judge_all(
    model: FoundationModel | ExpertModel, versions: Sequence[ModelVersion], gates: Gates
) -> tuple[Judged, ...]:
    """All versions under this model's name, oldest first."""
    run = model.status.run
    return tuple(_judge(model, entry, gates, run) for entry in sorted(versions, key=lambda entry: entry.spec.number))


def _judge(model: FoundationModel | ExpertModel, version: ModelVersion, gates: Gates, run: RunStatus | None) -> Judged:
    objection = _foreign(model, version, run)
    known = find(version.status.conditions, ACCEPTED)
    if objection is not None:
        settled = known is not None and known.status == "False"
        return Judged(version, False, False, "UnknownRun", objection, not settled)
    if known is not None:
        return Judged(version, True, known.status == "True", known.reason, known.message, False)
    verdict = gate_chain.judge(version.spec, gates)
    return Judged(version, True, verdict.accepted, verdict.reason, verdict.message, True)


def _foreign(model: FoundationModel | ExpertModel, version: ModelVersion, run: RunStatus | None) -> str | None:
    spec, meta = version.spec, model.metadata
    if spec.model.uid != meta.uid:
        return (
            f"spec.model.uid {spec.model.uid} is not {model.kind} {meta.name}'s ({meta.uid}): another model made it. "
            "It is never served; delete it"
        )
    if spec.run is None:
        return None
    expected = names.job(model.kind, meta.name, spec.number, spec.run.attempt)
    same_inputs = run is None or run.number != spec.number or run.inputs_hash == spec.run.inputs_hash
    if spec.run.job_name == expected and same_inputs:
        return None
    return (
        f"spec.run names {spec.run.job_name}, no run of {model.kind} {meta.name} that could land v{spec.number} "
        f"(expected {expected}). It is never served; delete it"
    )


def accepted(judged: Sequence[Judged]) -> tuple[Judged, ...]:
    """Those that may serve, oldest first."""
    return tuple(entry for entry in judged if entry.accepted)


def newest_landed(judged: Sequence[Judged]) -> Judged | None:
    """The newest version of ours, whatever its verdict."""
    return max((entry for entry in judged if entry.ours), key=lambda entry: entry.number, default=None)


def by_number(judged: Sequence[Judged], number: int) -> Judged | None:
    """Our version of that number."""
    return next((entry for entry in judged if entry.ours and entry.number == number), None)


def reject(judged: Sequence[Judged], number: int, reason: str, message: str) -> tuple[Judged, ...]:
    """The same, with one version's verdict turned to rejected."""
    return tuple(
        Judged(entry.version, entry.ours, False, reason, message, True)
        if entry.ours and entry.number == number
        else entry
        for entry in judged
    )


def rejected(version: ModelVersion) -> bool:
    """Whether the operator has said that this version must not serve."""
    condition = find(version.status.conditions, ACCEPTED)
    return condition is not None and condition.status == "False"


def events(judged: Sequence[Judged]) -> tuple[Event, ...]:
    """The verdicts of this pass, told once: the next pass finds them written."""
    return tuple(_event(entry) for entry in judged if entry.new)


def _event(judged: Judged) -> Event:
    if judged.accepted:
        return Event("Normal", "VersionAccepted", f"v{judged.number}: {judged.message}")
    return Event("Warning", "VersionRejected", f"{judged.version.metadata.name}: {judged.reason}: {judged.message}")


def writes(
    judged: Sequence[Judged], owner: Object, used_by: dict[int, int], retired: frozenset[int], now: datetime
) -> tuple[VersionWrite, ...]:
    """What must be written on the versions: verdicts, summaries, our owner reference on those of our own runs."""
    planned = (_write(entry, owner, used_by.get(entry.number, 0), entry.number in retired, now) for entry in judged)
    return tuple(entry for entry in planned if entry is not None)


def _write(judged: Judged, owner: Object, used_by: int, retired: bool, now: datetime) -> VersionWrite | None:
    version = judged.version
    adopt = judged.ours and version.spec.run is not None and not version.metadata.owner_references
    status = _status(judged, used_by, retired, now)
    changed = status != version.status
    if not adopt and not changed:
        return None
    return VersionWrite(
        name=version.metadata.name,
        resource_version=version.metadata.resource_version,
        owner=owner if adopt else None,
        status=status if changed else None,
    )


def _status(judged: Judged, used_by: int, retired: bool, now: datetime) -> ModelVersionStatus:
    version = judged.version
    facts = [Fact(ACCEPTED, "True" if judged.accepted else "False", judged.reason, judged.message)]
    was_retired = find(version.status.conditions, RETIRED) is not None
    if retired or was_retired:
        facts.append(
            Fact(
                RETIRED,
                "True",
                "Superseded",
                "a newer version has taken over and nobody pins this one; its servers are gone",
            )
        )
    measured = gate_chain.quality(version.spec.measurements)
    state = "Retired" if retired or was_retired else "Accepted" if judged.accepted else "Rejected"
    conditions: list[Condition] = merge(version.status.conditions, facts, version.metadata.generation, now)
    return ModelVersionStatus(
        observed_generation=version.metadata.generation,
        conditions=conditions,
        summary=VersionSummary(state=state, ne=measured.ne_text, change=measured.change_text, used_by=used_by),
    )
