"""What an expert's status says: facts into conditions, numbers into the strings of the printer columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recast_api.resources import CanaryStatus, ExpertModelStatus, FailedRevision, RevisionStatus
from recast_api.resources.expert import ExpertSummary
from recast_operator.children.labels import EXPERT_SERVER
from recast_operator.planning import foundation_status, messages, training, versions
from recast_operator.planning.conditions import Fact, State, merge

if TYPE_CHECKING:
    from recast_operator.planning.expert import ExpertPass

LABELS = "recast.dev/kind={kind},recast.dev/model={model}"


def status(found: ExpertPass) -> ExpertModelStatus:
    """The complete new status."""
    before, ledger, course = found.model.status, found.ledger, found.course
    meta = found.model.metadata
    newest = versions.newest_landed(found.judged)
    facts = [_ready(found), _reconciling(found), _stalled(found), _trained(found), _promoted(found), _stale(found)]
    canary = _seen(found, course.canary)
    return ExpertModelStatus(
        observed_generation=meta.generation,
        conditions=merge(before.conditions, facts, meta.generation, found.now),
        last_number=ledger.last_number,
        trained_inputs_hash=ledger.trained,
        run=ledger.run,
        failures=list(ledger.failures),
        refresh=found.refresh,
        latest=newest.number if newest else None,
        stable=_seen(found, course.stable),
        canary=canary if isinstance(canary, CanaryStatus) else None,
        failed_revisions=list(course.failed),
        handled_requests=list(found.handled),
        replicas=sum(entry.replicas for entry in found.scene.endpoints.values()),
        selector=LABELS.format(kind=EXPERT_SERVER, model=meta.name),
        summary=_summary(found),
    )


def _seen(found: ExpertPass, revision: RevisionStatus | None) -> RevisionStatus | None:
    if revision is None:
        return None
    have = found.scene.of(revision)
    return revision.model_copy(update={"replicas": have.replicas, "ready_replicas": have.ready})


def _summary(found: ExpertPass) -> ExpertSummary:
    stable, canary = found.course.stable, found.course.canary
    return ExpertSummary(
        stable=messages.pair(stable) if stable else "",
        canary=messages.pair(canary) if canary else "",
        weight=f"{canary.actual_weight}%" if canary else "",
    )


def _canary_story(found: ExpertPass, canary: CanaryStatus) -> tuple[str, str]:
    name = messages.pair(canary)
    if found.scene.trouble is not None and canary.message == found.scene.trouble.message:
        return found.scene.trouble.reason, f"{name}: {canary.message}"
    note = f"; {canary.message}" if canary.message else ""
    if canary.state == "Initial":
        return (
            "FirstRevisionStarting",
            f"{name}: {found.scene.of(canary).ready} of {found.scene.replicas} pods ready{note}",
        )
    if canary.state == "Promoting":
        return "Promoting", f"{name} grows to {found.scene.replicas} pods{note}"
    if canary.weight_since is None:
        return "CanaryStarting", f"{name} moves to {canary.desired_weight}%{note}"
    waiting = messages.worst(canary.results)
    return (
        "CanaryAnalysing",
        f"{name} has {canary.desired_weight}% since {canary.weight_since}{f'; {waiting}' if waiting else ''}{note}",
    )


def _foundation_fact(found: ExpertPass) -> tuple[str, str] | None:
    """What is wrong with the reference, if anything."""
    model, reading = found.model, found.reading
    name = model.spec.foundation_ref.name
    if reading.foundation is None:
        known = [entry.metadata.name for entry in found.observed.foundations]
        return "FoundationNotFound", messages.foundation_not_found(name, model.metadata.namespace, known)
    if reading.target is None:
        return "FoundationNotReady", messages.foundation_not_ready(name)
    return None


def failed_record(found: ExpertPass) -> FailedRevision | None:
    """What is remembered of the revision that would be rolled out, had it not failed."""
    if found.blocked is None:
        return None
    return next((entry for entry in found.course.failed if entry.revision == found.blocked.revision), None)


def _story(found: ExpertPass) -> tuple[str, str]:
    """The one thing to know now."""
    course, ledger = found.course, found.ledger
    foundation = _foundation_fact(found)
    if course.canary is not None:
        return _canary_story(found, course.canary)
    if foundation is not None and (foundation[0] == "FoundationNotFound" or course.stable is None):
        return foundation
    if ledger.run is not None:
        return ledger.note_reason, ledger.note
    if found.refresh is not None:
        return _waiting(found, found.refresh.message)
    stalled = _stalled(found)
    if stalled.status == "True":
        return stalled.reason, stalled.message
    if course.stable is None:
        return (
            ("Suspended", "spec.suspend is set")
            if found.model.spec.suspend
            else ("NoVersionYet", "no version has landed yet")
        )
    return "Serving", f"{messages.pair(course.stable)} serves 100%"


def _waiting(found: ExpertPass, why: str) -> tuple[str, str]:
    foundation = found.reading.foundation
    if foundation is None or found.reading.granted:
        return "RefreshStarting", why
    wave = foundation.status.wave
    return "WaitingForSlot", messages.waiting_for_slot(
        why, wave.granted, foundation.spec.fleet.max_concurrent_refreshes
    )


def _ready(found: ExpertPass) -> Fact:
    reason, message = _story(found)
    stable, canary = found.course.stable, found.course.canary
    ready = found.scene.of(stable).ready + (found.scene.of(canary).ready if stable else 0)
    if stable is not None and ready > 0:
        return Fact("Ready", "True", reason, message)
    if stable is not None and reason == "Serving":
        return Fact("Ready", "False", "ServersNotReady", f"no pod of {messages.pair(stable)} is ready")
    return Fact("Ready", "False", reason, message)


def _reconciling(found: ExpertPass) -> Fact:
    course = found.course
    if course.canary is None and found.ledger.run is None and found.refresh is None:
        behind = course.stable is not None and found.scene.of(course.stable).ready < found.scene.replicas
        if behind:
            return Fact("Reconciling", "True", "ServersStarting", "not all pods of the stable revision are ready")
        return Fact("Reconciling", "False", "Settled")
    return Fact("Reconciling", "True", *_story(found))


def _stalled(found: ExpertPass) -> Fact:
    foundation = _foundation_fact(found)
    if foundation is not None and foundation[0] == "FoundationNotFound":
        return Fact("Stalled", "True", *foundation)
    if found.course.canary is not None or found.ledger.run is not None:
        return Fact("Stalled", "False", "Progressing")
    failed = training.failure(found.ledger, found.shop.wanted or "")
    if failed is not None and found.violation is not None:
        text = messages.run_failed(failed)
        return Fact("Stalled", "True", failed.reason, text)
    record = failed_record(found)
    if record is not None:
        return Fact("Stalled", "True", record.reason, record.message)
    newest = versions.newest_landed(found.judged)
    if newest is not None and not newest.accepted and found.violation is not None:
        return Fact("Stalled", "True", newest.reason, f"v{newest.number} is rejected: {newest.message}")
    return Fact("Stalled", "False", "Progressing")


def _trained(found: ExpertPass) -> Fact:
    failed = training.failure(found.ledger, found.shop.wanted or "")
    newest = versions.newest_landed(found.judged)
    return foundation_status.trained(
        found.ledger, failed.reason if failed else "", failed.message if failed else "", newest
    )


def _promoted(found: ExpertPass) -> Fact:
    course = found.course
    if course.canary is not None:
        return Fact("Promoted", "False", *_canary_story(found, course.canary))
    record = failed_record(found)
    if record is not None:
        return Fact("Promoted", "False", record.reason, record.message)
    if course.stable is None:
        return Fact("Promoted", "False", "NoVersionYet", "no revision has been promoted yet")
    return Fact("Promoted", "True", "Promoted", f"{messages.pair(course.stable)} serves 100%")


def _stale(found: ExpertPass) -> Fact:
    if found.violation is None:
        known: State = "False" if found.reading.foundation is not None else "Unknown"
        foundation = _foundation_fact(found)
        return Fact("Stale", known, "Fresh") if foundation is None else Fact("Stale", known, *foundation)
    text = found.violation.message
    if found.refresh is None:
        stalled = _stalled(found)
        text = f"{text}; {stalled.message}" if stalled.status == "True" else text
    elif found.ledger.run is None:
        text = _waiting(found, text)[1]
    return Fact("Stale", "True", found.violation.reason, text)
