"""The life of a run: reserve a number → submit → attempts, back-off, pre-emption → land or fail.

The number is written to status before anything is made from it, and the Job's name follows from it, so that a crash at
any point finds either nothing or the same Job again. Status is the memory: a run that ended there is not run again
whatever has become of its Job.

=============  ===========================================  =====================================================
state          what is so                                   what happens
=============  ===========================================  =====================================================
Reserved       the number is ours, its Job was never seen   submit the Job (again: creation is idempotent)
Running        the Job was seen                             wait; its end, or its disappearance, decides
BackingOff     an attempt ended, another is due             wait for ``retryAt`` and for the old pods to be gone
(no run)       landed, failed, or never begun
=============  ===========================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from recast_api import names
from recast_api.resources import ExpertModelStatus, FoundationModelStatus, InputFailure, ModelVersion, RunStatus
from recast_operator.planning.clock import parse, stamp
from recast_operator.planning.plan import Deletion, Event
from recast_operator.planning.snapshot import DEADLINE_EXCEEDED, DISRUPTED, ObservedRun
from recast_operator.planning.status.pod_diagnosis import diagnose, termination_message
from recast_operator.planning.training.inputs import TrainingInputs, weights_part
from recast_operator.planning.versions.verdict import by_number, newest_landed

BACKOFF_FIRST_SECONDS = 10
BACKOFF_CAP_SECONDS = 300
REMEMBERED_FAILURES = 16


@dataclass(frozen=True)
class TrainingState:
    """A model's training as it stands: what its status remembers, and what this pass adds."""

    run: RunStatus | None
    last_number: int
    trained: str
    """Inputs of the newest landed version."""
    failures: tuple[InputFailure, ...]
    submit: bool = False
    """The reservation that this pass *observed* may become a Job now."""
    note: str = ""
    """What the run is doing or waiting for, for the condition."""
    note_reason: str = "Training"
    deletions: tuple[Deletion, ...] = ()
    events: tuple[Event, ...] = ()
    requeue: float | None = None


def remembered(status: FoundationModelStatus | ExpertModelStatus) -> TrainingState:
    """What a status remembers."""
    return TrainingState(status.run, status.last_number, status.trained_inputs_hash, tuple(status.failures))


def advance(inputs: TrainingInputs, state: TrainingState) -> TrainingState:
    """Bring the run in progress up to date with its Job and its version."""
    state = _remember_landed(inputs, state)
    run = state.run
    if run is None:
        return state
    seen = inputs.observed_run(run)
    if run.state == "Reserved":
        return _reserved(inputs, state, run, seen)
    if run.state == "BackingOff":
        return _backing_off(inputs, state, run, seen)
    return _running(inputs, state, run, seen)


def is_due(inputs: TrainingInputs, state: TrainingState) -> bool:
    """Whether the spec asks for a version that was neither landed nor tried in vain."""
    if inputs.wanted is None or inputs.suspended or state.run is not None:
        return False
    return weights_part(inputs.wanted) != weights_part(state.trained) and failure(state, inputs.wanted) is None


def failure(state: TrainingState, inputs: str) -> InputFailure | None:
    """What is remembered of these very inputs."""
    return next((entry for entry in state.failures if entry.inputs_hash == inputs), None)


def reserve(inputs: TrainingInputs, state: TrainingState, versions: Sequence[ModelVersion]) -> TrainingState:
    """Take the next number, higher than any ever seen. The Job follows in a pass that observes the reservation."""
    taken = [entry.spec.number for entry in versions] + [seen.number for seen in inputs.runs]
    number = max([state.last_number, *taken]) + 1
    run = RunStatus(
        number=number,
        job_name=names.job(inputs.kind, inputs.model, number, 1),
        inputs_hash=inputs.wanted or "",
        started_at=stamp(inputs.now),
    )
    return replace(state, run=run, last_number=number, note=f"run {number} is about to start")


def _remember_landed(inputs: TrainingInputs, state: TrainingState) -> TrainingState:
    newest = newest_landed(inputs.judged)
    if newest is None:
        return state
    runs = [entry.version.spec.run for entry in inputs.judged if entry.ours and entry.version.spec.run]
    trained = runs[-1].inputs_hash if runs else state.trained
    state = replace(state, trained=trained, last_number=max(state.last_number, newest.number))
    run = state.run
    landed = by_number(inputs.judged, run.number) if run else None
    if run is None or landed is None:
        return state
    event = Event("Normal", "VersionLanded", f"v{landed.number} landed after {run.attempt} attempt(s)")
    return replace(state, run=None, events=(*state.events, event))


def _reserved(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None) -> TrainingState:
    if seen is not None:
        started = Event("Normal", "RunStarted", f"run {run.number}, attempt {run.attempt}: Job {run.job_name}")
        running = replace(state, run=run.model_copy(update={"state": "Running"}), events=(*state.events, started))
        return _running(inputs, running, running.run or run, seen)
    if inputs.wanted is not None and inputs.wanted != run.inputs_hash:
        return replace(state, run=None, note="the spec has changed before the run began")
    if inputs.suspended:
        return replace(state, note=f"run {run.number} waits: spec.suspend is set", note_reason="Suspended")
    return replace(
        state, submit=inputs.wanted is not None, note=f"run {run.number}, attempt {run.attempt} is being submitted"
    )


def _running(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None) -> TrainingState:
    if seen is None:
        return _retry(inputs, state, run, "JobLost", f"Job {run.job_name} was deleted before it ended", preempted=False)
    if not seen.ended:
        return _active(inputs, state, run, seen)
    if seen.state == "Succeeded":
        lost = f"Job {run.job_name} is complete, but v{run.number} has not appeared; publishing again"
        return _retry(inputs, state, run, "VersionMissing", lost, preempted=False)
    return _failed(inputs, state, run, seen)


def _active(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun) -> TrainingState:
    found = diagnose(seen.pods, "spec.training.image")
    if found is None:
        return replace(state, note=f"run {run.number}, attempt {run.attempt} is training")
    if found.image and inputs.wanted is not None and inputs.wanted != run.inputs_hash:
        event = Event(
            "Normal", "RunCancelled", f"run {run.number} never started ({found.message}); the spec has changed"
        )
        return replace(
            state,
            run=None,
            deletions=(Deletion("Job", seen.name, "it never started, and the spec has changed"),),
            events=(*state.events, event),
            note="the spec has changed",
        )
    return replace(state, note=found.message, note_reason=found.reason)


def _failed(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun) -> TrainingState:
    if seen.reason == DISRUPTED:
        return _retry(inputs, state, run, "Preempted", f"attempt {run.attempt} was pre-empted", preempted=True)
    if seen.reason == DEADLINE_EXCEEDED:
        limit = inputs.training.active_deadline_seconds
        text = f"attempt {run.attempt} took longer than {limit} s; raise spec.training.activeDeadlineSeconds"
        return _fail(inputs, state, run, "DeadlineExceeded", text)
    left = termination_message(seen.pods)
    if left is None:
        codes = sorted({str(pod.exit_code) for pod in seen.pods if pod.exit_code})
        hint = "; it ran out of memory: raise spec.training.resources" if "137" in codes else ""
        text = f"attempt {run.attempt} ended with exit code {', '.join(codes) or 'unknown'} and left no message{hint}"
        return _retry(inputs, state, run, "PodFailed", text, preempted=False)
    if left.retryable:
        return _retry(inputs, state, run, left.reason, left.message, preempted=False)
    return _fail(inputs, state, run, left.reason, left.message)


def _retry(
    inputs: TrainingInputs, state: TrainingState, run: RunStatus, reason: str, message: str, *, preempted: bool
) -> TrainingState:
    preemptions = run.preemptions + (1 if preempted else 0)
    used = run.attempt - preemptions
    if not preempted and used >= inputs.training.max_attempts:
        return _fail(inputs, state, run, reason, f"{message} (attempt {used} of {inputs.training.max_attempts})")
    delay = min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** max(0, used - 1))
    waiting = run.model_copy(
        update={
            "state": "BackingOff",
            "preemptions": preemptions,
            "retry_at": stamp(inputs.now + timedelta(seconds=delay)),
        }
    )
    event = Event("Warning", "RunRetrying", f"run {run.number}: {message}; next attempt in {delay} s ({reason})")
    return replace(
        state, run=waiting, events=(*state.events, event), note=message, note_reason=reason, requeue=float(delay)
    )


def _backing_off(
    inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None
) -> TrainingState:
    if inputs.wanted is not None and inputs.wanted != run.inputs_hash:
        return replace(state, run=None, note="the spec has changed; the next run begins from it")
    wait = (parse(run.retry_at) - inputs.now).total_seconds() if run.retry_at else 0.0
    if wait > 0:
        return replace(
            state,
            requeue=wait,
            note=f"run {run.number}: the next attempt waits until {run.retry_at}",
            note_reason="BackingOff",
        )
    if seen is not None and seen.pods_remain:
        return replace(
            state,
            note=f"run {run.number}: waiting for the pods of attempt {run.attempt} to be gone",
            note_reason="BackingOff",
        )
    attempt = run.attempt + 1
    again = run.model_copy(
        update={
            "state": "Reserved",
            "attempt": attempt,
            "retry_at": None,
            "job_name": names.job(inputs.kind, inputs.model, run.number, attempt),
        }
    )
    return replace(state, run=again, note=f"run {run.number}, attempt {attempt} is about to start")


def _fail(inputs: TrainingInputs, state: TrainingState, run: RunStatus, reason: str, message: str) -> TrainingState:
    entry = InputFailure(
        inputs_hash=run.inputs_hash, number=run.number, reason=reason, message=message[:1024], time=stamp(inputs.now)
    )
    kept = [old for old in state.failures if old.inputs_hash != run.inputs_hash]
    failures = (*kept, entry)[-REMEMBERED_FAILURES:]
    event = Event("Warning", "RunFailed", f"run {run.number}: {reason}: {message}")
    return replace(state, run=None, failures=tuple(failures), events=(*state.events, event))
