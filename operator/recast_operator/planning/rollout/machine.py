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
How many pods each revision gets follows from the state alone and is worked out in :mod:`planning.rollout.capacity`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recast_api.resources import CanaryStatus, FailedRevision, RevisionStatus, Verdict
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.hashing import serving_template
from recast_operator.planning.rollout import verdict as judge
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.rollout.steps import Split, percent, step_at
from recast_operator.planning.status import messages

REMEMBERED_REVISIONS = 16


def clear_failure(state: RolloutState, decision: RequestDecision) -> RolloutState:
    """A Retry takes the revision off the list of failures. Comes before the desired revision is worked out."""
    if decision.action != "Retry":
        return state
    return replace(state, failed=tuple(entry for entry in state.failed if entry.revision != decision.revision))


def advance(
    inputs: RolloutInputs, state: RolloutState, desired: RevisionStatus | None, decision: RequestDecision
) -> RolloutState:
    """One move of the machine; a canary that is dropped makes room for the next in the same pass."""
    if state.canary is not None and decision.action == "Abort":
        return _roll_back(inputs, state, state.canary, "Aborted", "its abort was requested")
    if state.canary is not None and (desired is None or desired.revision != state.canary.revision):
        state = _drop(state, state.canary, desired)
    if state.canary is None:
        return _begin(inputs, state, desired)
    if state.canary.state == "Progressing" and decision.action == "Promote":
        state = _promoting(inputs, state, state.canary, "by request")
    return _proceed(inputs, state)


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
    return _check_deadline(inputs, state, canary, pause=0)


def _begin(inputs: RolloutInputs, state: RolloutState, desired: RevisionStatus | None) -> RolloutState:
    if desired is None or (state.stable is not None and desired.revision == state.stable.revision):
        return state
    first = state.stable is None
    step = Split(100, inputs.replicas, 0, 0) if first else inputs.steps[0]
    canary = CanaryStatus(
        **_fields(desired),
        state="Initial" if first else "Progressing",
        step_weight=step.asked,
        desired_weight=step.weight,
        progressed_at=stamp(inputs.now),
        message=_step_message(inputs, step),
    )
    text = f"{messages.pair(canary)} ({canary.revision}) " + (
        "starts as the first revision" if first else f"starts at {step.weight}%"
    )
    return replace(state, canary=canary).with_event("Normal", "CanaryStarted", text)


def _observe(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> CanaryStatus:
    """Bring what is seen of the canary into its status; a changed replica count re-reads the steps."""
    mine, theirs = inputs.of(canary), inputs.of(state.stable)
    seen: dict[str, object] = {
        "actual_weight": percent(mine.ready, mine.ready + theirs.ready),
        "message": inputs.trouble.message if inputs.trouble else "",
    }
    evaluation = inputs.evaluation
    if canary.state == "Progressing":
        index = step_at(inputs.steps, canary.step_weight)
        step = inputs.steps[index]
        seen |= {"step": index, "step_weight": step.asked, "desired_weight": step.weight}
        if not inputs.trouble:
            seen["message"] = _step_message(inputs, step)
        if step.weight != canary.desired_weight:
            seen |= {"weight_since": None, "results": []}
        elif evaluation is not None:
            seen |= judge.to_remember(canary, evaluation, inputs.now)
    return canary.model_copy(update=seen)


def _progress(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    step = inputs.steps[canary.step]
    expected = _expected(inputs, step)
    verdict = judge.overall(canary.results, expected) if expected else Verdict.SUCCESS
    if verdict is Verdict.FAILURE:
        return _roll_back(inputs, state, canary, "AnalysisFailed", messages.failure_text(canary.results))
    settled = _settled(inputs, state, step)
    if canary.weight_since is None and settled:
        canary = canary.model_copy(update={"weight_since": stamp(inputs.now)})
        return replace(state, canary=canary).with_event(
            "Normal", "CanaryWeight", f"{messages.pair(canary)} has {canary.actual_weight}% of the ready pods"
        )
    paused = canary.weight_since is not None and elapsed(canary.weight_since, inputs.now) >= step.pause_seconds
    if settled and paused and verdict is Verdict.SUCCESS:
        return _next_step(inputs, state, canary)
    return _check_deadline(inputs, state, canary, pause=step.pause_seconds)


def _expected(inputs: RolloutInputs, step: Split) -> int:
    """Comparisons with stable are made only where stable serves."""
    return sum(1 for entry in inputs.rollout.analysis if entry.max_over_stable is None or step.stable > 0)


def _settled(inputs: RolloutInputs, state: RolloutState, step: Split) -> bool:
    mine, theirs = inputs.of(state.canary), inputs.of(state.stable)
    return (mine.ready, mine.replicas) == (step.canary, step.canary) and (theirs.ready, theirs.replicas) == (
        step.stable,
        step.stable,
    )


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
    text = f"{messages.pair(canary)} passed {canary.desired_weight}%, next {step.weight}%"
    return replace(state, canary=following).with_event("Normal", "CanaryStep", text)


def _promoting(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, why: str) -> RolloutState:
    growing = canary.model_copy(update={"state": "Promoting", "progressed_at": stamp(inputs.now)})
    return replace(state, canary=growing).with_event(
        "Normal", "Promoting", f"{messages.pair(canary)}: {why}; growing to {inputs.replicas} pods"
    )


def _promote(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus) -> RolloutState:
    before = f", was {messages.pair(state.stable)}" if state.stable else ""
    stable = RevisionStatus(**(_fields(canary) | {"since": stamp(inputs.now)}))
    return replace(state, stable=stable, canary=None).with_event(
        "Normal", "Promoted", f"{messages.pair(stable)} serves 100%{before}"
    )


def _drop(state: RolloutState, canary: CanaryStatus, desired: RevisionStatus | None) -> RolloutState:
    why = (
        f"{messages.pair(desired)} ({desired.revision}) is wanted instead"
        if desired
        else "its foundation version is no longer offered"
    )
    return replace(state, canary=None).with_event(
        "Normal", "CanaryDropped", f"{messages.pair(canary)} ({canary.revision}): {why}"
    )


def _roll_back(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, reason: str, why: str) -> RolloutState:
    message = messages.rolled_back(inputs.model, canary, canary.actual_weight, why, state.stable)[:1024]
    entry = FailedRevision(
        revision=canary.revision,
        version=canary.version,
        foundation_version=canary.foundation.version,
        image=canary.serving.image,
        reason=reason,
        message=message,
        time=stamp(inputs.now),
        serving_changed=state.stable is not None
        and serving_template(state.stable.serving) != serving_template(canary.serving),
        results=canary.results,
    )
    kept = tuple(old for old in state.failed if old.revision != canary.revision)
    failed = (*kept, entry)[-REMEMBERED_REVISIONS:]
    return replace(state, canary=None, failed=failed).with_event("Warning", reason, message)


def _check_deadline(inputs: RolloutInputs, state: RolloutState, canary: CanaryStatus, *, pause: int) -> RolloutState:
    limit = inputs.rollout.progress_deadline_seconds
    if elapsed(canary.progressed_at, inputs.now) <= pause + limit:
        return state
    return _roll_back(
        inputs, state, canary, "ProgressDeadlineExceeded", f"{_holding_back(inputs, canary)} for {limit} s"
    )


def _holding_back(inputs: RolloutInputs, canary: CanaryStatus) -> str:
    if inputs.trouble is not None:
        return inputs.trouble.message
    wanted = inputs.replicas if canary.state != "Progressing" else inputs.steps[canary.step].canary
    ready = inputs.of(canary).ready
    if ready < wanted:
        return f"{ready} of {wanted} pods ready"
    return messages.worst(canary.results) or "the weight did not take effect"


def _step_message(inputs: RolloutInputs, step: Split) -> str:
    if step.merged:
        return messages.merged_steps(step.merged, step.weight, inputs.replicas)
    return messages.approximated(step.asked, step.weight, inputs.replicas) if step.weight != step.asked else ""


def _fields(revision: RevisionStatus) -> dict[str, Any]:
    return {name: getattr(revision, name) for name in RevisionStatus.model_fields}
