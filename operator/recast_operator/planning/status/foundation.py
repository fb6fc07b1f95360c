"""What a foundation's status says: facts into conditions, numbers into the strings of the printer columns."""

from __future__ import annotations

from recast_api.resources import FoundationModelStatus, LineageStatus
from recast_api.resources.foundation import FoundationSummary, FoundationVersionRef
from recast_operator.children.labels import FOUNDATION_SERVER, selector_text
from recast_operator.planning import holds
from recast_operator.planning.facts import FoundationFacts
from recast_operator.planning.fleet.lineages import busiest, lineage_deployment, server_ready
from recast_operator.planning.fleet.members import reads, unreadable
from recast_operator.planning.fleet.pilots import held, missing, pilots
from recast_operator.planning.status import messages, training
from recast_operator.planning.status.conditions import ConditionUpdate, merge
from recast_operator.planning.status.pod_diagnosis import Trouble, diagnose
from recast_operator.planning.training import known
from recast_operator.planning.versions import verdict


def foundation_status(facts: FoundationFacts) -> FoundationModelStatus:
    """The complete new status."""
    before, lead = facts.model.status, facts.lead
    newest = verdict.newest_landed(facts.judged)
    generation = facts.model.metadata.generation
    trained = training.trained(facts.training_inputs, facts.training)
    scaled = busiest(facts.lineages, lead.current)
    conditions = [_ready(facts), _reconciling(facts), _stalled(facts), trained, _promoted(facts)]
    return FoundationModelStatus(
        observed_generation=generation,
        conditions=merge(before.conditions, conditions, generation, facts.now),
        last_number=facts.training.last_number,
        trained_inputs_hash=facts.training.trained,
        run=facts.training.run,
        failures=list(facts.training.failures),
        latest=newest.number if newest else None,
        candidate=lead.candidate,
        current=lead.current,
        lineages=list(facts.lineages),
        wave=facts.wave,
        replicas=scaled.replicas if scaled else 0,
        selector=_selector(facts.model.metadata.name, scaled),
        summary=_summary(facts),
    )


def _selector(model: str, scaled: LineageStatus | None) -> str:
    return selector_text(FOUNDATION_SERVER, model, **({"lineage": str(scaled.lineage)} if scaled else {}))


def _summary(facts: FoundationFacts) -> FoundationSummary:
    lead, wave = facts.lead, facts.wave
    return FoundationSummary(
        current=f"v{lead.current.version}" if lead.current else "",
        candidate=f"v{lead.candidate.version}" if lead.candidate else "",
        experts=f"{wave.on_newest}/{wave.experts} on v{lead.newest.version}" if lead.newest else "",
    )


def _servers_trouble(facts: FoundationFacts) -> Trouble | None:
    newest = facts.lead.newest
    deployment = lineage_deployment(facts.observed, newest.lineage) if newest else None
    return diagnose(deployment.pods, "spec.serving.image") if deployment else None


def _story(facts: FoundationFacts) -> tuple[str, str]:
    """The one thing to know now."""
    lead, wave, candidate = facts.lead, facts.wave, facts.lead.candidate
    problem = _servers_trouble(facts)
    if problem is not None:
        return problem.reason, problem.message
    if candidate is not None:
        return _candidate_story(facts, candidate)
    if wave.granted or wave.waiting:
        waiting = f", {wave.waiting_total} waiting" if wave.waiting_total else ""
        newest = f"v{lead.newest.version}" if lead.newest else "the first version"
        return (
            "RefreshInProgress",
            f"{wave.on_newest}/{wave.experts} experts on {newest}; {messages.join(wave.granted)} refreshing{waiting}",
        )
    if facts.training.run is not None:
        return facts.training.note_reason, facts.training.note
    stalled = _stalled(facts)
    if stalled.status == "True":
        return stalled.reason, stalled.message
    suspended = facts.model.spec.suspend
    if lead.current is None:
        return ("Suspended", messages.SUSPENDED) if suspended else ("NoVersionYet", "no version has been accepted yet")
    note = f"; {messages.SUSPENDED}" if suspended else ""
    return "Serving", f"v{lead.current.version} is read by {wave.on_newest}/{wave.experts} experts{note}"


def _candidate_story(facts: FoundationFacts, candidate: FoundationVersionRef) -> tuple[str, str]:
    """What a candidate waits for."""
    if not server_ready(facts.observed, candidate):
        return "ServersStarting", f"servers of v{candidate.version} are starting"
    stalled = _stalled(facts)
    if stalled.reason in ("ExpertUnreadable", "PilotCannotFollow"):
        return stalled.reason, stalled.message
    waiting = [pilot.name for pilot in pilots(facts.observed) if not reads(pilot, facts.observed, candidate)]
    absent = missing(facts.observed)
    passed = f"; no expert {messages.join(absent)} reads this foundation: correct spec.fleet.pilots" if absent else ""
    return "PilotsRefreshing", f"v{candidate.version} waits for its pilots: {messages.join(waiting)}{passed}"


def _ready(facts: FoundationFacts) -> ConditionUpdate:
    reason, message = _story(facts)
    current = facts.lead.current
    deployment = lineage_deployment(facts.observed, current.lineage) if current else None
    if deployment is not None and deployment.ready > 0:
        return ConditionUpdate("Ready", "True", reason, message)
    if current is not None and reason == "Serving":
        return ConditionUpdate(
            "Ready",
            "False",
            "ServersNotReady",
            f"no server of v{current.version} is ready; experts fall back to the absent TAE",
        )
    return ConditionUpdate("Ready", "False", reason, message)


def _reconciling(facts: FoundationFacts) -> ConditionUpdate:
    lead, wave = facts.lead, facts.wave
    moving = facts.training.run is not None or lead.candidate is not None or bool(wave.granted or wave.waiting)
    behind = lead.current is not None and not server_ready(facts.observed, lead.current)
    if not moving and not behind:
        return ConditionUpdate("Reconciling", "False", "Settled")
    reason, message = _story(facts)
    if not moving and reason == "Serving":
        return ConditionUpdate(
            "Reconciling", "True", "ServersStarting", "not all servers of the current version are ready"
        )
    return ConditionUpdate("Reconciling", "True", reason, message)


def _stalled(facts: FoundationFacts) -> ConditionUpdate:
    """What a person must act on, the gravest first."""
    unclear = holds.stalled(facts.observed.doubts)
    if unclear is not None:
        return unclear
    observed, lead = facts.observed, facts.lead
    if facts.model.metadata.deletion_timestamp is not None and facts.users:
        return ConditionUpdate("Stalled", "True", "InUse", messages.pinned(facts.model.metadata.name, facts.users))
    if names := unreadable(observed):
        return ConditionUpdate("Stalled", "True", "ExpertUnreadable", messages.experts_unreadable(names))
    if lead.candidate is not None and (waits := held(observed, lead.candidate)):
        text = messages.pilots_held(lead.candidate.version, waits)
        return ConditionUpdate("Stalled", "True", "PilotCannotFollow", text)
    if lead.crowded_out is not None:
        text = messages.too_many_lineages(lead.crowded_out, facts.lineages)
        return ConditionUpdate("Stalled", "True", "TooManyLineages", text)
    none = ConditionUpdate("Stalled", "False", "Progressing")
    if facts.training.run is not None:
        return none
    return training.stalled(facts.training_inputs, facts.training) or none


def _promoted(facts: FoundationFacts) -> ConditionUpdate:
    lead = facts.lead
    if lead.candidate is not None:
        reason, message = _story(facts)
        return ConditionUpdate("Promoted", "False", reason, message)
    rejected = known.rejection(facts.training_inputs)
    if rejected is not None:
        return ConditionUpdate("Promoted", "False", rejected.reason, f"v{rejected.number}: {rejected.message}")
    if lead.current is None:
        return ConditionUpdate("Promoted", "False", "NoVersionYet", "no version has been accepted yet")
    return ConditionUpdate("Promoted", "True", "Promoted", f"v{lead.current.version} is the current version")
