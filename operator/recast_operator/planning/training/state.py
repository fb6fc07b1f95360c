"""A model's training as it stands between two passes, and what one pass adds to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from recast_api.resources import ExpertModelStatus, FoundationModelStatus, InputFailure, RunStatus
from recast_operator.planning.plan import Deletion, Event


@dataclass(frozen=True)
class TrainingState:
    """A model's training: what its status remembers, and what this pass adds."""

    run: RunStatus | None
    last_number: int
    trained: str
    """Inputs of the newest landed version of our own runs."""
    failures: tuple[InputFailure, ...]
    submit: bool = False
    """The reservation that this pass *observed* may become a Job now."""
    note: str = ""
    """What the run is doing or waiting for, for the condition."""
    note_reason: str = "Training"
    confirm: tuple[str, ...] = ()
    """ModelVersions without whose absence nothing may be concluded: see :attr:`planning.plan.Plan.confirm`."""
    deletions: tuple[Deletion, ...] = ()
    events: tuple[Event, ...] = ()
    requeue: float | None = None

    def with_event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> TrainingState:
        """The same with one more event."""
        return replace(self, events=(*self.events, Event(kind, reason, message)))


def remembered(status: FoundationModelStatus | ExpertModelStatus) -> TrainingState:
    """What a status remembers."""
    return TrainingState(status.run, status.last_number, status.trained_inputs_hash, tuple(status.failures))
