"""The life of a run: reserve a number → submit → attempts and back-off → land or fail.

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

A run that is cancelled stays in status until its Job is gone, so that a deletion that fails is made again.

In every state the version itself decides first: one that is there has landed, whatever its Job says. That it is *not*
there is believed only after a GET, since a Job's end may be seen before the version that it created.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recast_api import names
from recast_api.resources import ModelVersion, RunStatus
from recast_operator.planning.clock import parse, stamp
from recast_operator.planning.plan import Deletion
from recast_operator.planning.snapshot import ObservedRun
from recast_operator.planning.status.pod_diagnosis import diagnose
from recast_operator.planning.training.attempts import BACKOFF_CAP_SECONDS, attempt_end, follow
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import by_number


def advance(inputs: TrainingInputs, state: TrainingState) -> TrainingState:
    """Bring the run in progress up to date with its Job and its version."""
    state = _land(inputs, _recall(inputs, state))
    if state.run is None or state.deletions:
        return state
    seen = inputs.observed_run(state.run)
    step = {"Reserved": _reserved, "Running": _running, "BackingOff": _backing_off}[state.run.state]
    return step(inputs, state, state.run, seen)


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
    return replace(state, run=run, last_number=number, note=f"run {number}, attempt 1 is being submitted")


def _recall(inputs: TrainingInputs, state: TrainingState) -> TrainingState:
    """What the landed versions say overrules what status remembers of their runs."""
    landed = [entry.version.spec for entry in inputs.judged if entry.ours]
    runs = [(spec.number, spec.run.inputs_hash) for spec in landed if spec.run is not None]
    # A version from the same inputs makes good the failures before it, not that of the run which was to land it again.
    failures = (
        old
        for old in state.failures
        if not any(n == old.number or (n > old.number and i == old.inputs_hash) for n, i in runs)
    )
    return replace(
        state,
        trained=runs[-1][1] if runs else state.trained,
        last_number=max([state.last_number, *(spec.number for spec in landed)]),
        failures=tuple(failures),
    )


def _land(inputs: TrainingInputs, state: TrainingState) -> TrainingState:
    run = state.run
    landed = by_number(inputs.judged, run.number) if run else None
    if run is None or landed is None:
        return state
    if landed.version.spec.run is None:
        seen, why = inputs.observed_run(run), f"v{run.number} was landed by somebody else"
        if seen is not None and not seen.ended:
            return _cancelling(state, seen, why)
        return replace(state, run=None).with_event("Warning", "RunCancelled", f"run {run.number} is taken back: {why}")
    attempts = "1 attempt" if run.attempt == 1 else f"{run.attempt} attempts"
    return replace(state, run=None).with_event("Normal", "VersionLanded", f"v{landed.number} landed after {attempts}")


def _reserved(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None) -> TrainingState:
    if seen is not None:
        running = run.model_copy(update={"state": "Running"})
        started = replace(state, run=running).with_event(
            "Normal", "RunStarted", f"run {run.number}, attempt {run.attempt}: Job {run.job_name}"
        )
        return _running(inputs, started, running, seen)
    if _outdated(inputs, run):
        return replace(state, run=None, note="the spec has changed before the run began")
    if inputs.suspended:
        return replace(state, note=f"run {run.number} waits: spec.suspend is set", note_reason="Suspended")
    return replace(
        state, submit=inputs.wanted is not None, note=f"run {run.number}, attempt {run.attempt} is being submitted"
    )


def _running(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None) -> TrainingState:
    if seen is not None and not seen.ended:
        return _active(inputs, state, run, seen)
    name = names.version(inputs.kind, inputs.model, run.number)
    if not inputs.known_absent(name, run.number):
        return replace(state, confirm=(name,), note=f"attempt {run.attempt} of run {run.number} has ended")
    if seen is None and _outdated(inputs, run):
        return replace(state, run=None, note="the spec has changed").with_event(
            "Normal", "RunCancelled", f"run {run.number} has no Job any more; the spec has changed"
        )
    return follow(inputs, state, run, attempt_end(inputs, run, seen))


def _active(inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun) -> TrainingState:
    found = diagnose(seen.pods, "spec.training.image")
    if found is None:
        return replace(state, note=f"run {run.number}, attempt {run.attempt} is training")
    if not found.image or not _outdated(inputs, run):
        return replace(state, note=found.message, note_reason=found.reason)
    return _cancelling(state, seen, f"it never started ({found.message}), and the spec has changed")


def _cancelling(state: TrainingState, seen: ObservedRun, why: str) -> TrainingState:
    return replace(state, deletions=(Deletion("Job", seen.name, why),), note=f"Job {seen.name} is deleted: {why}")


def _backing_off(
    inputs: TrainingInputs, state: TrainingState, run: RunStatus, seen: ObservedRun | None
) -> TrainingState:
    if _outdated(inputs, run):
        return replace(state, run=None, note="the spec has changed; the next run begins from it")
    wait = (parse(run.retry_at) - inputs.now).total_seconds() if run.retry_at else 0.0
    if 0 < wait <= BACKOFF_CAP_SECONDS:  # further ahead than any delay: the clock was set back
        note = f"run {run.number}: the next attempt waits until {run.retry_at}"
        return replace(state, requeue=wait, note=note, note_reason="BackingOff")
    if seen is not None and seen.pods_remain:
        note = f"run {run.number}: waiting for the pods of attempt {run.attempt} to be gone"
        return replace(state, note=note, note_reason="BackingOff")
    attempt = run.attempt + 1
    again = run.model_copy(
        update={
            "state": "Reserved",
            "attempt": attempt,
            "retry_at": None,
            "job_name": names.job(inputs.kind, inputs.model, run.number, attempt),
        }
    )
    return replace(state, run=again, note=f"run {run.number}, attempt {attempt} is being submitted")


def _outdated(inputs: TrainingInputs, run: RunStatus) -> bool:
    """Whether the spec asks for other inputs by now; while it cannot be known, no."""
    return inputs.wanted is not None and inputs.wanted != run.inputs_hash
