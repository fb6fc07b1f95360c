"""One pass over an ExpertModel: judge → train → roll out → freshness → plan, as a pipeline of complete values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from recast_api.resources import ExpertModelStatus, RevisionStatus
from recast_operator.planning.child_changes import expert_children, owner_reference
from recast_operator.planning.clock import elapsed
from recast_operator.planning.facts import ExpertFacts
from recast_operator.planning.freshness import refresh
from recast_operator.planning.freshness.refresh import RefreshInputs
from recast_operator.planning.freshness.target import FoundationTarget, foundation_target
from recast_operator.planning.plan import Event, Plan, SubmitRun, VersionWrite
from recast_operator.planning.rollout import candidates, capacity, machine, request
from recast_operator.planning.rollout import verdict as analysis
from recast_operator.planning.rollout.state import Endpoints, RolloutInputs, RolloutState
from recast_operator.planning.rollout.steps import step_at
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
    judged = verdict.judge_all(observed.model, observed.versions, observed.model.spec.gates)
    target = foundation_target(observed)
    inputs = _training_inputs(observed, target, judged, now)
    training = lifecycle.advance(inputs, remembered(observed.model.status))
    rollout = _roll_out(observed, known.asked_for(inputs), now)
    stable, canary, blocked = rollout.state.stable, rollout.state.canary, rollout.blocked is not None
    freshness = refresh.decide(RefreshInputs(observed, target, inputs, training, stable, canary, blocked))
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
            handled=rollout.handled,
            blocked=rollout.blocked,
            violation=freshness.violation,
            refresh=freshness.refresh,
        )
    )


def _plan(facts: ExpertFacts) -> Plan[ExpertModelStatus]:
    new = status.expert_status(facts)
    kept = tuple(entry for entry in (facts.rollout.stable, facts.rollout.canary) if entry is not None)
    pods = capacity.targets(facts.rollout_inputs, facts.rollout)
    children = expert_children(facts.model, kept, pods, facts.observed.children)
    return Plan(
        status=new,
        confirm=facts.training.confirm,
        versions=_version_writes(facts),
        apply=children.apply,
        scales=children.scales,
        submit=_submit(facts),
        deletions=(*facts.training.deletions, *children.deletions),
        events=_events(facts, new),
        requeue_after=_requeue(facts),
    )


def _training_inputs(
    observed: ObservedExpert, target: FoundationTarget, judged: tuple[Judged, ...], now: datetime
) -> TrainingInputs:
    meta, spec = observed.model.metadata, observed.model.spec
    return TrainingInputs(
        kind="ExpertModel",
        model=meta.name,
        uid=meta.uid,
        training=spec.training,
        wanted=expert_inputs(spec, target.version.spec.digest) if target.version else None,
        runs=observed.children.runs,
        judged=judged,
        now=now,
        suspended=spec.suspend,
        serving=observed.model.status.stable.version if observed.model.status.stable else 0,
        absent_versions=observed.absent_versions,
    )


@dataclass(frozen=True)
class _Rollout:
    inputs: RolloutInputs
    state: RolloutState
    handled: tuple[str, ...]
    blocked: RevisionStatus | None


def _roll_out(observed: ObservedExpert, judged: tuple[Judged, ...], now: datetime) -> _Rollout:
    before, spec = observed.model.status, observed.model.spec.rollout
    decision = request.decide(spec.request, before.handled_requests, before.canary, before.failed_revisions)
    state = RolloutState(before.stable, before.canary, tuple(before.failed_revisions), decision.events)
    state = machine.clear_failure(state, decision)
    inputs = _rollout_inputs(observed, now)
    wanted = candidates.desired(candidates.candidates(observed, judged, state.failed, now))
    state = machine.advance(inputs, state, wanted, decision)
    left = candidates.candidates(observed, judged, state.failed, now)
    return _Rollout(inputs, state, decision.handled, candidates.blocked(left))


def _rollout_inputs(observed: ObservedExpert, now: datetime) -> RolloutInputs:
    model, canary = observed.model, observed.model.status.canary
    ours = {entry.revision: entry for entry in observed.children.deployments if entry.owner_uid == model.metadata.uid}
    trial = ours.get(canary.revision) if canary else None
    inputs = RolloutInputs(
        model=model.metadata.name,
        rollout=model.spec.rollout,
        replicas=model.spec.serving.replicas,
        endpoints={revision: _endpoints(entry) for revision, entry in ours.items()},
        trouble=diagnose(trial.pods, "spec.serving.image") if trial else None,
        evaluation=None,
        now=now,
    )
    if canary is None or not analysis.due(canary, now):
        return inputs
    step = inputs.steps[step_at(inputs.steps, canary.step_weight)]
    return replace(inputs, evaluation=analysis.evaluate(observed, canary, stable_serves=step.stable > 0, now=now))


def _endpoints(deployment: ObservedDeployment) -> Endpoints:
    return Endpoints(deployment.replicas, deployment.ready)


def _version_writes(facts: ExpertFacts) -> tuple[VersionWrite, ...]:
    used = {entry.version: 1 for entry in (facts.rollout.stable, facts.rollout.canary) if entry is not None}
    return retention.writes(facts.judged, owner_reference(facts.model), used, frozenset(), facts.now)


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
    """While a canary runs, time alone may change the plan."""
    waits = [facts.training.requeue] if facts.training.requeue is not None else []
    canary = facts.rollout.canary
    if canary is not None:
        limit = facts.rollout_inputs.rollout.progress_deadline_seconds
        waits.append(max(1.0, limit + 1.0 - elapsed(canary.progressed_at, facts.now)))
    if canary is not None and canary.weight_since is not None and canary.state == "Progressing":
        waits.append(_next_look(facts, canary.weight_since, [entry.time for entry in canary.results]))
    return min(waits, default=None)


def _next_look(facts: ExpertFacts, since: str, judged_at: list[str]) -> float:
    canary, now, steps = facts.rollout.canary, facts.now, facts.rollout_inputs.steps
    step = steps[step_at(steps, canary.step_weight if canary else 0)]
    first = analysis.MIN_WINDOW_SECONDS - elapsed(since, now)
    again = max((analysis.INTERVAL_SECONDS - elapsed(time, now) for time in judged_at), default=first)
    passed = step.pause_seconds - elapsed(since, now)
    return max(1.0, min(entry for entry in (max(first, again), passed if passed > 0 else max(first, again))))
