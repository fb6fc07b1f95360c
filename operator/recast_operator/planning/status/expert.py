"""What an expert's status says: facts into conditions, numbers into the strings of the printer columns."""

from __future__ import annotations

from recast_api.resources import CanaryStatus, ExpertModelStatus, FailedRevision, RevisionStatus
from recast_api.resources.expert import ExpertSummary
from recast_operator.children.labels import EXPERT_SERVER, selector_text
from recast_operator.planning import holds
from recast_operator.planning.facts import ExpertFacts
from recast_operator.planning.status import messages, training
from recast_operator.planning.status.conditions import ConditionUpdate, State, merge
from recast_operator.planning.training import known
from recast_operator.planning.versions import verdict

BROKEN_REFERENCE = ("FoundationNotFound", "FoundationUnreadable")
"""Reasons that outweigh all others but a canary's."""


def expert_status(facts: ExpertFacts) -> ExpertModelStatus:
    """The complete new status."""
    before, rollout = facts.model.status, facts.rollout
    meta = facts.model.metadata
    newest = verdict.newest_landed(facts.judged)
    trained = training.trained(facts.training_inputs, facts.training)
    conditions = [_ready(facts), _reconciling(facts), _stalled(facts), trained, _promoted(facts), _stale(facts)]
    canary = _seen(facts, rollout.canary)
    return ExpertModelStatus(
        observed_generation=meta.generation,
        conditions=merge(before.conditions, conditions, meta.generation, facts.now),
        last_number=facts.training.last_number,
        trained_inputs_hash=facts.training.trained,
        run=facts.training.run,
        failures=list(facts.training.failures),
        refresh=facts.refresh,
        latest=newest.number if newest else None,
        stable=_seen(facts, rollout.stable),
        canary=canary if isinstance(canary, CanaryStatus) else None,
        previous=rollout.previous,
        retiring=list(rollout.retiring),
        failed_revisions=list(rollout.failed),
        handled_requests=list(facts.request.handled),
        last_request=facts.request.last,
        replicas=sum(entry.replicas for entry in facts.rollout_inputs.endpoints.values()),
        selector=selector_text(EXPERT_SERVER, meta.name),
        summary=_summary(facts),
    )


def _seen(facts: ExpertFacts, revision: RevisionStatus | None) -> RevisionStatus | None:
    if revision is None:
        return None
    have = facts.rollout_inputs.of(revision)
    return revision.model_copy(update={"replicas": have.replicas, "ready_replicas": have.ready})


def _summary(facts: ExpertFacts) -> ExpertSummary:
    stable, canary = facts.rollout.stable, facts.rollout.canary
    foundation = facts.model.spec.foundation_ref.name
    return ExpertSummary(
        stable=messages.pair(stable, foundation) if stable else "",
        canary=messages.pair(canary, foundation) if canary else "",
        weight=f"{canary.actual_weight}%" if canary else "",
    )


def _canary_story(facts: ExpertFacts, canary: CanaryStatus) -> tuple[str, str]:
    name = facts.name(canary)
    trouble = facts.rollout_inputs.trouble
    if trouble is not None and canary.message.startswith(trouble.message[:1024]):
        return trouble.reason, f"{name}: {canary.message}"
    notes = [canary.message, _held_back(facts)]
    note = "".join(f"; {entry}" for entry in notes if entry)
    if canary.state == "Initial":
        return (
            "FirstRevisionStarting",
            f"{name}: {facts.rollout_inputs.of(canary).ready} of {facts.rollout_inputs.replicas} pods ready{note}",
        )
    if canary.state == "Promoting":
        return "Promoting", f"{name} grows to {facts.rollout_inputs.replicas} pods{note}"
    if canary.weight_since is None:
        return "CanaryStarting", f"{name} moves to {canary.desired_weight}%{note}"
    waiting = messages.worst(canary.results)
    return (
        "CanaryAnalysing",
        f"{name} has {canary.desired_weight}% since {canary.weight_since}{f'; {waiting}' if waiting else ''}{note}",
    )


def _serves(facts: ExpertFacts, stable: RevisionStatus) -> str:
    """Who has the traffic now, and what newer revision does not get any."""
    ready, wanted = facts.rollout_inputs.of(stable).ready, facts.rollout_inputs.replicas
    now = messages.serves(facts.name(stable), ready, wanted, facts.shares)
    waiting = _held_back(facts)
    return f"{now}; {waiting}" if waiting else now


def _held_back(facts: ExpertFacts) -> str:
    """Why the newest that could serve is not rolled out, where something keeps it."""
    canary, desired = facts.rollout.canary, facts.selection.desired
    if canary is not None and desired is not None and desired.revision != canary.revision:
        return messages.held_back(
            facts.name(desired), f"{facts.name(canary)} has passed all steps and is promoted first"
        )
    newest = next(iter(facts.selection.held_back), None)
    return messages.held_back(facts.name(newest.revision), newest.objection) if newest else ""


def _failed_before(facts: ExpertFacts, record: FailedRevision) -> str:
    """What failed, and who serves now: the record is of the moment when it failed."""
    stable = facts.rollout.stable
    if stable is None:
        return record.message
    now = f" Now {_serves(facts, stable)}."
    return record.message[: 1024 - len(now)] + now


def _foundation_fact(facts: ExpertFacts) -> tuple[str, str] | None:
    """What is wrong with the reference, if anything."""
    model, target = facts.model, facts.target
    name = model.spec.foundation_ref.name
    if name in facts.observed.unreadable_foundations:
        return "FoundationUnreadable", messages.foundation_unreadable(name)
    if target.foundation is None:
        names = facts.observed.foundation_names
        return "FoundationNotFound", messages.foundation_not_found(name, model.metadata.namespace, names)
    if target.version is None:
        return "FoundationNotReady", messages.foundation_not_ready(name, model.spec.suspend)
    return None


def _story(facts: ExpertFacts) -> tuple[str, str]:
    """The one thing to know now."""
    rollout = facts.rollout
    foundation = _foundation_fact(facts)
    if rollout.canary is not None:
        return _canary_story(facts, rollout.canary)
    if foundation is not None and (foundation[0] in BROKEN_REFERENCE or rollout.stable is None):
        return foundation
    if facts.training.run is not None:
        return facts.training.note_reason, facts.training.note
    if facts.refresh is not None:
        return _waiting(facts, facts.refresh.message)
    stalled = _stalled(facts)
    if stalled.status == "True":
        return stalled.reason, stalled.message
    if rollout.stable is None:
        return (
            ("Suspended", messages.SUSPENDED)
            if facts.model.spec.suspend
            else ("NoVersionYet", "no version has landed yet")
        )
    return "Serving", _serves(facts, rollout.stable)


def _waiting(facts: ExpertFacts, why: str) -> tuple[str, str]:
    foundation = facts.target.foundation
    if foundation is None or facts.target.granted:
        return "RefreshStarting", why
    return "WaitingForSlot", messages.waiting_for_slot(why, foundation.slots)


def _ready(facts: ExpertFacts) -> ConditionUpdate:
    reason, message = _story(facts)
    stable, canary = facts.rollout.stable, facts.rollout.canary
    ready = facts.rollout_inputs.of(stable).ready + (facts.rollout_inputs.of(canary).ready if stable else 0)
    if stable is not None and ready > 0:
        return ConditionUpdate("Ready", "True", reason, message)
    if stable is not None and reason == "Serving":
        return ConditionUpdate("Ready", "False", "ServersNotReady", message)
    return ConditionUpdate("Ready", "False", reason, message)


def _reconciling(facts: ExpertFacts) -> ConditionUpdate:
    rollout = facts.rollout
    if rollout.canary is None and facts.training.run is None and facts.refresh is None:
        stable, wanted = rollout.stable, facts.rollout_inputs.replicas
        ready = facts.rollout_inputs.of(stable).ready
        if stable is not None and ready < wanted:
            text = messages.pods_missing(facts.name(stable), ready, wanted)
            return ConditionUpdate("Reconciling", "True", "ServersStarting", text)
        return ConditionUpdate("Reconciling", "False", "Settled")
    return ConditionUpdate("Reconciling", "True", *_story(facts))


def _stalled(facts: ExpertFacts) -> ConditionUpdate:
    unclear = holds.stalled(facts.observed.doubts)
    if unclear is not None:
        return unclear
    foundation = _foundation_fact(facts)
    if foundation is not None and foundation[0] in BROKEN_REFERENCE:
        return ConditionUpdate("Stalled", "True", *foundation)
    if facts.training_inputs.unreadable_versions and (
        unread := training.stalled(facts.training_inputs, facts.training)
    ):
        return unread
    if facts.rollout.canary is not None or facts.training.run is not None:
        return ConditionUpdate("Stalled", "False", "Progressing")
    failed = known.failure(facts.training_inputs, facts.training)
    stuck = training.stalled(facts.training_inputs, facts.training) if facts.violation is not None else None
    if stuck is not None and failed is not None:
        return stuck
    record = facts.failed_record
    if record is not None:
        return ConditionUpdate("Stalled", "True", record.reason, _failed_before(facts, record))
    return stuck or ConditionUpdate("Stalled", "False", "Progressing")


def _promoted(facts: ExpertFacts) -> ConditionUpdate:
    rollout = facts.rollout
    if rollout.canary is not None:
        return ConditionUpdate("Promoted", "False", *_canary_story(facts, rollout.canary))
    record = facts.failed_record
    if record is not None:
        return ConditionUpdate("Promoted", "False", record.reason, _failed_before(facts, record))
    if rollout.stable is None:
        return ConditionUpdate("Promoted", "False", "NoVersionYet", "no revision has been promoted yet")
    return ConditionUpdate("Promoted", "True", "Promoted", _serves(facts, rollout.stable))


def _stale(facts: ExpertFacts) -> ConditionUpdate:
    if facts.violation is None:
        state: State = "False" if facts.target.foundation is not None else "Unknown"
        foundation = _foundation_fact(facts)
        return (
            ConditionUpdate("Stale", state, "Fresh")
            if foundation is None
            else ConditionUpdate("Stale", state, *foundation)
        )
    text = facts.violation.message
    if facts.refresh is None:
        stalled = _stalled(facts)
        why = stalled.message if stalled.status == "True" else messages.SUSPENDED if facts.model.spec.suspend else ""
        text = f"{text}; {why}" if why else text
    elif facts.training.run is None:
        text = _waiting(facts, text)[1]
    return ConditionUpdate("Stale", "True", facts.violation.reason, text)
