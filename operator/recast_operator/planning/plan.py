"""What a pass decides to do: a value, executed by the controller in the order of its fields.

:func:`planning.foundation.plan_foundation` and :func:`planning.expert.plan_expert` make it. They compute the whole
status from scratch out of the snapshot and derive every effect from that *new* status, so that a crash between two
writes loses nothing: the next pass derives the same effects again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from recast_api.resources import ExpertModelStatus, FoundationModelStatus, ModelVersionStatus, Training
from recast_api.run import TrainingRun
from recast_operator.children.kinds import ChildKind
from recast_operator.children.labels import Object

StatusT = TypeVar("StatusT", FoundationModelStatus, ExpertModelStatus)


@dataclass(frozen=True)
class Event:
    """A transition told to people, on the model; handed over with the write that makes it so."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class VersionWrite:
    """What to write on a ModelVersion; a None means: leave as it is."""

    name: str
    resource_version: str
    """Of the snapshot. Both writes carry it (the second: what the first returned)."""
    owner: Object | None = None
    """An owner reference to add: the version is of one of our own runs."""
    status: ModelVersionStatus | None = None
    events: tuple[Event, ...] = ()
    """What the write tells; on the model, not on the version."""


@dataclass(frozen=True)
class Apply:
    """Create or rewrite a child by server-side apply."""

    body: Object
    why: str
    """What was changed and what it is changed to, for people."""
    events: tuple[Event, ...] = ()
    """What the write tells; on the model."""


@dataclass(frozen=True)
class Scale:
    """Set ``spec.replicas`` of a Deployment, touching nothing else of it."""

    name: str
    replicas: int
    why: str = ""
    events: tuple[Event, ...] = ()
    """What the write tells; on the model."""


@dataclass(frozen=True)
class SubmitRun:
    """Submit one attempt as a Job named ``run.job_name``; existing and owned by ``owner`` counts as success."""

    run: TrainingRun
    training: Training
    """Image, processes, resources, deadline and TTL of the Job."""
    models_claim: str
    """PersistentVolumeClaim mounted read-write at ``names.MODELS_MOUNT``."""
    data_claim: str
    """PersistentVolumeClaim mounted read-only at ``names.DATA_MOUNT``."""
    owner: Object
    """Owner reference to the model, ``controller: true``."""


@dataclass(frozen=True)
class Deletion:
    """Delete a child and, in the background, what it owns: absent counts as success."""

    kind: ChildKind | Literal["Job"]
    name: str
    why: str = ""


@dataclass(frozen=True)
class Plan(Generic[StatusT]):
    """One pass. Executed from top to bottom; a conflict (409) anywhere ends the pass and observes again.

    ``status`` comes before everything that changes the cluster: what follows is derived from it.
    """

    status: StatusT
    """The complete new status. Written with the snapshot's ``resourceVersion``; skipped where equal."""
    confirm: tuple[str, ...] = ()
    """Names of ModelVersions whose absence would decide something, but which only the watch says are absent.

    Where not empty, nothing of this plan is executed. The controller reads each by GET: one that is there goes into the
    store; the names of those that are not become ``absent_versions`` of the snapshot, which is then planned anew with
    the same instant. It does so once a pass: a second plan that still asks (the version exists and cannot be read) is
    executed, and concludes nothing either.
    """
    finalizers: tuple[str, ...] | None = None
    """The complete new ``metadata.finalizers`` of the model, or None to leave them. Written before the status."""
    versions: tuple[VersionWrite, ...] = ()
    """Verdicts and adoptions. Written before the status, which relies on them."""
    apply: tuple[Apply, ...] = ()
    """Only children that are missing, made from other input, or changed by somebody else."""
    scales: tuple[Scale, ...] = ()
    submit: SubmitRun | None = None
    deletions: tuple[Deletion, ...] = ()
    events: tuple[Event, ...] = ()
    """What the status write tells."""
    requeue_after: float | None = None
    """Seconds until time alone may change the plan; None: wait for an event or the periodic resync."""
