"""What a model's status says of its training: the run in progress, and what failed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recast_api.base import Message, Reason, Status, Timestamp


class RunStatus(Status):
    """The run whose number is reserved. It is written before its Job is made, so that a crash cannot double it."""

    number: Annotated[int, Field(ge=1)]
    """The run's number, which the version that it lands will have."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Which attempt this is, from 1."""
    preemptions: Annotated[int, Field(ge=0)] = 0
    """Attempts that were pre-empted; they do not count against spec.training.maxAttempts."""
    job_name: Annotated[str, Field(max_length=63)]
    """The Job of this attempt."""
    inputs_hash: Annotated[str, Field(max_length=64)]
    """Hash of everything that the run learns from: spec, data and foundation version."""
    started_at: Timestamp
    """When the number was reserved."""
    retry_at: Timestamp | None = None
    """When the next attempt may start; absent while an attempt runs."""
    state: Literal["Reserved", "Running", "BackingOff"] = "Reserved"
    """Reserved: the Job is not there yet. Running: the Job was seen. BackingOff: the next attempt waits."""


class InputFailure(Status):
    """A failure remembered by its inputs: the same inputs are not trained again."""

    inputs_hash: Annotated[str, Field(max_length=64)]
    """The inputs that failed."""
    number: Annotated[int, Field(ge=0)]
    """The run that failed."""
    reason: Reason
    """Why, as one word."""
    message: Message
    """Why, with names and numbers, and what to do."""
    time: Timestamp
    """When the run was given up."""


Failures = Annotated[
    list[InputFailure],
    Field(default_factory=list, max_length=16, description="Runs that were given up, the newest last."),
]
