"""What the operator sees: one custom resource and everything its plan depends on, frozen at one moment.

:mod:`recast_operator.observe` fills these from the store, and the controller adds Prometheus's answers;
``foundation.plan_foundation`` and ``expert.plan_expert`` read nothing else. A snapshot may be stale: that is safe,
because every write carries its UID or ``resourceVersion`` and fails when somebody wrote in between.

A foundation does not see its experts, nor an expert its foundation: each sees a *projection* of the other
(:class:`FleetMember`, :class:`FoundationView`; made by :mod:`planning.projections`). A change outside of the projection
wakes nobody, so that a pass costs what its own model costs and never the fleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from recast_api.reading import Doubt
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_api.resources.common import Data
from recast_api.resources.foundation import FoundationVersionRef
from recast_operator.children.kinds import ChildKind, CompanionKind
from recast_operator.children.record import ChildRecord
from recast_operator.planning.rollout.questions import Answer, Question


@dataclass(frozen=True)
class ObservedPod:
    """One pod, as far as a decision or a message needs it."""

    name: str
    ready: bool = False
    gone: bool = False
    """Finished (phase Succeeded or Failed): it holds no resources any more and gets no traffic."""
    image: str = ""
    waiting_reason: str = ""
    """Why its container does not run, such as ``ImagePullBackOff``, ``CrashLoopBackOff``."""
    waiting_message: str = ""
    unschedulable: str = ""
    """Message of ``PodScheduled=False``, empty once scheduled."""
    termination: str = ""
    """Raw text of the newest termination message, of the running state or the last one. Empty: died without words."""
    exit_code: int | None = None
    restarts: int = 0
    disrupted: bool = False
    """Has the condition ``DisruptionTarget``: pre-empted, drained or evicted, through no fault of its own."""


RunState = Literal["Queued", "Admitted", "Running", "Succeeded", "Failed"]
"""Queued: a queue has not let it start. Admitted: it may start, and not all of its pods run yet."""

DISRUPTED = "Disrupted"
"""Reason of a run that failed through no fault of its own: pre-empted, drained or evicted."""
DEADLINE_EXCEEDED = "DeadlineExceeded"
"""Reason of a run that took longer than ``activeDeadlineSeconds``."""


@dataclass(frozen=True)
class ObservedRun:
    """One attempt of a training run, whatever launched it. What a Job or a queue says is translated by an adapter."""

    name: str
    """Name of the object that carries it, such as the Job's."""
    number: int
    """From the label ``recast.dev/run``."""
    attempt: int
    owner_uid: str
    state: RunState = "Running"
    reason: str = ""
    """Why it failed: :data:`DISRUPTED`, :data:`DEADLINE_EXCEEDED`, or the launcher's own word."""
    message: str = ""
    pods: tuple[ObservedPod, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it succeeded or failed."""
        return self.state in ("Succeeded", "Failed")

    @property
    def pods_remain(self) -> bool:
        """Whether a pod of this attempt may still run: the next attempt must not meet it."""
        return any(not pod.gone for pod in self.pods)


@dataclass(frozen=True)
class ObservedDeployment:
    """One server Deployment that carries our labels."""

    name: str
    owner_uid: str
    template_hash: str
    """Of the input that it was made from; empty where nothing says it."""
    lineage: int = 0
    """From the label ``recast.dev/lineage``."""
    revision: str = ""
    """From the label ``recast.dev/revision``; empty for a foundation's."""
    replicas: int = 0
    """``spec.replicas``."""
    ready: int = 0
    """Pods of it that are ready and not terminating: the endpoints that traffic reaches."""
    updated: int = 0
    """``status.updatedReplicas``."""
    current: bool = True
    """``status.observedGeneration`` has reached ``metadata.generation``, and nobody else has changed it."""
    pods: tuple[ObservedPod, ...] = ()
    record: ChildRecord = field(default_factory=ChildRecord)


@dataclass(frozen=True)
class ObservedCompanion:
    """One Service, or whatever else stands beside pods, that carries our labels."""

    kind: CompanionKind
    name: str
    owner_uid: str
    template_hash: str
    record: ChildRecord = field(default_factory=ChildRecord)


@dataclass(frozen=True)
class Children:
    """The objects a model owns. Listed by label, so an owner UID may be another's: planning never touches those."""

    runs: tuple[ObservedRun, ...] = ()
    deployments: tuple[ObservedDeployment, ...] = ()
    companions: tuple[ObservedCompanion, ...] = ()
    revisions_with_pods: frozenset[str] = frozenset()
    """Revisions of which a server pod exists, terminating ones too, whether or not its Deployment still does."""

    def deployment(self, name: str) -> ObservedDeployment | None:
        """The Deployment of that name."""
        return next((item for item in self.deployments if item.name == name), None)

    def companion(self, kind: ChildKind, name: str) -> ObservedCompanion | None:
        """The object of that kind and name."""
        return next((item for item in self.companions if (item.kind, item.name) == (kind, name)), None)


@dataclass(frozen=True)
class LineagePin:
    """A foundation version that a revision reads or a lineage serves, as far as keeping its servers goes."""

    name: str
    lineage: int
    version: int
    digest: str = ""
    """Empty where it cannot be read."""


@dataclass(frozen=True)
class FailedTrial:
    """A roll-out that an expert rolled back, as its foundation judges its own candidate by it."""

    foundation_version: int
    reason: str
    message: str
    time: str
    serving_changed: bool


@dataclass(frozen=True)
class FleetMember:
    """What a foundation reads of one expert, and nothing else: only a change of this wakes the foundation."""

    name: str
    foundation: str
    """``spec.foundationRef.name``; empty where the expert cannot be read."""
    stable: LineagePin | None = None
    canary: LineagePin | None = None
    retiring: tuple[LineagePin, ...] = ()
    """Of revisions that serve no more and whose pods are not gone yet."""
    refresh_since: str = ""
    """Since when it asks for a refresh; empty where it does not."""
    training: bool = False
    """A run of it is in progress."""
    failed_trials: tuple[FailedTrial, ...] = ()
    suspended: bool = False
    follows_majors: bool = True
    """Whether ``FoundationMajor`` is among its triggers."""
    deleting: bool = False
    readable: bool = True
    """False: this operator cannot read the object. Its pins are those of the raw status, and it is never taken for
    absent."""

    @property
    def busy(self) -> bool:
        """It asks for a refresh, trains, or has a canary: it holds the slot that it was granted."""
        return bool(self.refresh_since) or self.training or self.canary is not None or not self.readable

    @property
    def pins(self) -> tuple[LineagePin, ...]:
        """All that it reads, or may still read."""
        serving = tuple(pin for pin in (self.stable, self.canary) if pin is not None)
        return (*serving, *self.retiring)


@dataclass(frozen=True)
class FoundationView:
    """What one expert reads of a foundation, and nothing else: only a change of this wakes the expert."""

    name: str
    models_claim: str
    data: Data
    pilot: bool = False
    """Whether ``spec.fleet.pilots`` names this expert."""
    granted: bool = False
    """Whether this expert holds a refresh slot."""
    slots: int = 1
    """``spec.fleet.maxConcurrentRefreshes``."""
    current: FoundationVersionRef | None = None
    candidate: FoundationVersionRef | None = None
    ready_lineages: frozenset[int] = frozenset()
    """Lineages with a server that is ready."""

    @property
    def offered(self) -> tuple[LineagePin, ...]:
        """What an expert may begin to read: current or candidate, with a ready server."""
        refs = [ref for ref in (self.current, self.candidate) if ref is not None and ref.lineage in self.ready_lineages]
        return tuple(LineagePin(self.name, ref.lineage, ref.version, ref.digest) for ref in refs)


@dataclass(frozen=True)
class ObservedFoundation:
    """A FoundationModel and all it depends on."""

    model: FoundationModel
    versions: tuple[ModelVersion, ...] = ()
    """Every ModelVersion whose ``spec.model`` names this kind and name, whatever UID it claims."""
    unreadable_versions: tuple[str, ...] = ()
    """Names of those that are there and cannot be read by this operator."""
    children: Children = field(default_factory=Children)
    doubts: tuple[Doubt, ...] = ()
    """What of the model this version does not understand."""
    experts: tuple[FleetMember, ...] = ()
    """Experts of the namespace whose ``foundationRef`` names this one or that pin it, and all that cannot be read."""
    absent_versions: frozenset[str] = frozenset()
    """Names out of ``Plan.confirm`` that a GET in this pass has not found."""


@dataclass(frozen=True)
class ObservedExpert:
    """An ExpertModel and all it depends on."""

    model: ExpertModel
    versions: tuple[ModelVersion, ...] = ()
    """Every ModelVersion whose ``spec.model`` names this kind and name, whatever UID it claims."""
    unreadable_versions: tuple[str, ...] = ()
    """Names of those that are there and cannot be read by this operator."""
    children: Children = field(default_factory=Children)
    doubts: tuple[Doubt, ...] = ()
    """What of the model this version does not understand."""
    foundations: Mapping[str, FoundationView] = field(default_factory=dict)
    """By name: the referenced one and the pinned ones, as far as they exist and can be read."""
    unreadable_foundations: frozenset[str] = frozenset()
    """Of these names, those that exist but cannot be read by this operator."""
    foundation_names: tuple[str, ...] = ()
    """All FoundationModels of the namespace, for "did you mean"."""
    foundation_versions: tuple[ModelVersion, ...] = ()
    """ModelVersions of the referenced and the pinned foundations."""
    answers: Mapping[Question, Answer] = field(default_factory=dict)
    """To ``rollout.analysis.questions(observed, now)``. A question without an answer reads as no data."""
    absent_versions: frozenset[str] = frozenset()
    """Names out of ``Plan.confirm`` that a GET in this pass has not found."""

    @property
    def foundation(self) -> FoundationView | None:
        """The referenced foundation, if it exists and can be read."""
        return self.foundations.get(self.model.spec.foundation_ref.name)
