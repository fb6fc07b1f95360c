"""What the rules of a roll-out look at, and what they remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from recast_api.resources import CanaryStatus, FailedRevision, RevisionStatus, Rollout
from recast_operator.planning.plan import Event
from recast_operator.planning.rollout.steps import Split, plan_steps
from recast_operator.planning.rollout.verdict import Evaluation
from recast_operator.planning.status.pod_diagnosis import Trouble


@dataclass(frozen=True)
class Endpoints:
    """One revision's Deployment as it is."""

    replicas: int = 0
    ready: int = 0


@dataclass(frozen=True)
class RolloutInputs:
    """What a rollout's decisions look at, beside its own memory."""

    model: str
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

    def of(self, revision: RevisionStatus | None) -> Endpoints:
        """The endpoints of a revision."""
        return self.endpoints.get(revision.revision, Endpoints()) if revision else Endpoints()

    @property
    def steps(self) -> tuple[Split, ...]:
        """The spec's steps as pods."""
        return plan_steps(self.rollout.steps, self.replicas)


@dataclass(frozen=True)
class RolloutState:
    """A rollout's memory: what stands in status, and what this pass adds."""

    stable: RevisionStatus | None
    canary: CanaryStatus | None
    failed: tuple[FailedRevision, ...]
    events: tuple[Event, ...] = ()

    def with_event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> RolloutState:
        """The same with one more event."""
        return replace(self, events=(*self.events, Event(kind, reason, message)))
