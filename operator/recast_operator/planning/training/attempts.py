"""What follows on an attempt that failed: another attempt after a growing delay, or the end of the run.

Disruptions (pre-emption, drain, eviction) are nobody's fault and use up no attempt, but they let the delay grow and
are bounded too: a run that never keeps its nodes would otherwise start pods for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from recast_api.resources import InputFailure, RunStatus
from recast_operator.planning.clock import stamp
from recast_operator.planning.snapshot import DEADLINE_EXCEEDED, DISRUPTED, ObservedRun
from recast_operator.planning.status.pod_diagnosis import termination_message
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.training.state import TrainingState

BACKOFF_FIRST_SECONDS = 10
BACKOFF_CAP_SECONDS = 300
MAX_DISRUPTIONS = 30
"""Of one run. The delays between them alone take more than two hours."""
REMEMBERED_FAILURES = 16


@dataclass(frozen=True)
class AttemptEnd:
    """Why an attempt ended without a version."""

    reason: str
    message: str
    retryable: bool = True
    disrupted: bool = False
    """Through no fault of its own."""


def attempt_end(inputs: TrainingInputs, run: RunStatus, seen: ObservedRun | None) -> AttemptEnd:
    """Why the run's present attempt, of which no version has landed, is over. None seen: its Job is gone."""
    if seen is None:
        return AttemptEnd("JobLost", f"Job {run.job_name} was deleted before it ended")
    if seen.state == "Succeeded":
        return AttemptEnd("VersionMissing", f"Job {run.job_name} is complete, but v{run.number} has not appeared")
    if seen.reason == DISRUPTED:
        return AttemptEnd("Preempted", f"attempt {run.attempt} was pre-empted", disrupted=True)
    if seen.reason == DEADLINE_EXCEEDED:
        limit = inputs.training.active_deadline_seconds
        text = f"attempt {run.attempt} took longer than {limit} s; raise spec.training.activeDeadlineSeconds"
        return AttemptEnd("DeadlineExceeded", text, retryable=False)
    left = termination_message(seen.pods)
    if left is not None:
        return AttemptEnd(left.reason, left.message, retryable=left.retryable)
    codes = sorted({str(pod.exit_code) for pod in seen.pods if pod.exit_code})
    hint = "; it ran out of memory: raise spec.training.resources" if "137" in codes else ""
    text = f"attempt {run.attempt} ended with exit code {', '.join(codes) or 'unknown'} and left no message{hint}"
    return AttemptEnd("PodFailed", text)


def follow(inputs: TrainingInputs, state: TrainingState, run: RunStatus, end: AttemptEnd) -> TrainingState:
    """Wait for another attempt, or give the run up."""
    disruptions = run.preemptions + end.disrupted
    used, limit = run.attempt - disruptions, inputs.training.max_attempts
    if not end.retryable:
        return _give_up(inputs, state, run, end)
    if end.disrupted and disruptions >= MAX_DISRUPTIONS:
        text = (
            f"its pods were pre-empted or evicted {disruptions} times; give them nodes that they keep, or a higher "
            "priority, and raise spec.training.maxAttempts to train the same inputs again"
        )
        return _give_up(inputs, state, run, AttemptEnd("DisruptedTooOften", text))
    if not end.disrupted and used >= limit:
        return _give_up(inputs, state, run, replace(end, message=f"{end.message} (attempt {used} of {limit})"))
    delay = backoff_seconds(run.attempt)
    waiting = run.model_copy(
        update={
            "state": "BackingOff",
            "preemptions": disruptions,
            "retry_at": stamp(inputs.now + timedelta(seconds=delay)),
        }
    )
    text = f"run {run.number}: {end.message}; next attempt in {delay} s ({end.reason})"
    after = replace(state, run=waiting, note=end.message, note_reason=end.reason, requeue=float(delay))
    return after.with_event("Warning", "RunRetrying", text)


def backoff_seconds(attempt: int) -> int:
    """The delay after the given attempt, counted from 1; disrupted attempts count."""
    doublings = min(attempt - 1, BACKOFF_CAP_SECONDS.bit_length())
    return int(min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2**doublings))


def _give_up(inputs: TrainingInputs, state: TrainingState, run: RunStatus, end: AttemptEnd) -> TrainingState:
    entry = InputFailure(
        inputs_hash=run.inputs_hash,
        number=run.number,
        reason=end.reason,
        message=end.message[:1024],
        time=stamp(inputs.now),
    )
    kept = [old for old in state.failures if old.inputs_hash != run.inputs_hash]
    after = replace(state, run=None, failures=(*kept, entry)[-REMEMBERED_FAILURES:])
    return after.with_event("Warning", "RunFailed", f"run {run.number}: {end.reason}: {end.message}")
