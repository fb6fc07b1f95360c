"""What a foundation's status says: facts into conditions, numbers into the strings of the printer columns."""

from __future__ import annotations

from recast_api.resources import FoundationModelStatus
from recast_api.resources.foundation import FoundationSummary
from recast_operator.planning import holds
from recast_operator.planning.facts import FoundationFacts
from recast_operator.planning.fleet.lead import pilots, undecided
from recast_operator.planning.fleet.lineages import lineage_deployment, server_ready
from recast_operator.planning.status import messages
from recast_operator.planning.status.conditions import ConditionUpdate, merge
from recast_operator.planning.status.pod_diagnosis import Trouble, diagnose
from recast_operator.planning.status.training import trained
from recast_operator.planning.training import lifecycle
from recast_operator.planning.versions import verdict


def foundation_status(facts: FoundationFacts) -> FoundationModelStatus:
    """The complete new status."""
    before, training, lead = facts.model.status, facts.training, facts.lead
    newest = verdict.newest_landed(facts.judged)
    generation = facts.model.metadata.generation
    conditions = [_ready(facts), _reconciling(facts), _stalled(facts), _trained(facts), _promoted(facts)]
    return FoundationModelStatus(
        observed_generation=generation,
        conditions=merge(before.conditions, conditions, generation, facts.now),
        last_number=training.last_number,
        trained_inputs_hash=training.trained,
        run=training.run,
        failures=list(training.failures),
        latest=newest.number if newest else None,
        candidate=lead.candidate,
        current=lead.current,
        lineages=list(facts.lineages),
        wave=facts.wave,
        summary=_summary(facts),
    )


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
    lead, wave, training = facts.lead, facts.wave, facts.training
    candidate = lead.candidate
    problem = _servers_trouble(facts)
    if problem is not None:
        return problem.reason, problem.message
    if candidate is not None and not server_ready(facts.observed, candidate.lineage):
        return "ServersStarting", f"servers of v{candidate.version} are starting"
    if candidate is not None:
        names = [pilot.name for pilot in pilots(facts.observed)]
        waits = f"v{candidate.version} waits for its pilots: {messages.join(names)}"
        if again := undecided(facts.observed, candidate):
            waits += (
                f"; {messages.join(again)} rolled it back, but with a changed spec.serving, which may be at fault: "
                "change that back and it is tried again"
            )
        return "PilotsRefreshing", waits
    if wave.granted or wave.waiting:
        waiting = f", {wave.waiting_total} waiting" if wave.waiting_total else ""
        newest = f"v{lead.newest.version}" if lead.newest else "the first version"
        return (
            "RefreshInProgress",
            f"{wave.on_newest}/{wave.experts} experts on {newest}; {messages.join(wave.granted)} refreshing{waiting}",
        )
    if training.run is not None:
        return training.note_reason, training.note
    stalled = _stalled(facts)
    if stalled.status == "True":
        return stalled.reason, stalled.message
    if lead.current is None:
        return "NoVersionYet", "no version has been accepted yet"
    return "Serving", f"v{lead.current.version} is read by {wave.on_newest}/{wave.experts} experts"


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
    behind = lead.current is not None and not server_ready(facts.observed, lead.current.lineage)
    if not moving and not behind:
        return ConditionUpdate("Reconciling", "False", "Settled")
    reason, message = _story(facts)
    if not moving and reason == "Serving":
        return ConditionUpdate(
            "Reconciling", "True", "ServersStarting", "not all servers of the current version are ready"
        )
    return ConditionUpdate("Reconciling", "True", reason, message)


def _stalled(facts: FoundationFacts) -> ConditionUpdate:
    unclear = holds.stalled(facts.observed.doubts)
    if unclear is not None:
        return unclear
    if facts.model.metadata.deletion_timestamp is not None and facts.users:
        return ConditionUpdate("Stalled", "True", "InUse", messages.pinned(facts.model.metadata.name, facts.users))
    if facts.training.run is not None:
        return ConditionUpdate("Stalled", "False", "Progressing")
    failed = lifecycle.failure(facts.training, facts.training_inputs.wanted or "")
    if failed is not None:
        text = messages.run_failed(failed)
        return ConditionUpdate("Stalled", "True", failed.reason, text)
    newest = verdict.newest_landed(facts.judged)
    current = facts.lead.current
    if newest is not None and not newest.accepted and (current is None or newest.number > current.version):
        return ConditionUpdate("Stalled", "True", newest.reason, f"v{newest.number} is rejected: {newest.message}")
    return ConditionUpdate("Stalled", "False", "Progressing")


def _trained(facts: FoundationFacts) -> ConditionUpdate:
    failed = lifecycle.failure(facts.training, facts.training_inputs.wanted or "")
    return trained(
        facts.training,
        failed.reason if failed else "",
        failed.message if failed else "",
        verdict.newest_landed(facts.judged),
    )


def _promoted(facts: FoundationFacts) -> ConditionUpdate:
    lead = facts.lead
    if lead.candidate is not None:
        reason, message = _story(facts)
        return ConditionUpdate("Promoted", "False", reason, message)
    rejected = [entry for entry in facts.judged if entry.ours and not entry.accepted]
    if rejected and (lead.current is None or rejected[-1].number > lead.current.version):
        return ConditionUpdate(
            "Promoted", "False", rejected[-1].reason, f"v{rejected[-1].number}: {rejected[-1].message}"
        )
    if lead.current is None:
        return ConditionUpdate("Promoted", "False", "NoVersionYet", "no version has been accepted yet")
    return ConditionUpdate("Promoted", "True", "Promoted", f"v{lead.current.version} is the current version")
