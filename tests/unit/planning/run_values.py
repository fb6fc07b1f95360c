"""Runs, attempts and training states as plain values, to call the rules of training directly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from planning_simulator import START

from recast_api.resources import InputFailure, RunStatus, Training
from recast_api.run import TerminationMessage
from recast_operator.planning.snapshot import ObservedPod, ObservedRun
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.training.state import TrainingState

WANTED = "aaaa.11"
ABSENT = frozenset({"fm-home-fm-v4"})
"""The version of the run in progress, when a GET has not found it."""


def inputs(*jobs: ObservedRun, **changes: Any) -> TrainingInputs:
    base = TrainingInputs(
        "FoundationModel",
        "home-fm",
        "uid",
        Training(image="t:1", max_attempts=3),
        WANTED,
        jobs,
        (),
        START,
        absent_versions=ABSENT,
    )
    return replace(base, **changes)


def run(**changes: Any) -> RunStatus:
    fields: dict[str, Any] = {
        "number": 4,
        "job_name": "fm-home-fm-r4-a1",
        "inputs_hash": WANTED,
        "started_at": "2026-11-21T03:00:00Z",
        "state": "Running",
    }
    return RunStatus(**(fields | changes))


def attempt_seen(
    state: str = "Running", attempt: int = 1, pods: tuple[ObservedPod, ...] = (), **changes: Any
) -> ObservedRun:
    return ObservedRun(f"fm-home-fm-r4-a{attempt}", 4, attempt, "uid", state=state, pods=pods, **changes)  # type: ignore[arg-type]


def failed(reason: str = "CorruptSegment", *, retryable: bool = False, **changes: Any) -> ObservedRun:
    said = TerminationMessage(reason=reason, retryable=retryable, message="segment 12 has no footer; restore it")
    return attempt_seen(
        "Failed", pods=(ObservedPod("p", gone=True, termination=said.encode(), exit_code=1),), **changes
    )


def state_of(current: RunStatus | None = None, **changes: Any) -> TrainingState:
    return replace(TrainingState(current, 4, "old.11", ()), **changes)


def remembered_run(hash_: str) -> tuple[RunStatus, InputFailure]:
    """A run from these inputs, and the memory of its failure."""
    entry = InputFailure(inputs_hash=hash_, number=4, reason="CorruptSegment", message="m", time="2026-11-21T03:00:00Z")
    return run(inputs_hash=hash_), entry
