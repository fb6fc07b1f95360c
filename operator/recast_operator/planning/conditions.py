"""Conditions as a list-map: one entry a type, and a transition time that moves only when the status flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from recast_api.resources import Condition
from recast_operator.planning.clock import stamp
from recast_operator.planning.outcome import Event

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Fact:
    """What a pass found out about one aspect, before it is merged with what the status said."""

    type: str
    status: State
    reason: str
    message: str = ""


def merge(previous: Sequence[Condition], facts: Sequence[Fact], generation: int, now: datetime) -> list[Condition]:
    """The new list: facts in their order, then conditions of types that nobody judged this time."""
    before = {condition.type: condition for condition in previous}
    merged = [_transition(before.pop(fact.type, None), fact, generation, now) for fact in facts]
    return merged + list(before.values())


def _transition(old: Condition | None, fact: Fact, generation: int, now: datetime) -> Condition:
    flipped = old is None or old.status != fact.status
    return Condition(
        type=fact.type,
        status=fact.status,
        reason=fact.reason,
        message=fact.message[:1024],
        last_transition_time=stamp(now) if flipped or old is None else old.last_transition_time,
        observed_generation=generation,
    )


def transitions(before: Sequence[Condition], after: Sequence[Condition], told: Mapping[str, str]) -> tuple[Event, ...]:
    """An event for each condition that came to a status worth telling, or changed its reason there.

    ``told`` names, by condition type, the status that is told. Events are posted on transitions only.
    """
    known = {condition.type: (condition.status, condition.reason) for condition in before}
    return tuple(
        Event("Warning" if entry.type == "Stalled" else "Normal", entry.reason, entry.message)
        for entry in after
        if told.get(entry.type) == entry.status and known.get(entry.type) != (entry.status, entry.reason)
    )


def find(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of that type."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Sequence[Condition], type_: str) -> bool:
    """Whether the condition of that type is there and True."""
    condition = find(conditions, type_)
    return condition is not None and condition.status == "True"
