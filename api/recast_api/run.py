"""The contract between the operator and a training pod: the run in, the termination message out.

The run is passed in the environment variable ``RECAST_RUN``, a part of the immutable Job: that is the snapshot of the
configuration. A pod that fails writes one JSON object to its termination log; the operator turns it into a
condition, so that a corrupt segment found by a pod reads the same as a mistake found by the apiserver.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from recast_api.base import Decimal, Digest, Duration, Message, Name, Reason, RelativePath, Status, Timestamp, Wire
from recast_api.resources.common import Optimizer, Training
from recast_api.resources.expert import ExpertArchitecture, Task
from recast_api.resources.foundation import Architecture

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LIMIT = 4096  # bytes that the kubelet keeps
_ESCAPED = 12  # bytes that JSON in ASCII needs for a character, at the most


class ArtifactRef(Wire):
    """A landed version, found by its path and believed only if its digest agrees."""

    model: Name
    version: Annotated[int, Field(ge=1)]
    lineage: Annotated[int, Field(ge=1)]
    digest: Digest
    path: RelativePath


class DataRef(Wire):
    """Which part of which data set: ``until``, ``window`` and, of a foundation's, ``tail``, as in the spec."""

    path: RelativePath
    until: Timestamp | None = None
    window: Duration | None = None
    tail: Duration | None = None


class Optimization(Wire):
    """The optimiser's settings, as in the resource's ``training``."""

    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Decimal
    optimizer: Optimizer = Field(default_factory=Optimizer)
    epochs: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def of(cls, training: Training) -> Self:
        """What of a resource's ``training`` the trainer is given."""
        return cls(
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            optimizer=training.optimizer,
            epochs=training.epochs,
            seed=training.seed,
        )


class TrainingRun(Wire):
    """One attempt of one run. Exactly one of ``architecture`` (foundation) and ``expert`` is present."""

    kind: Literal["FoundationModel", "ExpertModel"]
    namespace: Annotated[str, Field(min_length=1, max_length=63)]
    model: Name
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    number: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    job_name: Annotated[str, Field(min_length=1, max_length=63)]
    inputs_hash: Annotated[str, Field(min_length=1, max_length=64)]
    models_root: str
    data_root: str
    data: DataRef
    optimization: Optimization
    architecture: Architecture | None = None
    expert: ExpertRun | None = None
    baseline: ArtifactRef | None = None
    """The version that serves now; measured on the same held-out rows, so that the gate compares pairs."""
    baseline_foundation: ArtifactRef | None = None
    """The foundation that the baseline expert reads; only for experts."""


class ExpertRun(Wire):
    """What an expert's run needs in addition."""

    surface: Annotated[str, Field(min_length=1, max_length=40)]
    tasks: Annotated[list[Task], Field(min_length=1, max_length=16)]
    architecture: ExpertArchitecture
    foundation: ArtifactRef
    tae_log: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Folder of a log made of what servers answered, below ``data_root`` or anywhere; absent: the foundation's own."""


TrainingRun.model_rebuild()


class TerminationMessage(Status):
    """Why a pod ended, in words for the person who reads the condition."""

    reason: Reason
    retryable: bool = False
    message: Message = ""

    def encode(self) -> str:
        """The JSON text for the termination log, in ASCII; the message is cut where the kubelet would cut the JSON."""
        message = self.message
        while len(text := json.dumps({**self.wire(), "message": message})) > TERMINATION_LIMIT:
            message = message[: -(len(text) - TERMINATION_LIMIT) // _ESCAPED]
        return text

    @classmethod
    def decode(cls, text: str) -> TerminationMessage | None:
        """The message in a termination log, or None where a pod died without writing one."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


class RecastError(Exception):
    """An error with the words a user needs. Ends a pod with a :class:`TerminationMessage`."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.termination = TerminationMessage(reason=reason, retryable=retryable, message=message[:1024])
