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
from datetime import datetime, timedelta

from recast_api import names
from recast_api.names import Kind
from recast_api.resources import (
    ExpertModelStatus,
    FoundationModelStatus,
    InputFailure,
    ModelVersion,
    RunStatus,
    Training,
)
from recast_operator.planning import hashing
from recast_operator.planning.clock import parse, stamp
from recast_operator.planning.outcome import Deletion, Event
from recast_operator.planning.pods import trouble, words
from recast_operator.planning.snapshot import ObservedJob
from recast_operator.planning.versions import Judged, by_number, newest_landed

BACKOFF_FIRST_SECONDS = 10
BACKOFF_CAP_SECONDS = 300
REMEMBERED_FAILURES = 16


@dataclass(frozen=True)
class Ledger:
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


@dataclass(frozen=True)
class Workshop:
    """What the decisions about a run look at."""

    kind: Kind
    model: str
    uid: str
    training: Training
    wanted: str | None
    """Inputs hash of the spec as it is now; None while it cannot be known (no foundation)."""
    jobs: tuple[ObservedJob, ...]
    judged: tuple[Judged, ...]
    now: datetime
    suspended: bool = False
    """``spec.suspend``: no Job is made; one that runs goes on."""

    def job(self, run: RunStatus) -> ObservedJob | None:
        """The Job of the run's present attempt, if it is ours."""
        return next((job for job in self.jobs if job.name == run.job_name and job.owner_uid == self.uid), None)


def ledger(status: FoundationModelStatus | ExpertModelStatus) -> Ledger:
    """What a status remembers."""
    return Ledger(status.run, status.last_number, status.trained_inputs_hash, tuple(status.failures))


def advance(shop: Workshop, ledger: Ledger) -> Ledger:
    """Bring the run in progress up to date with its Job and its version."""
    ledger = _remember_landed(shop, ledger)
    run = ledger.run
    if run is None:
        return ledger
    job = shop.job(run)
    if run.state == "Reserved":
        return _reserved(shop, ledger, run, job)
    if run.state == "BackingOff":
        return _backing_off(shop, ledger, run, job)
    return _running(shop, ledger, run, job)


def is_due(shop: Workshop, ledger: Ledger) -> bool:
    """Whether the spec asks for a version that was neither landed nor tried in vain."""
    if shop.wanted is None or shop.suspended or ledger.run is not None:
        return False
    return hashing.what(shop.wanted) != hashing.what(ledger.trained) and failure(ledger, shop.wanted) is None


def failure(ledger: Ledger, inputs: str) -> InputFailure | None:
    """What is remembered of these very inputs."""
    return next((entry for entry in ledger.failures if entry.inputs_hash == inputs), None)


def reserve(shop: Workshop, ledger: Ledger, versions: Sequence[ModelVersion]) -> Ledger:
    """Take the next number, higher than any ever seen. The Job follows in a pass that observes the reservation."""
    taken = [entry.spec.number for entry in versions] + [job.number for job in shop.jobs]
    number = max([ledger.last_number, *taken]) + 1
    run = RunStatus(
        number=number,
        job_name=names.job(shop.kind, shop.model, number, 1),
        inputs_hash=shop.wanted or "",
        started_at=stamp(shop.now),
    )
    return replace(ledger, run=run, last_number=number, note=f"run {number} is about to start")


def _remember_landed(shop: Workshop, ledger: Ledger) -> Ledger:
    newest = newest_landed(shop.judged)
    if newest is None:
        return ledger
    runs = [entry.version.spec.run for entry in shop.judged if entry.ours and entry.version.spec.run]
    trained = runs[-1].inputs_hash if runs else ledger.trained
    ledger = replace(ledger, trained=trained, last_number=max(ledger.last_number, newest.number))
    run = ledger.run
    landed = by_number(shop.judged, run.number) if run else None
    if run is None or landed is None:
        return ledger
    event = Event("Normal", "VersionLanded", f"v{landed.number} landed after {run.attempt} attempt(s)")
    return replace(ledger, run=None, events=(*ledger.events, event))


def _reserved(shop: Workshop, ledger: Ledger, run: RunStatus, job: ObservedJob | None) -> Ledger:
    if job is not None:
        started = Event("Normal", "RunStarted", f"run {run.number}, attempt {run.attempt}: Job {run.job_name}")
        running = replace(ledger, run=run.model_copy(update={"state": "Running"}), events=(*ledger.events, started))
        return _running(shop, running, running.run or run, job)
    if shop.wanted is not None and shop.wanted != run.inputs_hash:
        return replace(ledger, run=None, note="the spec has changed before the run began")
    if shop.suspended:
        return replace(ledger, note=f"run {run.number} waits: spec.suspend is set", note_reason="Suspended")
    return replace(
        ledger, submit=shop.wanted is not None, note=f"run {run.number}, attempt {run.attempt} is being submitted"
    )


def _running(shop: Workshop, ledger: Ledger, run: RunStatus, job: ObservedJob | None) -> Ledger:
    if job is None:
        return _retry(shop, ledger, run, "JobLost", f"Job {run.job_name} was deleted before it ended", preempted=False)
    if job.state == "Active":
        return _active(shop, ledger, run, job)
    if job.state == "Complete":
        lost = f"Job {run.job_name} is complete, but v{run.number} has not appeared; publishing again"
        return _retry(shop, ledger, run, "VersionMissing", lost, preempted=False)
    return _failed(shop, ledger, run, job)


def _active(shop: Workshop, ledger: Ledger, run: RunStatus, job: ObservedJob) -> Ledger:
    found = trouble(job.pods, "spec.training.image")
    if found is None:
        return replace(ledger, note=f"run {run.number}, attempt {run.attempt} is training")
    if found.image and shop.wanted is not None and shop.wanted != run.inputs_hash:
        event = Event(
            "Normal", "RunCancelled", f"run {run.number} never started ({found.message}); the spec has changed"
        )
        return replace(
            ledger,
            run=None,
            deletions=(Deletion("Job", job.name),),
            events=(*ledger.events, event),
            note="the spec has changed",
        )
    return replace(ledger, note=found.message, note_reason=found.reason)


def _failed(shop: Workshop, ledger: Ledger, run: RunStatus, job: ObservedJob) -> Ledger:
    if job.disrupted:
        return _retry(shop, ledger, run, "Preempted", f"attempt {run.attempt} was pre-empted", preempted=True)
    if job.reason == "DeadlineExceeded":
        limit = shop.training.active_deadline_seconds
        text = f"attempt {run.attempt} took longer than {limit} s; raise spec.training.activeDeadlineSeconds"
        return _fail(shop, ledger, run, "DeadlineExceeded", text)
    spoken = words(job.pods)
    if spoken is None:
        codes = sorted({str(pod.exit_code) for pod in job.pods if pod.exit_code})
        hint = "; it ran out of memory: raise spec.training.resources" if "137" in codes else ""
        text = f"attempt {run.attempt} ended with exit code {', '.join(codes) or 'unknown'} and left no message{hint}"
        return _retry(shop, ledger, run, "PodFailed", text, preempted=False)
    if spoken.retryable:
        return _retry(shop, ledger, run, spoken.reason, spoken.message, preempted=False)
    return _fail(shop, ledger, run, spoken.reason, spoken.message)


def _retry(shop: Workshop, ledger: Ledger, run: RunStatus, reason: str, message: str, *, preempted: bool) -> Ledger:
    preemptions = run.preemptions + (1 if preempted else 0)
    used = run.attempt - preemptions
    if not preempted and used >= shop.training.max_attempts:
        return _fail(shop, ledger, run, reason, f"{message} (attempt {used} of {shop.training.max_attempts})")
    delay = min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** max(0, used - 1))
    waiting = run.model_copy(
        update={
            "state": "BackingOff",
            "preemptions": preemptions,
            "retry_at": stamp(shop.now + timedelta(seconds=delay)),
        }
    )
    event = Event("Warning", "RunRetrying", f"run {run.number}: {message}; next attempt in {delay} s ({reason})")
    return replace(
        ledger, run=waiting, events=(*ledger.events, event), note=message, note_reason=reason, requeue=float(delay)
    )


def _backing_off(shop: Workshop, ledger: Ledger, run: RunStatus, job: ObservedJob | None) -> Ledger:
    if shop.wanted is not None and shop.wanted != run.inputs_hash:
        return replace(ledger, run=None, note="the spec has changed; the next run begins from it")
    wait = (parse(run.retry_at) - shop.now).total_seconds() if run.retry_at else 0.0
    if wait > 0:
        return replace(
            ledger,
            requeue=wait,
            note=f"run {run.number}: the next attempt waits until {run.retry_at}",
            note_reason="BackingOff",
        )
    if job is not None and job.pods_remain:
        return replace(
            ledger,
            note=f"run {run.number}: waiting for the pods of attempt {run.attempt} to be gone",
            note_reason="BackingOff",
        )
    attempt = run.attempt + 1
    again = run.model_copy(
        update={
            "state": "Reserved",
            "attempt": attempt,
            "retry_at": None,
            "job_name": names.job(shop.kind, shop.model, run.number, attempt),
        }
    )
    return replace(ledger, run=again, note=f"run {run.number}, attempt {attempt} is about to start")


def _fail(shop: Workshop, ledger: Ledger, run: RunStatus, reason: str, message: str) -> Ledger:
    entry = InputFailure(
        inputs_hash=run.inputs_hash, number=run.number, reason=reason, message=message[:1024], time=stamp(shop.now)
    )
    kept = [old for old in ledger.failures if old.inputs_hash != run.inputs_hash]
    failures = (*kept, entry)[-REMEMBERED_FAILURES:]
    event = Event("Warning", "RunFailed", f"run {run.number}: {reason}: {message}")
    return replace(ledger, run=None, failures=tuple(failures), events=(*ledger.events, event))
