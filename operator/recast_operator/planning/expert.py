"""One pass over an ExpertModel, as a list of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from recast_api.resources import (
    ExpertModel,
    ExpertModelStatus,
    RevisionStatus,
)
from recast_api.resources.expert import RefreshStatus
from recast_operator.planning import (
    analysis,
    expert_status,
    hashing,
    render,
    replicas,
    requests,
    revisions,
    rollout,
    runs,
    staleness,
    training,
    versions,
)
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.conditions import transitions
from recast_operator.planning.outcome import Event, Plan, SubmitRun, VersionWrite
from recast_operator.planning.pods import trouble
from recast_operator.planning.reading import Reading, read
from recast_operator.planning.snapshot import ObservedDeployment, ObservedExpert
from recast_operator.planning.weights import step_at


@dataclass(frozen=True)
class ExpertPass:
    """Everything a pass found out about an expert."""

    observed: ObservedExpert
    now: datetime
    judged: tuple[versions.Judged, ...]
    reading: Reading
    shop: training.Workshop
    ledger: training.Ledger
    scene: rollout.Scene
    course: rollout.Course
    handled: tuple[str, ...]
    violation: staleness.Violation | None
    refresh: RefreshStatus | None
    blocked: RevisionStatus | None
    """The revision that would be rolled out, had it not failed before."""

    @property
    def model(self) -> ExpertModel:
        """The resource."""
        return self.observed.model


def plan_expert(observed: ObservedExpert, now: datetime) -> Plan[ExpertModelStatus]:
    """Decide everything about an expert."""
    if observed.model.metadata.deletion_timestamp is not None:
        return Plan(status=observed.model.status)
    judged = versions.judge_all(observed.model, observed.versions, observed.model.spec.gates)
    reading = read(observed)
    shop = _workshop(observed, reading, judged, now)
    ledger = training.advance(shop, training.ledger(observed.model.status))
    found = _judge_freshness(_roll_out(observed, now, judged, reading, shop, ledger))
    if found.violation is not None and reading.granted and training.is_due(shop, ledger):
        found = replace(found, ledger=training.reserve(shop, ledger, observed.versions))
    return _plan(found)


def _plan(found: ExpertPass) -> Plan[ExpertModelStatus]:
    status = expert_status.status(found)
    kept = tuple(entry for entry in (found.course.stable, found.course.canary) if entry is not None)
    children = render.expert_children(
        found.model, kept, replicas.targets(found.scene, found.course), found.observed.children
    )
    return Plan(
        status=status,
        versions=_version_writes(found),
        apply=children.apply,
        scales=children.scales,
        submit=_submit(found),
        deletions=(*found.ledger.deletions, *children.deletions),
        events=_events(found, status),
        requeue_after=_requeue(found),
    )


def _workshop(
    observed: ObservedExpert, reading: Reading, judged: tuple[versions.Judged, ...], now: datetime
) -> training.Workshop:
    meta, spec = observed.model.metadata, observed.model.spec
    return training.Workshop(
        kind="ExpertModel",
        model=meta.name,
        uid=meta.uid,
        training=spec.training,
        wanted=hashing.expert_inputs(spec, reading.target.spec.digest) if reading.target else None,
        jobs=observed.children.jobs,
        judged=judged,
        now=now,
        suspended=spec.suspend,
    )


def _roll_out(
    observed: ObservedExpert,
    now: datetime,
    judged: tuple[versions.Judged, ...],
    reading: Reading,
    shop: training.Workshop,
    ledger: training.Ledger,
) -> ExpertPass:
    status, spec = observed.model.status, observed.model.spec.rollout
    wish = requests.consider(spec.request, status.handled_requests, status.canary, status.failed_revisions)
    course = rollout.Course(status.stable, status.canary, tuple(status.failed_revisions), wish.events)
    course = rollout.forgive(course, wish)
    scene = _scene(observed, now)
    course = rollout.advance(scene, course, revisions.desired(observed, judged, course.failed, now), wish)
    ideal = revisions.desired(observed, judged, (), now)
    failed = {entry.revision for entry in course.failed}
    blocked = ideal if ideal and ideal.revision in failed else None
    return ExpertPass(
        observed,
        now,
        judged,
        reading,
        shop,
        ledger,
        scene,
        course,
        wish.handled,
        violation=None,
        refresh=None,
        blocked=blocked,
    )


def _scene(observed: ObservedExpert, now: datetime) -> rollout.Scene:
    model, canary = observed.model, observed.model.status.canary
    ours = {entry.revision: entry for entry in observed.children.deployments if entry.owner_uid == model.metadata.uid}
    trial = ours.get(canary.revision) if canary else None
    judge = canary is not None and analysis.due(canary, now)
    scene = rollout.Scene(
        model=model.metadata.name,
        rollout=model.spec.rollout,
        replicas=model.spec.serving.replicas,
        endpoints={revision: _endpoints(entry) for revision, entry in ours.items()},
        trouble=trouble(trial.pods, "spec.serving.image") if trial else None,
        results=None,
        measured_weight="",
        now=now,
    )
    if canary is None or not judge:
        return scene
    step = scene.steps[step_at(scene.steps, canary.step_weight)]
    results = analysis.evaluate(observed, canary, stable_serves=step.stable > 0, now=now)
    return replace(scene, results=results, measured_weight=analysis.measured_weight(observed, canary, now))


def _endpoints(deployment: ObservedDeployment) -> rollout.Endpoints:
    return rollout.Endpoints(deployment.replicas, deployment.ready)


def _judge_freshness(found: ExpertPass) -> ExpertPass:
    """Stale or not, and whether a refresh is possible: only then does the expert ask for a slot."""
    basis = found.course.canary or found.course.stable or _newest_accepted(found)
    number = basis.version if isinstance(basis, RevisionStatus) else basis.number if basis else None
    version = versions.by_number(found.judged, number) if number else None
    pin = (
        basis.foundation if isinstance(basis, RevisionStatus) else version.version.spec.foundation if version else None
    )
    run = version.version.spec.run if version else None
    violation = staleness.evaluate(
        staleness.Freshness(
            model=found.model.metadata.name,
            version=number,
            foundation=pin,
            target=found.reading.pin,
            trained_spec=hashing.spec_part(run.inputs_hash) if run else "",
            wanted_spec=hashing.spec_part(found.shop.wanted or hashing.expert_inputs(found.model.spec, "")),
            policies=frozenset(found.model.spec.refresh.triggers),
        )
    )
    return replace(found, violation=violation, refresh=_refresh(found, violation))


def _refresh(found: ExpertPass, violation: staleness.Violation | None) -> RefreshStatus | None:
    target, before = found.reading.target, found.model.status.refresh
    possible = found.ledger.run is not None or training.is_due(found.shop, found.ledger) or _awaiting(found)
    if violation is None or target is None or not possible:
        return None
    return RefreshStatus(
        reason=violation.reason,
        message=violation.message,
        since=before.since if before else stamp(found.now),
        foundation_version=target.spec.number,
    )


def _awaiting(found: ExpertPass) -> bool:
    """An accepted version newer than the stable one waits for its foundation's servers."""
    newest = _newest_accepted(found)
    stable = found.course.stable
    if newest is None or found.blocked is not None or (stable is not None and newest.number <= stable.version):
        return False
    pin = newest.version.spec.foundation
    target = found.reading.pin
    return pin is not None and target is not None and pin.digest == target.digest


def _newest_accepted(found: ExpertPass) -> versions.Judged | None:
    return max(versions.accepted(found.judged), key=lambda entry: entry.number, default=None)


def _version_writes(found: ExpertPass) -> tuple[VersionWrite, ...]:
    used = {entry.version: 1 for entry in (found.course.stable, found.course.canary) if entry is not None}
    return versions.writes(found.judged, render.owner_reference(found.model), used, frozenset(), found.now)


def _submit(found: ExpertPass) -> SubmitRun | None:
    run, reading = found.ledger.run, found.reading
    if not found.ledger.submit or run is None or reading.foundation is None or reading.target is None:
        return None
    return runs.expert_run(
        found.model, run, found.judged, reading.foundation, reading.target, found.observed.foundation_versions
    )


def _events(found: ExpertPass, status: ExpertModelStatus) -> tuple[Event, ...]:
    told = {"Stale": "True", "Stalled": "True"}
    already = {event.reason for event in found.course.events}
    changed = transitions(found.model.status.conditions, status.conditions, told)
    return (
        *versions.events(found.judged),
        *found.ledger.events,
        *(event for event in changed if event.reason not in already),
        *found.course.events,
    )


def _requeue(found: ExpertPass) -> float | None:
    """While a canary runs, time alone may change the plan."""
    waits = [found.ledger.requeue] if found.ledger.requeue is not None else []
    canary = found.course.canary
    if canary is not None:
        limit = found.scene.rollout.progress_deadline_seconds
        waits.append(max(1.0, limit + 1.0 - elapsed(canary.progressed_at, found.now)))
    if canary is not None and canary.weight_since is not None and canary.state == "Progressing":
        waits.append(_next_look(found, canary.weight_since, [entry.time for entry in canary.results]))
    return min(waits, default=None)


def _next_look(found: ExpertPass, since: str, judged_at: list[str]) -> float:
    canary, now = found.course.canary, found.now
    step = found.scene.steps[step_at(found.scene.steps, canary.step_weight if canary else 0)]
    first = analysis.MIN_WINDOW_SECONDS - elapsed(since, now)
    again = max((analysis.INTERVAL_SECONDS - elapsed(time, now) for time in judged_at), default=first)
    passed = step.pause_seconds - elapsed(since, now)
    return max(1.0, min(entry for entry in (max(first, again), passed if passed > 0 else max(first, again))))
