"""What the rules of a roll-out look at, and what they remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from recast_api.resources import CanaryStatus, FailedRevision, RetiringRevision, RevisionStatus, Rollout
from recast_operator.planning.plan import Event
from recast_operator.planning.rollout.capacity import Capacity, Surge
from recast_operator.planning.rollout.steps import PlannedStep, step_at
from recast_operator.planning.rollout.traffic import Endpoints, ReplicaRatio, Router
from recast_operator.planning.rollout.verdict import Evaluation
from recast_operator.planning.status.pod_diagnosis import Trouble


@dataclass(frozen=True)
class RolloutInputs:
    """What a rollout's decisions look at, beside its own memory."""

    model: str
    foundation: str
    """``spec.foundationRef.name``: revisions of another foundation are called by its name."""
    rollout: Rollout
    replicas: int
    """R: the pods that together serve 100 %."""
    endpoints: Mapping[str, Endpoints]
    """By revision."""
    trouble: Trouble | None
    """Why the canary's pods are not ready."""
    evaluation: Evaluation | None
    """This pass's look at the canary, where one was due."""
    now: datetime
    remaining: frozenset[str] = frozenset()
    """Revisions of which a Deployment or a pod is left, terminating ones too."""
    router: Router = field(default_factory=ReplicaRatio)
    capacity: Capacity = field(default_factory=Surge)

    def of(self, revision: RevisionStatus | None) -> Endpoints:
        """The endpoints of a revision."""
        return self.endpoints.get(revision.revision, Endpoints()) if revision else Endpoints()

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        """The spec's steps as the route can express them."""
        return self.router.plan(self.rollout.steps, self.replicas)

    def step_of(self, canary: CanaryStatus) -> PlannedStep:
        """The step that a canary is at; full weight where it has no steps before it."""
        if canary.state != "Progressing":
            return PlannedStep(100, 100, 0)
        return self.steps[step_at(self.steps, canary.step_weight)]

    def serves_beside(self, stable: RevisionStatus | None, canary: CanaryStatus) -> bool:
        """Whether stable serves beside this canary, so that the two can be compared."""
        return self.step_of(canary).asked < 100 and self.of(stable).ready > 0

    def metrics(self, stable: RevisionStatus | None, canary: CanaryStatus) -> int:
        """How many metrics must succeed: comparisons are made only where stable serves."""
        compared = self.serves_beside(stable, canary)
        return sum(1 for entry in self.rollout.analysis if entry.max_over_stable is None or compared)


@dataclass(frozen=True)
class RolloutState:
    """A rollout's memory: what stands in status, and what this pass adds."""

    stable: RevisionStatus | None
    canary: CanaryStatus | None
    failed: tuple[FailedRevision, ...] = ()
    previous: RevisionStatus | None = None
    retiring: tuple[RetiringRevision, ...] = ()
    events: tuple[Event, ...] = ()

    def with_event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> RolloutState:
        """The same with one more event."""
        return replace(self, events=(*self.events, Event(kind, reason, message)))
