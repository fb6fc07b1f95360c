"""What a model's status says of its training: the run in progress, and what failed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recast_api.base import Message, Reason, Status, Timestamp


class RunStatus(Status):
    """The run whose number is reserved. It is written before its Job is made, so that a crash cannot double it."""

    number: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)] = 1
    preemptions: Annotated[int, Field(ge=0)] = 0
    job_name: Annotated[str, Field(max_length=63)]
    inputs_hash: Annotated[str, Field(max_length=64)]
    started_at: Timestamp
    retry_at: Timestamp | None = None
    """When the next attempt may start; absent while an attempt runs."""
    state: Literal["Reserved", "Running", "BackingOff"] = "Reserved"


class InputFailure(Status):
    """A failure remembered by its inputs: the same inputs are not trained again."""

    inputs_hash: Annotated[str, Field(max_length=64)]
    number: Annotated[int, Field(ge=0)]
    reason: Reason
    message: Message
    time: Timestamp


Failures = Annotated[list[InputFailure], Field(default_factory=list, max_length=16)]
