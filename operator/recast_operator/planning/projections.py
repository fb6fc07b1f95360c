"""What a foundation reads of an expert, and an expert of a foundation: the smallest value that decides.

Whoever writes on a model wakes the other side only where its projection has changed (:mod:`recast_operator.wakeups`).
A field that planning begins to read of the other side belongs here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recast_api.resources import ExpertModel, FoundationModel, FoundationPin
from recast_operator.planning.snapshot import FailedTrial, FleetMember, FoundationView, LineagePin


def fleet_member(expert: ExpertModel) -> FleetMember:
    """An expert as its foundation sees it."""
    spec, status = expert.spec, expert.status
    return FleetMember(
        name=expert.metadata.name,
        foundation=spec.foundation_ref.name,
        stable=_pin(status.stable.foundation) if status.stable else None,
        canary=_pin(status.canary.foundation) if status.canary else None,
        retiring=tuple(dict.fromkeys(_pin(entry.foundation) for entry in status.retiring)),
        refresh_since=status.refresh.since if status.refresh else "",
        training=status.run is not None,
        failed_trials=tuple(
            FailedTrial(entry.foundation_version, entry.reason, entry.message, entry.time, entry.serving_changed)
            for entry in status.failed_revisions
            if entry.foundation_name in ("", spec.foundation_ref.name)
        ),
        suspended=spec.suspend,
        follows_majors="FoundationMajor" in spec.refresh.triggers,
        deleting=expert.metadata.deletion_timestamp is not None,
    )


def unreadable_member(raw: Mapping[str, Any]) -> FleetMember:
    """An expert that this operator cannot read: all pins that can be made out in its raw status. Never raises."""
    return FleetMember(name=str(raw["metadata"]["name"]), foundation="", retiring=raw_pins(raw), readable=False)


def raw_pins(raw: Mapping[str, Any]) -> tuple[LineagePin, ...]:
    """Whatever in a raw status looks like a pin, at any depth: a newer operator may keep pins where this one knows no
    field. A lineage without a version counts too: what must go on serving is the lineage."""
    found: dict[LineagePin, None] = {}
    left: list[Any] = [raw.get("status")]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            name, lineage, version = value.get("name"), _number(value.get("lineage")), _number(value.get("version"))
            if isinstance(name, str) and name and lineage:
                digest = value.get("digest")
                found[LineagePin(name, lineage, version, digest if isinstance(digest, str) else "")] = None
        elif isinstance(value, list):
            left += value
    return tuple(sorted(found, key=lambda pin: (pin.name, pin.lineage, pin.version, pin.digest)))


def foundation_view(model: FoundationModel, expert: str) -> FoundationView:
    """A foundation as the expert of that name sees it."""
    status, fleet = model.status, model.spec.fleet
    return FoundationView(
        name=model.metadata.name,
        models_claim=model.spec.storage.persistent_volume_claim.claim_name,
        data=model.spec.data,
        pilot=expert in fleet.pilots,
        granted=expert in status.wave.granted,
        slots=fleet.max_concurrent_refreshes,
        current=status.current,
        candidate=status.candidate,
        ready_lineages=frozenset(entry.lineage for entry in status.lineages if entry.ready_replicas > 0),
    )


def _pin(pin: FoundationPin) -> LineagePin:
    return LineagePin(pin.name, pin.lineage, pin.version, pin.digest)


def _number(value: Any) -> int:
    """A positive number, also where it is written as text; else 0."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
