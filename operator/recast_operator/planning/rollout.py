"""How a revision takes over: an explicit state machine over what ``status`` remembers.

============  =================================  ======================================================================
state         what is so                         leaves it
============  =================================  ======================================================================
(settled)     no canary                          another revision is desired → Initial (no stable) or Progressing
Initial       first revision, all pods wanted    all ready → stable
Progressing   step i: k canary pods of R         step passed → next step, after the last → Promoting
Promoting     all R canary pods wanted           all ready → the canary *is* the stable revision; no pod changes
============  =================================  ======================================================================

From every state: superseded or its foundation rejected → dropped without memory; a pod's final word, a failed analysis,
the progress deadline or an Abort → rolled back and remembered, never to be tried again without a Retry.
How many pods each revision gets follows from the state alone and is worked out in :mod:`planning.replicas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recast_api.resources import CanaryStatus, FailedRevision, MetricResult, RevisionStatus, Rollout, Verdict
from recast_operator.planning import analysis, messages
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.hashing import serving_template
from recast_operator.planning.outcome import Event
from recast_operator.planning.pods import Trouble
from recast_operator.planning.requests import Wish
from recast_operator.planning.weights import Split, percent, plan_steps, step_at

REMEMBERED_REVISIONS = 16


@dataclass(frozen=True)
class Endpoints:
    """One revision's Deployment as it is."""

    replicas: int = 0
    ready: int = 0


@dataclass(frozen=True)
class Scene:
    """What a rollout's decisions look at, beside its own memory."""

    model: str
    rollout: Rollout
    replicas: int
    """R: the pods that together serve 100 %."""
    endpoints: Mapping[str, Endpoints]
    """By revision."""
    trouble: Trouble | None
    """Why the canary's pods are not ready."""
    results: list[MetricResult] | None
    """Fresh results, where this pass judged."""
    measured_weight: str
    now: datetime

    def of(self, revision: RevisionStatus | None) -> Endpoints:
        """The endpoints of a revision."""
        return self.endpoints.get(revision.revision, Endpoints()) if revision else Endpoints()

    @property
    def steps(self) -> tuple[Split, ...]:
        """The spec's steps as pods."""
        return plan_steps(self.rollout.steps, self.replicas)


@dataclass(frozen=True)
class Course:
    """A rollout's memory: what stands in status, and what this pass adds."""

    stable: RevisionStatus | None
    canary: CanaryStatus | None
    failed: tuple[FailedRevision, ...]
    events: tuple[Event, ...] = ()

    def told(self, kind: str, reason: str, message: str) -> Course:
        """The same with one more event."""
        event = Event("Warning" if kind == "Warning" else "Normal", reason, message)
        return replace(self, events=(*self.events, event))


def forgive(course: Course, wish: Wish) -> Course:
    """A Retry takes the revision off the list of failures. Comes before the desired revision is worked out."""
    if wish.action != "Retry":
        return course
    return replace(course, failed=tuple(entry for entry in course.failed if entry.revision != wish.revision))


def advance(scene: Scene, course: Course, desired: RevisionStatus | None, wish: Wish) -> Course:
    """One move of the machine; a canary that is dropped makes room for the next in the same pass."""
    if course.canary is not None and wish.action == "Abort":
        return _roll_back(scene, course, course.canary, "Aborted", "its abort was requested")
    if course.canary is not None and (desired is None or desired.revision != course.canary.revision):
        course = _drop(course, course.canary, desired)
    if course.canary is None:
        return _begin(scene, course, desired)
    if course.canary.state == "Progressing" and wish.action == "Promote":
        course = _promoting(scene, course, course.canary, "by request")
    return _proceed(scene, course)


def _proceed(scene: Scene, course: Course) -> Course:
    canary = course.canary
    if canary is None:
        return course
    canary = _observe(scene, course, canary)
    course = replace(course, canary=canary)
    if scene.trouble is not None and scene.trouble.final:
        return _roll_back(scene, course, canary, scene.trouble.reason, scene.trouble.message)
    if canary.state == "Progressing":
        return _progress(scene, course, canary)
    if scene.of(canary).ready >= scene.replicas:
        return _promote(scene, course, canary)
    return _check_deadline(scene, course, canary, pause=0)


def _begin(scene: Scene, course: Course, desired: RevisionStatus | None) -> Course:
    if desired is None or (course.stable is not None and desired.revision == course.stable.revision):
        return course
    first = course.stable is None
    step = Split(100, scene.replicas, 0, 0) if first else scene.steps[0]
    canary = CanaryStatus(
        **_fields(desired),
        state="Initial" if first else "Progressing",
        step_weight=step.asked,
        desired_weight=step.weight,
        progressed_at=stamp(scene.now),
        message=_step_message(scene, step),
    )
    text = f"{messages.pair(canary)} ({canary.revision}) " + (
        "starts as the first revision" if first else f"starts at {step.weight}%"
    )
    return replace(course, canary=canary).told("Normal", "CanaryStarted", text)


def _observe(scene: Scene, course: Course, canary: CanaryStatus) -> CanaryStatus:
    """Bring what is seen of the canary into its status; a changed replica count re-reads the steps."""
    mine, theirs = scene.of(canary), scene.of(course.stable)
    seen: dict[str, object] = {
        "actual_weight": percent(mine.ready, mine.ready + theirs.ready),
        "message": scene.trouble.message if scene.trouble else "",
    }
    if scene.measured_weight:
        seen["measured_weight"] = scene.measured_weight
    if canary.state == "Progressing":
        index = step_at(scene.steps, canary.step_weight)
        step = scene.steps[index]
        seen |= {"step": index, "step_weight": step.asked, "desired_weight": step.weight}
        if not scene.trouble:
            seen["message"] = _step_message(scene, step)
        if step.weight != canary.desired_weight:
            seen |= {"weight_since": None, "results": []}
        elif scene.results is not None:
            seen["results"] = scene.results
    return canary.model_copy(update=seen)


def _progress(scene: Scene, course: Course, canary: CanaryStatus) -> Course:
    step = scene.steps[canary.step]
    expected = _expected(scene, step)
    verdict = analysis.overall(canary.results, expected) if canary.results or expected else Verdict.SUCCESS
    if verdict is Verdict.FAILURE:
        return _roll_back(scene, course, canary, "AnalysisFailed", messages.failure_text(canary.results))
    settled = _settled(scene, course, step)
    if canary.weight_since is None and settled:
        canary = canary.model_copy(update={"weight_since": stamp(scene.now)})
        return replace(course, canary=canary).told(
            "Normal", "CanaryWeight", f"{messages.pair(canary)} has {canary.actual_weight}% of the ready pods"
        )
    paused = canary.weight_since is not None and elapsed(canary.weight_since, scene.now) >= step.pause_seconds
    if settled and paused and verdict is Verdict.SUCCESS:
        return _next_step(scene, course, canary)
    return _check_deadline(scene, course, canary, pause=step.pause_seconds)


def _expected(scene: Scene, step: Split) -> int:
    """Comparisons with stable are made only where stable serves."""
    return sum(1 for entry in scene.rollout.analysis if entry.max_over_stable is None or step.stable > 0)


def _settled(scene: Scene, course: Course, step: Split) -> bool:
    mine, theirs = scene.of(course.canary), scene.of(course.stable)
    return (mine.ready, mine.replicas) == (step.canary, step.canary) and (theirs.ready, theirs.replicas) == (
        step.stable,
        step.stable,
    )


def _next_step(scene: Scene, course: Course, canary: CanaryStatus) -> Course:
    index = canary.step + 1
    if index >= len(scene.steps):
        return _promoting(scene, course, canary, "all steps passed")
    step = scene.steps[index]
    following = canary.model_copy(
        update={
            "step": index,
            "step_weight": step.asked,
            "desired_weight": step.weight,
            "weight_since": None,
            "results": [],
            "progressed_at": stamp(scene.now),
            "message": _step_message(scene, step),
        }
    )
    text = f"{messages.pair(canary)} passed {canary.desired_weight}%, next {step.weight}%"
    return replace(course, canary=following).told("Normal", "CanaryStep", text)


def _promoting(scene: Scene, course: Course, canary: CanaryStatus, why: str) -> Course:
    growing = canary.model_copy(update={"state": "Promoting", "progressed_at": stamp(scene.now)})
    return replace(course, canary=growing).told(
        "Normal", "Promoting", f"{messages.pair(canary)}: {why}; growing to {scene.replicas} pods"
    )


def _promote(scene: Scene, course: Course, canary: CanaryStatus) -> Course:
    before = f", was {messages.pair(course.stable)}" if course.stable else ""
    stable = RevisionStatus(**(_fields(canary) | {"since": stamp(scene.now)}))
    return replace(course, stable=stable, canary=None).told(
        "Normal", "Promoted", f"{messages.pair(stable)} serves 100%{before}"
    )


def _drop(course: Course, canary: CanaryStatus, desired: RevisionStatus | None) -> Course:
    why = (
        f"{messages.pair(desired)} ({desired.revision}) is wanted instead"
        if desired
        else "its foundation version is no longer offered"
    )
    return replace(course, canary=None).told(
        "Normal", "CanaryDropped", f"{messages.pair(canary)} ({canary.revision}): {why}"
    )


def _roll_back(scene: Scene, course: Course, canary: CanaryStatus, reason: str, why: str) -> Course:
    message = messages.rolled_back(scene.model, canary, canary.actual_weight, why, course.stable)[:1024]
    entry = FailedRevision(
        revision=canary.revision,
        version=canary.version,
        foundation_version=canary.foundation.version,
        image=canary.serving.image,
        reason=reason,
        message=message,
        time=stamp(scene.now),
        serving_changed=course.stable is not None
        and serving_template(course.stable.serving) != serving_template(canary.serving),
        results=canary.results,
    )
    kept = tuple(old for old in course.failed if old.revision != canary.revision)
    failed = (*kept, entry)[-REMEMBERED_REVISIONS:]
    return replace(course, canary=None, failed=failed).told("Warning", reason, message)


def _check_deadline(scene: Scene, course: Course, canary: CanaryStatus, *, pause: int) -> Course:
    limit = scene.rollout.progress_deadline_seconds
    if elapsed(canary.progressed_at, scene.now) <= pause + limit:
        return course
    return _roll_back(
        scene, course, canary, "ProgressDeadlineExceeded", f"{_holding_back(scene, canary)} for {limit} s"
    )


def _holding_back(scene: Scene, canary: CanaryStatus) -> str:
    if scene.trouble is not None:
        return scene.trouble.message
    wanted = scene.replicas if canary.state != "Progressing" else scene.steps[canary.step].canary
    ready = scene.of(canary).ready
    if ready < wanted:
        return f"{ready} of {wanted} pods ready"
    return messages.worst(canary.results) or "the weight did not take effect"


def _step_message(scene: Scene, step: Split) -> str:
    if step.merged:
        return messages.merged_steps(step.merged, step.weight, scene.replicas)
    return messages.approximated(step.asked, step.weight, scene.replicas) if step.weight != step.asked else ""


def _fields(revision: RevisionStatus) -> dict[str, Any]:
    return {name: getattr(revision, name) for name in RevisionStatus.model_fields}
