"""What the route to the servers can express, and what it really is.

The machine names a :class:`Target`: who should get how much. A :class:`Router` says which steps its route can express,
and whether the target is in effect. :class:`ReplicaRatio` has no route of its own: one Service spreads connections over
all ready pods, so that a weight is a number of pods, made by :mod:`planning.rollout.capacity`. A router that sets
weights itself, such as a Gateway route, is another implementation and changes nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from recast_api.base import duration_seconds
from recast_api.resources import Step
from recast_operator.planning.rollout.steps import PlannedStep


@dataclass(frozen=True)
class Endpoints:
    """One revision's Deployment as it is."""

    replicas: int = 0
    """Pods asked for."""
    ready: int = 0
    """Pods that traffic reaches."""
    unschedulable: int = 0
    """Pods that find no node."""

    @property
    def starting(self) -> int:
        """Pods asked for that are not ready and, as far as is known, have a node."""
        return max(0, self.replicas - self.ready - self.unschedulable)


@dataclass(frozen=True)
class Leaving:
    """A revision that is neither stable nor on trial, and still has pods."""

    failed: bool = False
    """Rolled back, or its model was rejected: its pods do harm."""
    seconds: float = 0.0
    """Since it left."""


@dataclass(frozen=True)
class Target:
    """What the machine wants of traffic and pods."""

    replicas: int
    """R: the pods that together serve 100 %."""
    stable: str = ""
    """The stable revision; empty where there is none."""
    canary: str = ""
    """The revision on trial; empty where there is none."""
    weight: int = 0
    """The canary's share in percent; the rest is stable's."""
    stable_down_seconds: float | None = None
    """For how long no stable pod has been ready while traffic needs one; None where that is not so."""
    leaving: Mapping[str, Leaving] = field(default_factory=dict)
    """All other revisions that still have pods."""


@dataclass(frozen=True)
class Route:
    """What the route gives now."""

    shares: Mapping[str, int]
    """Percent by revision, those with any; they sum to 100, or there are none."""
    in_effect: bool
    """The canary has the weight of the target, and nobody who should be gone has any."""


class Router(Protocol):
    """One way of splitting traffic."""

    def plan(self, steps: Sequence[Step], replicas: int) -> tuple[PlannedStep, ...]:
        """The steps that this route can express with so many replicas."""

    def route(self, target: Target, endpoints: Mapping[str, Endpoints]) -> Route:
        """What each revision gets now, and whether that is the target."""


@dataclass(frozen=True)
class ReplicaRatio:
    """Traffic follows ready pods."""

    def plan(self, steps: Sequence[Step], replicas: int) -> tuple[PlannedStep, ...]:
        """Neighbours that come to the same pods are one step, their pauses added up."""
        planned: list[PlannedStep] = []
        for step in steps:
            pods = split(replicas, step.set_weight)
            pause = duration_seconds(step.pause)
            merged: tuple[int, ...] = ()
            if planned and split(replicas, planned[-1].asked) == pods:
                last = planned.pop()
                pause += last.pause_seconds
                merged = (*(last.merged or (last.asked,)), step.set_weight)
            planned.append(PlannedStep(step.set_weight, percent(pods[0], sum(pods)), pause, merged))
        return tuple(planned)

    def route(self, target: Target, endpoints: Mapping[str, Endpoints]) -> Route:
        """In effect once each revision has exactly its pods. Of a stable that is down there is nothing to wait for."""
        ready = {revision: entry.ready for revision, entry in endpoints.items() if entry.ready}
        own, other = endpoints.get(target.canary, Endpoints()), endpoints.get(target.stable, Endpoints())
        canary, stable = split(target.replicas, target.weight)
        if target.stable_down_seconds is not None:
            exact = own.ready >= canary
        else:
            exact = own.ready == own.replicas == canary and other.ready == other.replicas == stable
        return Route(shares(ready), exact and not ready.keys() - {target.canary, target.stable})


def split(replicas: int, weight: int) -> tuple[int, int]:
    """(canary, stable) pods for a weight in percent. Between 0 and 100 % both revisions keep at least one pod."""
    if weight >= 100:
        return replicas, 0
    wanted = (2 * replicas * weight + 100) // 200
    canary = max(1, min(wanted, replicas - 1))
    return canary, max(1, replicas - canary)


def percent(part: int, whole: int) -> int:
    """``part`` of ``whole`` in percent, halves rounded up; 0 of nothing is 0."""
    return (200 * part + whole) // (2 * whole) if whole else 0


def shares(ready: Mapping[str, int]) -> dict[str, int]:
    """Percent by revision by largest remainder, so that they sum to 100; nothing where no pod is ready."""
    total = sum(ready.values())
    if not total:
        return {}
    given = {revision: 100 * count // total for revision, count in ready.items()}
    by_remainder = sorted(ready, key=lambda revision: (-(100 * ready[revision] % total), revision))
    for revision in by_remainder[: 100 - sum(given.values())]:
        given[revision] += 1
    return given
