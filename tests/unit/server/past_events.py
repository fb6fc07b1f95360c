"""A user's past written and read as rows, where the code has columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recast_server.runtime.events import Events


@dataclass(frozen=True)
class Event:
    item: int
    surface: str
    time_ms: int
    actions: Sequence[str]
    available_ms: int | None = None


def past(*events: Event) -> Events:
    return Events.named(
        [event.item for event in events],
        [event.surface for event in events],
        [event.actions for event in events],
        [event.time_ms for event in events],
        [event.available_ms for event in events],
    )


def rows(events: Events) -> list[tuple[int, str, frozenset[str], int, int]]:
    """Item, surface, actions, time, and when it became known."""
    return [
        (
            int(events.item[row]),
            events.surfaces[events.surface[row]],
            frozenset(name for bit, name in enumerate(events.tasks) if int(events.actions[row]) >> bit & 1),
            int(events.time_ms[row]),
            int(events.available_ms[row]),
        )
        for row in range(len(events))
    ]
