"""A canary's steps as a route can express them: the weight that was asked, the one it comes to, and how long it holds.

Which weights can be expressed is the route's affair (:mod:`planning.rollout.traffic`). A step is remembered by what was
*asked*, so that it is found again after the replica count or the steps themselves have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedStep:
    """One step that the route can tell from its neighbours."""

    asked: int
    """The weight in percent that the user asked for; of several merged ones the last."""
    weight: int
    """The percentage that the route can express."""
    pause_seconds: int
    merged: tuple[int, ...] = ()
    """All asked weights that this step stands for, where there is more than one."""


def step_at(planned: Sequence[PlannedStep], asked: int) -> int:
    """The index of the step that stands for ``asked`` percent; the last one where none does any more."""
    return next((index for index, entry in enumerate(planned) if entry.asked >= asked), len(planned) - 1)
