"""Conditions as a list-map: one entry a type, and a transition time that moves only when the status flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from recast_api.resources import Condition
from recast_operator.planning.clock import stamp
from recast_operator.planning.plan import Event

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class ConditionUpdate:
    """What a pass found out about one aspect, before it is merged with what the status said."""

    type: str
    status: State
    reason: str
    message: str = ""


def merge(
    previous: Sequence[Condition], updates: Sequence[ConditionUpdate], generation: int, now: datetime
) -> list[Condition]:
    """The new list: updates in their order, then conditions of types that nobody judged this time."""
    before = {condition.type: condition for condition in previous}
    merged = [_transition(before.pop(update.type, None), update, generation, now) for update in updates]
    return merged + list(before.values())


def _transition(old: Condition | None, update: ConditionUpdate, generation: int, now: datetime) -> Condition:
    flipped = old is None or old.status != update.status
    return Condition(
        type=update.type,
        status=update.status,
        reason=update.reason,
        message=update.message[:1024],
        last_transition_time=stamp(now) if flipped or old is None else old.last_transition_time,
        observed_generation=generation,
    )


def transitions(
    before: Sequence[Condition], after: Sequence[Condition], reported: Mapping[str, str]
) -> tuple[Event, ...]:
    """An event for each condition that came to a status worth an event, or changed its reason there.

    ``reported`` names, by condition type, the status that is worth an event. Events are posted on transitions only.
    """
    known = {condition.type: (condition.status, condition.reason) for condition in before}
    return tuple(
        Event("Warning" if entry.type == "Stalled" else "Normal", entry.reason, entry.message)
        for entry in after
        if reported.get(entry.type) == entry.status and known.get(entry.type) != (entry.status, entry.reason)
    )


def find(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == type_), None)
