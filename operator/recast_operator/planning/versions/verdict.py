"""The verdict on each version of a model: is it ours, and may it serve?

A verdict is given once and stays: later gates do not judge old versions again. Only two things change it afterwards:
a forged version never had one to lose, and a foundation candidate whose pilot failed is rejected by :func:`reject`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recast_api import names
from recast_api.resources import (
    ExpertModel,
    FoundationModel,
    Gates,
    ModelVersion,
    RunStatus,
)
from recast_operator.planning.plan import Event
from recast_operator.planning.status.conditions import find
from recast_operator.planning.versions.gates import judge

ACCEPTED = "Accepted"


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
    verdict = judge(version.spec, gates)
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
