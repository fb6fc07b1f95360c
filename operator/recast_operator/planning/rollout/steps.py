"""Weights by replica ratio: what a number of pods can say, and in which order to say it.

The total is ``R`` pods. A canary of weight w is k of them; while both tracks change there are up to k pods more, never
fewer. The order is invariant: *ready endpoints → weight → shrink old*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recast_api.base import duration_seconds
from recast_api.resources import Step


@dataclass(frozen=True)
class Split:
    """One step as pods."""

    asked: int
    """The (last) weight in percent that the user asked for."""
    canary: int
    stable: int
    pause_seconds: int
    merged: tuple[int, ...] = ()
    """All asked weights that this split stands for, where there is more than one."""

    @property
    def weight(self) -> int:
        """The percentage that these pods can express."""
        return percent(self.canary, self.canary + self.stable)


def percent(part: int, whole: int) -> int:
    """``part`` of ``whole`` in percent, halves rounded up; 0 of nothing is 0."""
    return (200 * part + whole) // (2 * whole) if whole else 0


def split(replicas: int, weight: int) -> tuple[int, int]:
    """(canary, stable) pods for a weight in percent. Below 100 % both tracks keep at least one pod."""
    if weight >= 100:
        return replicas, 0
    wanted = (2 * replicas * weight + 100) // 200
    canary = max(1, min(wanted, replicas - 1))
    return canary, max(1, replicas - canary)


def plan_steps(steps: Sequence[Step], replicas: int) -> tuple[Split, ...]:
    """The steps that this many replicas can express: neighbours that come to the same pods are one, pauses added up."""
    planned: list[Split] = []
    for step in steps:
        canary, stable = split(replicas, step.set_weight)
        pause = duration_seconds(step.pause)
        if planned and planned[-1].canary == canary:
            last = planned.pop()
            merged = (*(last.merged or (last.asked,)), step.set_weight)
            planned.append(Split(step.set_weight, canary, stable, last.pause_seconds + pause, merged))
        else:
            planned.append(Split(step.set_weight, canary, stable, pause))
    return tuple(planned)


def step_at(planned: Sequence[Split], asked: int) -> int:
    """The index of the step that stands for ``asked`` percent, also after the replica count has changed."""
    return next((index for index, entry in enumerate(planned) if entry.asked >= asked), len(planned) - 1)


def stable_target(replicas: int, canary_wanted: int, canary_ready: int, *, stable_floor: int) -> int:
    """How many stable pods there must be: what the ready canary pods do not carry yet, never below the step's floor."""
    carried = min(canary_wanted, canary_ready)
    return max(stable_floor, replicas - carried)
