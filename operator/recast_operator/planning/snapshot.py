"""What the operator sees: one custom resource and everything its plan depends on, frozen at one moment.

:mod:`recast_operator.observe` fills these from its indices and from Prometheus; :func:`planning.plan.plan_foundation`
and :func:`planning.plan.plan_expert` read nothing else. A snapshot may be stale: that is safe, because the status write
that comes first carries the snapshot's ``resourceVersion`` and fails when somebody wrote in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion


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


@dataclass(frozen=True)
class ObservedJob:
    """One training attempt's Job."""

    name: str
    number: int
    """From the label ``recast.dev/run``."""
    attempt: int
    owner_uid: str
    state: Literal["Active", "Complete", "Failed"] = "Active"
    reason: str = ""
    """Reason of the Job's ``Failed`` (or ``FailureTarget``) condition, such as ``DeadlineExceeded``."""
    message: str = ""
    disrupted: bool = False
    """The Job failed by its ``DisruptionTarget`` rule, or a pod of it has that condition."""
    pods: tuple[ObservedPod, ...] = ()

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
    """From the annotation ``recast.dev/template-hash``; empty where it is absent."""
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
    """``status.observedGeneration`` has reached ``metadata.generation``."""
    pods: tuple[ObservedPod, ...] = ()


@dataclass(frozen=True)
class ObservedService:
    """One Service that carries our labels."""

    name: str
    owner_uid: str
    template_hash: str


@dataclass(frozen=True)
class Sample:
    """The answer to one instant query: ``value`` is None where Prometheus had no series, gave NaN or did not answer."""

    value: float | None
    error: str = ""
    """Why there is no answer: connection refused, HTTP 500. Empty where the query was answered."""


@dataclass(frozen=True)
class Children:
    """The objects a model owns. Listed by label, so an owner UID may be another's: planning never touches those."""

    jobs: tuple[ObservedJob, ...] = ()
    deployments: tuple[ObservedDeployment, ...] = ()
    services: tuple[ObservedService, ...] = ()

    def deployment(self, name: str) -> ObservedDeployment | None:
        """The Deployment of that name."""
        return next((item for item in self.deployments if item.name == name), None)

    def service(self, name: str) -> ObservedService | None:
        """The Service of that name."""
        return next((item for item in self.services if item.name == name), None)

    def job(self, name: str) -> ObservedJob | None:
        """The Job of that name."""
        return next((item for item in self.jobs if item.name == name), None)


@dataclass(frozen=True)
class ObservedFoundation:
    """A FoundationModel and all it depends on."""

    model: FoundationModel
    versions: tuple[ModelVersion, ...] = ()
    """Every ModelVersion whose ``spec.model`` names this kind and name, whatever UID it claims."""
    children: Children = field(default_factory=Children)
    experts: tuple[ExpertModel, ...] = ()
    """Experts of the namespace whose ``foundationRef`` names this one, or whose stable or canary is pinned to it."""


@dataclass(frozen=True)
class ObservedExpert:
    """An ExpertModel and all it depends on."""

    model: ExpertModel
    versions: tuple[ModelVersion, ...] = ()
    """Every ModelVersion whose ``spec.model`` names this kind and name, whatever UID it claims."""
    children: Children = field(default_factory=Children)
    foundations: tuple[FoundationModel, ...] = ()
    """All FoundationModels of the namespace: the referenced one, the pinned ones, and names for "did you mean"."""
    foundation_versions: tuple[ModelVersion, ...] = ()
    """All ModelVersions of kind FoundationModel in the namespace."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """Answers to ``analysis.queries(observed, now)``, by query text. Absent ones read as no data."""


Clock = datetime
"""``now`` is always an aware UTC datetime, passed in."""
