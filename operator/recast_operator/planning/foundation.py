"""One pass over a FoundationModel, as a list of steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from recast_api.names import FINALIZER_IN_USE
from recast_api.resources import FoundationModel, FoundationModelStatus, LineageStatus, ModelVersion, WaveStatus
from recast_operator.planning import fleet, foundation_status, hashing, messages, render, runs, training, versions
from recast_operator.planning.conditions import transitions
from recast_operator.planning.outcome import Event, Plan, SubmitRun, VersionWrite
from recast_operator.planning.snapshot import ObservedFoundation


@dataclass(frozen=True)
class FoundationPass:
    """Everything a pass found out about a foundation."""

    observed: ObservedFoundation
    now: datetime
    judged: tuple[versions.Judged, ...]
    shop: training.Workshop
    ledger: training.Ledger
    lead: fleet.Lead
    wave: WaveStatus
    lineages: list[LineageStatus]
    users: tuple[str, ...]
    """Experts that read or pin this foundation."""

    @property
    def model(self) -> FoundationModel:
        """The resource."""
        return self.observed.model


def plan_foundation(observed: ObservedFoundation, now: datetime) -> Plan[FoundationModelStatus]:
    """Decide everything about a foundation."""
    judged = versions.judge_all(observed.model, observed.versions, observed.model.spec.gates)
    shop = _workshop(observed, judged, now)
    ledger = training.advance(shop, training.ledger(observed.model.status))
    lead = fleet.lead(observed, judged, now)
    lineages = fleet.lineages(observed, lead, now)
    if training.is_due(shop, ledger):
        ledger = training.reserve(shop, ledger, observed.versions)
    found = FoundationPass(
        observed, now, lead.judged, shop, ledger, lead, fleet.wave(observed, lead), lineages, _users(observed)
    )
    status = foundation_status.status(found)
    children = render.foundation_children(observed.model, lineages, _served(found), observed.children)
    return Plan(
        status=status,
        finalizers=_finalizers(found),
        versions=_version_writes(found),
        apply=children.apply,
        scales=children.scales,
        submit=_submit(found),
        deletions=(*ledger.deletions, *children.deletions),
        events=_events(found, status),
        requeue_after=_requeue(found),
    )


def _workshop(observed: ObservedFoundation, judged: tuple[versions.Judged, ...], now: datetime) -> training.Workshop:
    meta, spec = observed.model.metadata, observed.model.spec
    return training.Workshop(
        kind="FoundationModel",
        model=meta.name,
        uid=meta.uid,
        training=spec.training,
        wanted=hashing.foundation_inputs(spec),
        jobs=observed.children.jobs,
        judged=judged,
        now=now,
        suspended=spec.suspend or meta.deletion_timestamp is not None,
    )


def _users(observed: ObservedFoundation) -> tuple[str, ...]:
    reading = {expert.metadata.name for expert in fleet.members(observed)}
    pinning = {name for users in fleet.pins(observed).values() for name in users}
    return tuple(sorted(reading | pinning))


def _served(found: FoundationPass) -> dict[int, ModelVersion]:
    return {entry.number: entry.version for entry in found.judged if entry.ours}


def _finalizers(found: FoundationPass) -> tuple[str, ...] | None:
    """On from the first pass; off when the foundation is being deleted and nobody reads it."""
    meta = found.model.metadata
    wanted = meta.deletion_timestamp is None or bool(found.users)
    has = FINALIZER_IN_USE in meta.finalizers
    if wanted == has or (wanted and meta.deletion_timestamp is not None):
        return None
    if wanted:
        return (*meta.finalizers, FINALIZER_IN_USE)
    return tuple(entry for entry in meta.finalizers if entry != FINALIZER_IN_USE)


def _version_writes(found: FoundationPass) -> tuple[VersionWrite, ...]:
    gone = fleet.retired(found.lead, found.lineages)
    owner = render.owner_reference(found.model)
    return versions.writes(found.judged, owner, fleet.used_by(found.observed), gone, found.now)


def _submit(found: FoundationPass) -> SubmitRun | None:
    run = found.ledger.run
    return runs.foundation_run(found.model, run, found.judged) if found.ledger.submit and run else None


def _events(found: FoundationPass, status: FoundationModelStatus) -> tuple[Event, ...]:
    before, after = found.model.status, {entry.lineage for entry in status.lineages}
    retired = tuple(
        Event("Normal", "LineageRetired", f"v{entry.version}: nobody pins it any more; its servers are deleted")
        for entry in before.lineages
        if entry.lineage not in after
    )
    granted = sorted(set(status.wave.granted) - set(before.wave.granted))
    slots = (Event("Normal", "SlotGranted", f"{messages.join(granted)} may refresh now"),) if granted else ()
    return (
        *versions.events(found.judged),
        *found.ledger.events,
        *found.lead.events,
        *slots,
        *retired,
        *transitions(before.conditions, status.conditions, {"Stalled": "True"}),
    )


def _requeue(found: FoundationPass) -> float | None:
    grace = [1.0 + fleet.UNPINNED_GRACE_SECONDS] if any(entry.unpinned_since for entry in found.lineages) else []
    retry = [found.ledger.requeue] if found.ledger.requeue is not None else []
    return min([*grace, *retry], default=None)
