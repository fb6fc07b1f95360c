"""How a revision takes over: an explicit state machine over what ``status`` remembers.

============  =================================  ======================================================================
state         what is so                         leaves it
============  =================================  ======================================================================
(settled)     no canary                          another revision is desired → Initial (no stable) or Progressing
Initial       first revision, all pods wanted    all ready → stable
Progressing   step i has its weight, or gets it  step passed → next step, after the last → Promoting
Promoting     all pods and all traffic wanted    all ready → the canary *is* the stable revision; no pod changes
============  =================================  ======================================================================

From every state: a model that is rejected → dropped; a pod's final word, a failed analysis, the progress deadline or an
Abort → rolled back and remembered, never to be tried again without a Retry. A newer candidate replaces a canary that is
Initial or Progressing. One that is Promoting has passed all of its steps and is finished first: the newer one is then
compared with it, and not with what it replaces. Only a desire for the stable revision itself ends it: somebody took
back what they had asked for.

Where no pod of stable is ready, the canary is the way out: it gets all the pods it can, nothing is compared with
stable, its weight is in effect as soon as its own pods are ready, and it is not rolled back for being late
(:mod:`planning.rollout.deadline`). A failed analysis and a pod's final word still end it. A stable that is merely
short of a pod changes nothing.

The machine says what it wants as a :class:`Target`. What the route is comes from :mod:`planning.rollout.traffic`, and
how many pods each revision gets from :mod:`planning.rollout.capacity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from recast_api.resources import CanaryStatus, FailedRevision, RevisionStatus, Verdict
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.hashing import serving_template
from recast_operator.planning.rollout import deadline
from recast_operator.planning.rollout import verdict as judge
from recast_operator.planning.rollout.candidates import Selection
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.retiring import forget_gone, leaving, retire
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.rollout.steps import PlannedStep
from recast_operator.planning.rollout.traffic import Target
from recast_operator.planning.status import messages

REMEMBERED_REVISIONS = 16


def clear_failure(state: RolloutState, decision: RequestDecision) -> RolloutState:
    """A Retry takes the revision off the list of failures. Comes before the desired revision is worked out."""
    if decision.action != "Retry":
        return state
    return replace(state, failed=tuple(entry for entry in state.failed if entry.revision != decision.revision))


def advance(
    inputs: RolloutInputs, state: RolloutState, selection: Selection, decision: RequestDecision
) -> RolloutState:
    """One move of the machine; a canary that is dropped makes room for the next in the same pass."""
    return forget_gone(inputs, _move(inputs, state, selection, decision))


def target(inputs: RolloutInputs, state: RolloutState) -> Target:
    """What this state wants of traffic and pods."""
    stable, canary = state.stable, state.canary
    down = canary.stable_down_since if canary else None
    return Target(
        replicas=inputs.replicas,
        stable=stable.revision if stable else "",
        canary=canary.revision if canary else "",
        weight=inputs.step_of(canary).asked if canary else 0,
        stable_down_seconds=elapsed(down, inputs.now) if down else None,
        leaving=leaving(inputs, state),
    )


def waits(inputs: RolloutInputs, state: RolloutState) -> Iterator[float]:
    """Seconds until time alone can change what this machine does, for each clock that runs."""
    pods = inputs.capacity.next_change(target(inputs, state), inputs.endpoints)
    if pods is not None:
        yield pods
    if state.canary is not None:
        yield from deadline.waits(inputs, state.stable, state.canary)


def _move(inputs: RolloutInputs, state: RolloutState, selection: Selection, decision: RequestDecision) -> RolloutState:
    canary = state.canary
    if canary is not None and decision.action == "Abort":
        return _roll_back(inputs, state, canary, "Aborted", "its abort was requested")
    if canary is not None and (why := _why_drop(inputs, state, canary, selection)):
        text = f"{_name(inputs, canary)} ({canary.revision}): {why}"
        state = retire(state, canary, inputs.now, failed=bool(selection.against_canary))
        state = replace(state, canary=None).with_event("Normal", "CanaryDropped", text)
    if state.canary is None:
        return _begin(inputs, state, selection.desired)
    if decision.action == "Promote":
        state = _promoting(inputs, state, state.canary, "by request")
    return _proceed(inputs, state)


def _why_drop(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, selection: Selection) -> str:
    """Why this canary is not to go on; empty where it is."""
    desired, stable = selection.desired, state.stable
    if selection.against_canary:
        return selection.against_canary
    if desired is not None and desired.revision == canary.revision:
        return ""
    back_to_stable = desired is not None and stable is not None and desired.revision == stable.revision
    if canary.state == "Promoting" and not back_to_stable:
        return ""
    if desired is None:
        return "its foundation version is no longer offered"
    return f"{_name(inputs, desired)} ({desired.revision}) is wanted instead"


def _begin(inputs: RolloutInputs, state: RolloutState, desired: RevisionStatus | None) -> RolloutState:
    if desired is None or (state.stable is not None and desired.revision == state.stable.revision):
        return state
    first = state.stable is None
    step = PlannedStep(100, 100, 0) if first else inputs.steps[0]
    canary = CanaryStatus(
        **_fields(desired),
        state="Initial" if first else "Progressing",
        step_weight=step.asked,
        desired_weight=step.weight,
        progressed_at=stamp(inputs.now),
        message=_step_message(inputs, step),
    )
    text = f"{_name(inputs, canary)} ({canary.revision}) " + (
        "starts as the first revision" if first else f"starts at {step.weight}%"
    )
    return replace(state, canary=canary).with_event("Normal", "CanaryStarted", text)


def _proceed(inputs: RolloutInputs, state: RolloutState) -> RolloutState:
    canary = state.canary
    if canary is None:
        return state
    canary = _observe(inputs, state, canary)
    state = replace(state, canary=canary)
    if inputs.trouble is not None and inputs.trouble.final:
        return _roll_back(inputs, state, canary, inputs.trouble.reason, inputs.trouble.message)
    if canary.state == "Progressing":
        return _progress(inputs, state, canary)
    if inputs.of(canary).ready >= inputs.replicas:
        return _promote(inputs, state, canary)
    return _check_deadline(inputs, state, canary)


def _observe(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> CanaryStatus:
    """Bring what is seen of the canary into its status; a changed replica count re-reads the steps."""
    seen: dict[str, Any] = {}
    evaluation = inputs.evaluation
    step = inputs.step_of(canary)
    if canary.state == "Progressing":
        seen |= {"step": inputs.steps.index(step), "step_weight": step.asked, "desired_weight": step.weight}
        if step.weight != canary.desired_weight:
            seen |= {"weight_since": None, "results": []}
            if canary.weight_since is not None:
                # Measured anew through no fault of its own, such as an autoscaler's: so is the time it may take. A
                # canary whose weight never took effect gains nothing.
                seen |= {"progressed_at": stamp(inputs.now)}
        elif evaluation is not None:
            seen |= judge.to_remember(canary, evaluation, inputs.now)
        elif canary.weight_since is not None and elapsed(canary.weight_since, inputs.now) < 0:
            # The clock was set back. The step is measured anew: the old window would be over only in the far future.
            seen |= {"weight_since": stamp(inputs.now), "results": []}
    canary = deadline.stop_or_start(inputs, state.stable, canary.model_copy(update=seen))
    now_stands = replace(state, canary=canary)
    route = inputs.router.route(target(inputs, now_stands), inputs.endpoints)
    update = {"actual_weight": route.shares.get(canary.revision, 0), "message": _note(inputs, now_stands, canary, step)}
    return canary.model_copy(update=update)


def _progress(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    step = inputs.steps[canary.step]
    expected = inputs.metrics(state.stable, canary)
    verdict = judge.overall(canary.results, expected) if expected else Verdict.SUCCESS
    if verdict is Verdict.FAILURE:
        return _roll_back(inputs, state, canary, "AnalysisFailed", messages.worst(canary.results))
    in_effect = inputs.router.route(target(inputs, state), inputs.endpoints).in_effect
    if canary.weight_since is None and in_effect:
        canary = canary.model_copy(update={"weight_since": stamp(inputs.now)})
        return replace(state, canary=canary).with_event(
            "Normal",
            "CanaryWeight",
            f"{_distinct(inputs, state, canary)} has {canary.actual_weight}% of the ready pods",
        )
    paused = canary.weight_since is not None and elapsed(canary.weight_since, inputs.now) >= step.pause_seconds
    if in_effect and paused and verdict is Verdict.SUCCESS:
        return _next_step(inputs, state, canary)
    return _check_deadline(inputs, state, canary)


def _next_step(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    index = canary.step + 1
    if index >= len(inputs.steps):
        return _promoting(inputs, state, canary, "all steps passed")
    step = inputs.steps[index]
    following = canary.model_copy(
        update={
            "step": index,
            "step_weight": step.asked,
            "desired_weight": step.weight,
            "weight_since": None,
            "results": [],
            "progressed_at": stamp(inputs.now),
            "message": _step_message(inputs, step),
        }
    )
    text = f"{_distinct(inputs, state, canary)} passed {canary.desired_weight}%, next {step.weight}%"
    return replace(state, canary=following).with_event("Normal", "CanaryStep", text)


def _promoting(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, why: str) -> RolloutState:
    growing = canary.model_copy(update={"state": "Promoting", "progressed_at": stamp(inputs.now)})
    return replace(state, canary=growing).with_event(
        "Normal", "Promoting", f"{_distinct(inputs, state, canary)}: {why}; growing to {inputs.replicas} pods"
    )


def _promote(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    before = state.stable
    stable = RevisionStatus(**(_fields(canary) | {"since": stamp(inputs.now)}))
    text = f"{_name(inputs, stable)} ({stable.revision}) is the stable revision now"
    state = replace(state, stable=stable, canary=None)
    if before is None:
        return state.with_event("Normal", "Promoted", text)
    state = replace(state, previous=before.model_copy(update={"replicas": 0, "ready_replicas": 0}))
    return retire(state, before, inputs.now).with_event(
        "Normal", "Promoted", f"{text}, was {_name(inputs, before)} ({before.revision})"
    )


def _roll_back(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, reason: str, why: str) -> RolloutState:
    stable = state.stable
    message = messages.rolled_back(
        inputs.model,
        _distinct(inputs, state, canary),
        canary.actual_weight,
        why,
        _name(inputs, stable) if stable else "",
        canary.revision,
    )[:1024]
    entry = FailedRevision(
        revision=canary.revision,
        version=canary.version,
        foundation_version=canary.foundation.version,
        foundation_name=canary.foundation.name,
        image=canary.serving.image,
        reason=reason,
        message=message,
        time=stamp(inputs.now),
        serving_changed=stable is not None and serving_template(stable.serving) != serving_template(canary.serving),
        results=canary.results,
    )
    kept = tuple(old for old in state.failed if old.revision != canary.revision)
    failed = (*kept, entry)[-REMEMBERED_REVISIONS:]
    state = retire(replace(state, canary=None, failed=failed), canary, inputs.now, failed=True)
    return state.with_event("Warning", reason, message)


def _check_deadline(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    left = deadline.seconds_left(inputs, canary)
    if left is None or left > 0:
        return state
    limit = inputs.rollout.progress_deadline_seconds
    return _roll_back(
        inputs, state, canary, "ProgressDeadlineExceeded", f"{_holding_back(inputs, state, canary)} for {limit} s"
    )


def _holding_back(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> str:
    """What a canary that is late was waiting for."""
    if inputs.trouble is not None:
        return inputs.trouble.message
    pods = inputs.capacity.pods(target(inputs, state), inputs.endpoints)
    for revision in (canary, state.stable):
        if revision is not None and inputs.of(revision).ready < pods[revision.revision]:
            name, ready = _name(inputs, revision), inputs.of(revision).ready
            return messages.pods_missing(name, ready, pods[revision.revision])
    return messages.worst(canary.results) or "the weight did not take effect"


def _note(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, step: PlannedStep) -> str:
    """What is worth knowing beside the state itself."""
    notes = [inputs.trouble.message if inputs.trouble else _step_message(inputs, step)]
    if state.stable is not None and canary.stable_down_since is not None:
        notes.append(messages.stable_down(_name(inputs, state.stable)))
    if canary.unanswered_since is not None:
        notes.append(messages.unanswered(canary.unanswered_since))
    return "; ".join(note for note in notes if note)[:1024]


def _step_message(inputs: RolloutInputs, step: PlannedStep) -> str:
    if step.merged:
        return messages.merged_steps(step.merged, step.weight, inputs.replicas)
    return messages.approximated(step.asked, step.weight, inputs.replicas) if step.weight != step.asked else ""


def _name(inputs: RolloutInputs, revision: RevisionStatus) -> str:
    return messages.pair(revision, inputs.foundation)


def _distinct(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> str:
    return messages.beside(canary, state.stable, inputs.foundation)


def _fields(revision: RevisionStatus) -> dict[str, Any]:
    return {name: getattr(revision, name) for name in RevisionStatus.model_fields}
