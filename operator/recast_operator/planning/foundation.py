"""One pass over a FoundationModel: judge → train → lead → lineages and wave → plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from recast_api.names import FINALIZER_IN_USE
from recast_api.resources import FoundationModelStatus
from recast_operator.planning.child_changes import foundation_children, owner_reference
from recast_operator.planning.clock import earliest
from recast_operator.planning.facts import FoundationFacts
from recast_operator.planning.fleet import lineages
from recast_operator.planning.fleet.lead import lead
from recast_operator.planning.fleet.members import members, unreadable
from recast_operator.planning.fleet.wave import wave
from recast_operator.planning.holds import held, judgeable
from recast_operator.planning.plan import Event, Plan, SubmitRun, VersionWrite
from recast_operator.planning.snapshot import ObservedFoundation
from recast_operator.planning.status import foundation as status
from recast_operator.planning.status import messages
from recast_operator.planning.status.conditions import transitions
from recast_operator.planning.training import known, lifecycle
from recast_operator.planning.training.inputs import TrainingInputs, foundation_inputs
from recast_operator.planning.training.run_spec import foundation_run
from recast_operator.planning.training.state import remembered
from recast_operator.planning.versions import retention, verdict
from recast_operator.planning.versions.verdict import Judged


def plan_foundation(observed: ObservedFoundation, now: datetime) -> Plan[FoundationModelStatus]:
    """Decide everything about a foundation."""
    judged = verdict.judge_all(observed.model, judgeable(observed.versions, observed.doubts), observed.model.spec.gates)
    inputs = _training_inputs(observed, judged, now)
    training = remembered(observed.model.status)
    if not held(observed.doubts, "Run"):
        training = lifecycle.advance(inputs, training)
    if known.is_due(inputs, training):
        training = lifecycle.reserve(inputs, training, observed.versions)
    leading = lead(observed, inputs)
    return _plan(
        FoundationFacts(
            observed=observed,
            now=now,
            judged=leading.judged,
            training_inputs=replace(inputs, judged=leading.judged),
            training=training,
            lead=leading,
            wave=wave(observed, leading.newest),
            lineages=lineages.lineages(observed, leading.judged, leading.served, now),
            users=_users(observed),
        )
    )


def _plan(facts: FoundationFacts) -> Plan[FoundationModelStatus]:
    new = status.foundation_status(facts)
    children = foundation_children(facts.observed, facts.lineages, facts.served, facts.now)
    gone = children.deletions if not unreadable(facts.observed) else ()
    return Plan(
        status=new,
        confirm=facts.training.confirm,
        finalizers=_finalizers(facts),
        versions=_version_writes(facts),
        apply=children.apply,
        scales=children.scales,
        submit=_submit(facts),
        deletions=(*facts.training.deletions, *gone),
        events=_events(facts, new),
        requeue_after=earliest(_requeue(facts), children.requeue_after),
    )


def _training_inputs(observed: ObservedFoundation, judged: tuple[Judged, ...], now: datetime) -> TrainingInputs:
    meta, spec = observed.model.metadata, observed.model.spec
    return TrainingInputs(
        kind="FoundationModel",
        model=meta.name,
        uid=meta.uid,
        training=spec.training,
        wanted=None if held(observed.doubts, "Training") else foundation_inputs(spec),
        runs=observed.children.runs,
        judged=judged,
        now=now,
        suspended=spec.suspend or meta.deletion_timestamp is not None,
        serving=observed.model.status.current.version if observed.model.status.current else 0,
        on_trial=observed.model.status.candidate.version if observed.model.status.candidate else 0,
        unreadable_versions=observed.unreadable_versions,
        absent_versions=observed.absent_versions,
    )


def _users(observed: ObservedFoundation) -> tuple[str, ...]:
    reading = {expert.name for expert in members(observed)}
    pinning = {name for users in lineages.pins(observed).values() for name in users}
    return tuple(sorted(reading | pinning | set(unreadable(observed))))


def _finalizers(facts: FoundationFacts) -> tuple[str, ...] | None:
    """On from the first pass; off when the foundation is being deleted and nobody reads it."""
    meta = facts.model.metadata
    wanted = meta.deletion_timestamp is None or bool(facts.users)
    has = FINALIZER_IN_USE in meta.finalizers
    if wanted == has or (wanted and meta.deletion_timestamp is not None):
        return None
    if wanted:
        return (*meta.finalizers, FINALIZER_IN_USE)
    return tuple(entry for entry in meta.finalizers if entry != FINALIZER_IN_USE)


def _version_writes(facts: FoundationFacts) -> tuple[VersionWrite, ...]:
    retired = lineages.retired(facts.observed, facts.judged, facts.lead.current, facts.lineages)
    used_by, owner = lineages.used_by(facts.observed), owner_reference(facts.model)
    return retention.writes(facts.judged, owner, facts.now, used_by=used_by, retired=retired)


def _submit(facts: FoundationFacts) -> SubmitRun | None:
    run = facts.training.run
    return foundation_run(facts.model, run, facts.judged) if facts.training.submit and run else None


def _events(facts: FoundationFacts, new: FoundationModelStatus) -> tuple[Event, ...]:
    before, after = facts.model.status, {entry.lineage for entry in new.lineages}
    retired = tuple(
        Event("Normal", "LineageRetired", f"v{entry.version}: nobody pins it any more; its servers are deleted")
        for entry in before.lineages
        if entry.lineage not in after
    )
    granted = sorted(set(new.wave.granted) - set(before.wave.granted))
    slots = (Event("Normal", "SlotGranted", f"{messages.join(granted)} may refresh now"),) if granted else ()
    return (
        *facts.training.events,
        *facts.lead.events,
        *slots,
        *retired,
        *transitions(before.conditions, new.conditions, {"Stalled": "True"}),
    )


def _requeue(facts: FoundationFacts) -> float | None:
    waits = [facts.training.requeue, *(lineages.grace_left(entry, facts.now) for entry in facts.lineages)]
    return min((wait for wait in waits if wait is not None), default=None)
