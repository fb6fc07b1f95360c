"""What a foundation's status says: facts into conditions, numbers into the strings of the printer columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recast_api.resources import FoundationModelStatus
from recast_api.resources.foundation import FoundationSummary
from recast_operator.planning import fleet, messages, training, versions
from recast_operator.planning.conditions import Fact, merge
from recast_operator.planning.pods import Trouble, trouble

if TYPE_CHECKING:
    from recast_operator.planning.foundation import FoundationPass


def status(found: FoundationPass) -> FoundationModelStatus:
    """The complete new status."""
    before, ledger, lead = found.model.status, found.ledger, found.lead
    newest = versions.newest_landed(found.judged)
    generation = found.model.metadata.generation
    facts = [_ready(found), _reconciling(found), _stalled(found), _trained(found), _promoted(found)]
    return FoundationModelStatus(
        observed_generation=generation,
        conditions=merge(before.conditions, facts, generation, found.now),
        last_number=ledger.last_number,
        trained_inputs_hash=ledger.trained,
        run=ledger.run,
        failures=list(ledger.failures),
        latest=newest.number if newest else None,
        candidate=lead.candidate,
        current=lead.current,
        lineages=found.lineages,
        wave=found.wave,
        summary=_summary(found),
    )


def _summary(found: FoundationPass) -> FoundationSummary:
    lead, wave = found.lead, found.wave
    return FoundationSummary(
        current=f"v{lead.current.version}" if lead.current else "",
        candidate=f"v{lead.candidate.version}" if lead.candidate else "",
        experts=f"{wave.on_newest}/{wave.experts} on v{lead.newest.version}" if lead.newest else "",
    )


def _servers_trouble(found: FoundationPass) -> Trouble | None:
    newest = found.lead.newest
    deployment = fleet.lineage_deployment(found.observed, newest.lineage) if newest else None
    return trouble(deployment.pods, "spec.serving.image") if deployment else None


def _story(found: FoundationPass) -> tuple[str, str]:
    """The one thing to know now."""
    lead, wave, ledger = found.lead, found.wave, found.ledger
    candidate = lead.candidate
    problem = _servers_trouble(found)
    if problem is not None:
        return problem.reason, problem.message
    if candidate is not None and not fleet.server_ready(found.observed, candidate.lineage):
        return "ServersStarting", f"servers of v{candidate.version} are starting"
    if candidate is not None:
        names = [pilot.metadata.name for pilot in fleet.pilots(found.observed)]
        waits = f"v{candidate.version} waits for its pilots: {messages.join(names)}"
        if undecided := fleet.undecided(found.observed, candidate):
            waits += (
                f"; {messages.join(undecided)} rolled it back, but with a changed spec.serving, which may be at fault: "
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
    if ledger.run is not None:
        return ledger.note_reason, ledger.note
    stalled = _stalled(found)
    if stalled.status == "True":
        return stalled.reason, stalled.message
    if lead.current is None:
        return "NoVersionYet", "no version has been accepted yet"
    return "Serving", f"v{lead.current.version} is read by {wave.on_newest}/{wave.experts} experts"


def _ready(found: FoundationPass) -> Fact:
    reason, message = _story(found)
    current = found.lead.current
    deployment = fleet.lineage_deployment(found.observed, current.lineage) if current else None
    if deployment is not None and deployment.ready > 0:
        return Fact("Ready", "True", reason, message)
    if current is not None and reason == "Serving":
        return Fact(
            "Ready",
            "False",
            "ServersNotReady",
            f"no server of v{current.version} is ready; experts fall back to the absent TAE",
        )
    return Fact("Ready", "False", reason, message)


def _reconciling(found: FoundationPass) -> Fact:
    lead, wave = found.lead, found.wave
    moving = found.ledger.run is not None or lead.candidate is not None or bool(wave.granted or wave.waiting)
    behind = lead.current is not None and not fleet.server_ready(found.observed, lead.current.lineage)
    if not moving and not behind:
        return Fact("Reconciling", "False", "Settled")
    reason, message = _story(found)
    if not moving and reason == "Serving":
        return Fact("Reconciling", "True", "ServersStarting", "not all servers of the current version are ready")
    return Fact("Reconciling", "True", reason, message)


def _stalled(found: FoundationPass) -> Fact:
    if found.model.metadata.deletion_timestamp is not None and found.users:
        return Fact("Stalled", "True", "InUse", messages.pinned(found.model.metadata.name, found.users))
    if found.ledger.run is not None:
        return Fact("Stalled", "False", "Progressing")
    failed = training.failure(found.ledger, found.shop.wanted or "")
    if failed is not None:
        text = messages.run_failed(failed)
        return Fact("Stalled", "True", failed.reason, text)
    newest = versions.newest_landed(found.judged)
    current = found.lead.current
    if newest is not None and not newest.accepted and (current is None or newest.number > current.version):
        return Fact("Stalled", "True", newest.reason, f"v{newest.number} is rejected: {newest.message}")
    return Fact("Stalled", "False", "Progressing")


def _trained(found: FoundationPass) -> Fact:
    failed = training.failure(found.ledger, found.shop.wanted or "")
    return trained(
        found.ledger,
        failed.reason if failed else "",
        failed.message if failed else "",
        versions.newest_landed(found.judged),
    )


def trained(ledger: training.Ledger, failed_reason: str, failed_message: str, newest: versions.Judged | None) -> Fact:
    """Whether the spec has been trained: run by run the same for foundations and experts."""
    if ledger.run is not None:
        return Fact("Trained", "Unknown", ledger.note_reason, ledger.note)
    if failed_reason:
        return Fact("Trained", "False", failed_reason, failed_message)
    if newest is None:
        return Fact("Trained", "Unknown", "NoVersionYet", ledger.note or "no version has landed yet")
    if not newest.accepted:
        return Fact("Trained", "False", newest.reason, f"v{newest.number}: {newest.message}")
    return Fact("Trained", "True", newest.reason, f"v{newest.number}: {newest.message}")


def _promoted(found: FoundationPass) -> Fact:
    lead = found.lead
    if lead.candidate is not None:
        reason, message = _story(found)
        return Fact("Promoted", "False", reason, message)
    rejected = [entry for entry in found.judged if entry.ours and not entry.accepted]
    if rejected and (lead.current is None or rejected[-1].number > lead.current.version):
        return Fact("Promoted", "False", rejected[-1].reason, f"v{rejected[-1].number}: {rejected[-1].message}")
    if lead.current is None:
        return Fact("Promoted", "False", "NoVersionYet", "no version has been accepted yet")
    return Fact("Promoted", "True", "Promoted", f"v{lead.current.version} is the current version")
