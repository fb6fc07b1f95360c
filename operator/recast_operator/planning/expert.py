"""One pass over an ExpertModel: judge → train → roll out → freshness → plan, as a pipeline of complete values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from recast_api import names
from recast_api.resources import ExpertModelStatus, FailedRevision, RetiringRevision
from recast_operator.planning.child_changes import expert_children, owner_reference
from recast_operator.planning.clock import earliest
from recast_operator.planning.facts import ExpertFacts
from recast_operator.planning.freshness import refresh
from recast_operator.planning.freshness.refresh import RefreshInputs
from recast_operator.planning.freshness.target import FoundationTarget, foundation_target
from recast_operator.planning.holds import held, judgeable, standing_still
from recast_operator.planning.plan import Event, Plan, SubmitRun
from recast_operator.planning.rollout import analysis, machine, request
from recast_operator.planning.rollout.candidates import Selection, against_canary, candidates
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.rollout.traffic import Endpoints
from recast_operator.planning.snapshot import ObservedDeployment, ObservedExpert
from recast_operator.planning.status import expert as status
from recast_operator.planning.status.conditions import transitions
from recast_operator.planning.status.pod_diagnosis import diagnose
from recast_operator.planning.training import known, lifecycle
from recast_operator.planning.training.inputs import TrainingInputs, expert_inputs
from recast_operator.planning.training.run_spec import expert_run
from recast_operator.planning.training.state import remembered
from recast_operator.planning.versions import retention, verdict
from recast_operator.planning.versions.verdict import Judged


def plan_expert(observed: ObservedExpert, now: datetime) -> Plan[ExpertModelStatus]:
    """Decide everything about an expert."""
    if observed.model.metadata.deletion_timestamp is not None:
        return Plan(status=observed.model.status)
    judged = verdict.judge_all(observed.model, judgeable(observed.versions, observed.doubts), observed.model.spec.gates)
    target = foundation_target(observed)
    inputs = _training_inputs(observed, target, judged, now)
    training = remembered(observed.model.status)
    if not held(observed.doubts, "Run"):
        training = lifecycle.advance(inputs, training)
    rollout = _roll_out(observed, inputs, now)
    freshness = refresh.decide(
        RefreshInputs(
            observed=observed,
            target=target,
            training_inputs=inputs,
            training=training,
            stable=rollout.state.stable,
            canary=rollout.state.canary,
            blocked=rollout.selection.blocked is not None,
        )
    )
    if freshness.violation is not None and target.granted and known.is_due(inputs, training):
        training = lifecycle.reserve(inputs, training, observed.versions)
    return _plan(
        ExpertFacts(
            observed=observed,
            now=now,
            judged=judged,
            target=target,
            training_inputs=inputs,
            training=training,
            rollout_inputs=rollout.inputs,
            rollout=rollout.state,
            selection=rollout.selection,
            request=rollout.request,
            violation=freshness.violation,
            refresh=freshness.refresh,
        )
    )


def _plan(facts: ExpertFacts) -> Plan[ExpertModelStatus]:
    new = status.expert_status(facts)
    kept = tuple(entry for entry in (facts.rollout.stable, facts.rollout.canary) if entry is not None)
    failed = {entry.revision for entry in _failed(facts.rollout)}
    children = expert_children(facts.observed, kept, _pods(facts), facts.now, failed=failed)
    return Plan(
        status=new,
        confirm=facts.training.confirm,
        versions=retention.writes(facts.judged, owner_reference(facts.model), facts.now),
        apply=children.apply,
        scales=children.scales,
        submit=_submit(facts),
        deletions=(*facts.training.deletions, *children.deletions),
        events=_events(facts, new),
        requeue_after=earliest(_requeue(facts), children.requeue_after),
    )


def _pods(facts: ExpertFacts) -> Mapping[str, int]:
    """By revision, how many pods it gets; while the roll-out is held, those that it has.

    A canary that is aborted meanwhile gives its traffic back: that is what an Abort is for.
    """
    inputs, state = facts.rollout_inputs, facts.rollout
    pods = inputs.capacity.pods(machine.target(inputs, state), inputs.endpoints)
    if not held(facts.observed.doubts, "Rollout"):
        return pods
    have = {revision: seen.replicas for revision, seen in inputs.endpoints.items()}
    if state.canary is not None:
        return ({state.stable.revision: inputs.replicas} if state.stable else {}) | have
    moving = {entry.revision for entry in (state.stable, *_failed(state)) if entry is not None}
    return have | {revision: count for revision, count in pods.items() if revision in moving}


def _failed(state: RolloutState) -> Iterator[RetiringRevision]:
    return (entry for entry in state.retiring if entry.failed)


def _training_inputs(
    observed: ObservedExpert, target: FoundationTarget, judged: tuple[Judged, ...], now: datetime
) -> TrainingInputs:
    meta, spec = observed.model.metadata, observed.model.spec
    unclear = held(observed.doubts, "Training")
    return TrainingInputs(
        kind="ExpertModel",
        model=meta.name,
        uid=meta.uid,
        training=spec.training,
        wanted=expert_inputs(spec, target.version.spec.digest) if target.version and not unclear else None,
        runs=observed.children.runs,
        judged=judged,
        now=now,
        suspended=spec.suspend,
        serving=observed.model.status.stable.version if observed.model.status.stable else 0,
        on_trial=observed.model.status.canary.version if observed.model.status.canary else 0,
        unreadable_versions=observed.unreadable_versions,
        absent_versions=observed.absent_versions,
    )


@dataclass(frozen=True)
class _Rollout:
    inputs: RolloutInputs
    state: RolloutState
    selection: Selection
    request: RequestDecision


def _roll_out(observed: ObservedExpert, training: TrainingInputs, now: datetime) -> _Rollout:
    still = held(observed.doubts, "Rollout") or _unread(observed)
    before, failed = observed.model.status, tuple(observed.model.status.failed_revisions)
    found = tuple(entry.revision.revision for entry in _select(observed, training, failed).candidates)
    context = request.RequestContext(before.canary, failed, found)
    asked = observed.model.spec.rollout.request
    if still and asked is not None and asked.action != "Abort":
        asked = None
    decision = request.decide(asked, before.handled_requests, before.last_request, context)
    state = RolloutState(before.stable, before.canary, failed, before.previous, tuple(before.retiring), decision.events)
    state = machine.clear_failure(state, decision)
    inputs = _rollout_inputs(observed, now)
    selected = _select(observed, training, state.failed)
    if still and decision.action != "Abort":
        return _Rollout(inputs, standing_still(state, still), Selection(()), decision)
    state = machine.advance(inputs, state, selected, decision)
    return _Rollout(inputs, state, _select(observed, training, state.failed), decision)


def _unread(observed: ObservedExpert) -> str:
    """Why nobody can tell whether the canary may go on; empty where its version can be read, or is gone."""
    canary, name = observed.model.status.canary, observed.model.metadata.name
    version = names.version("ExpertModel", name, canary.version) if canary else ""
    return f"ModelVersion {version} cannot be read" if version in observed.unreadable_versions else ""


def _select(observed: ObservedExpert, training: TrainingInputs, failed: tuple[FailedRevision, ...]) -> Selection:
    found = candidates(observed, known.asked_for(training), failed, training.now)
    return Selection(found, against_canary(observed, training.judged))


def _rollout_inputs(observed: ObservedExpert, now: datetime) -> RolloutInputs:
    model, status = observed.model, observed.model.status
    ours = {entry.revision: entry for entry in observed.children.deployments if entry.owner_uid == model.metadata.uid}
    trial = ours.get(status.canary.revision) if status.canary else None
    inputs = RolloutInputs(
        model=model.metadata.name,
        foundation=model.spec.foundation_ref.name,
        rollout=model.spec.rollout,
        replicas=model.spec.serving.replicas,
        endpoints={revision: _endpoints(entry) for revision, entry in ours.items()},
        trouble=diagnose(trial.pods, "spec.serving.image") if trial else None,
        evaluation=None,
        now=now,
        remaining=observed.children.revisions_with_pods | ours.keys(),
    )
    if status.canary is None or not analysis.due(observed, now):
        return inputs
    beside = inputs.serves_beside(status.stable, status.canary)
    return replace(inputs, evaluation=analysis.evaluate(observed, status.canary, stable_serves=beside, now=now))


def _endpoints(deployment: ObservedDeployment) -> Endpoints:
    return Endpoints(
        replicas=deployment.replicas,
        ready=deployment.ready,
        unschedulable=sum(1 for pod in deployment.pods if pod.unschedulable),
    )


def _submit(facts: ExpertFacts) -> SubmitRun | None:
    run = facts.training.run
    return expert_run(facts.observed, run, facts.judged, facts.target) if facts.training.submit and run else None


def _events(facts: ExpertFacts, new: ExpertModelStatus) -> tuple[Event, ...]:
    already = {event.reason for event in facts.rollout.events}
    changed = transitions(facts.model.status.conditions, new.conditions, {"Stale": "True", "Stalled": "True"})
    return (
        *facts.training.events,
        *(event for event in changed if event.reason not in already),
        *facts.rollout.events,
    )


def _requeue(facts: ExpertFacts) -> float | None:
    """When time alone can next change the plan."""
    training = [facts.training.requeue] if facts.training.requeue is not None else []
    still = facts.rollout.canary is not None and held(facts.observed.doubts, "Rollout")
    rollout = () if still else machine.waits(facts.rollout_inputs, facts.rollout)
    return min([*training, *rollout], default=None)
