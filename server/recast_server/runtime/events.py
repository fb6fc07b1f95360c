"""A user's past actions as columns, in raw ids and names: what a request brings, a store keeps and the hop carries.

One array a field and one small table of names for all events: an object an event costs more than the network that
reads it. What a version makes of them is :class:`recast_server.runtime.inputs.RequestEncoder`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recast_model.history import Ints

MAX_EVENTS = 65_536
"""As many as the longest window that a foundation may read."""
MAX_SURFACES = 1024
MAX_TASKS = 63
"""As many bits as an action's mask has."""
NAME_LENGTH = 40
_COLUMNS = ("item", "surface", "actions", "time_ms", "available_ms")


@dataclass(frozen=True, eq=False)
class Events:
    """Past actions of one user; arrays are int64 of one shape (N,), N at most :data:`MAX_EVENTS`.

    Raises :class:`ValueError`, which names the field, where they cannot be what happened.
    """

    item: Ints
    """Raw ids."""
    surface: Ints
    """Index into ``surfaces``."""
    actions: Ints
    """Bit i is set where the action was ``tasks[i]``."""
    time_ms: Ints
    """When it happened."""
    available_ms: Ints
    """When it became known: never before it happened."""
    surfaces: tuple[str, ...] = ()
    """Names, each once; at most :data:`MAX_SURFACES`."""
    tasks: tuple[str, ...] = ()
    """Names, each once; at most :data:`MAX_TASKS`."""

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            column = getattr(self, name)
            if column.dtype != np.int64 or column.shape != (len(self.item),):
                raise ValueError(f"{name}: must be int64 of shape ({len(self.item)},)")
        if len(self.item) > MAX_EVENTS:
            raise ValueError(f"item: at most {MAX_EVENTS} events are allowed, not {len(self.item)}")
        _check_names("surfaces", self.surfaces, MAX_SURFACES)
        _check_names("tasks", self.tasks, MAX_TASKS)
        if not len(self.item):
            return
        for name in ("item", "surface", "actions", "time_ms"):
            if getattr(self, name).min() < 0:
                raise ValueError(f"{name}: must not be negative")
        if self.surface.max() >= len(self.surfaces):
            raise ValueError(f"surface: must be an index into the {len(self.surfaces)} names of surfaces")
        if self.actions.max() >> len(self.tasks):
            raise ValueError(f"actions: must have no bit beyond the {len(self.tasks)} names of tasks")
        if (self.available_ms < self.time_ms).any():
            raise ValueError("available_ms: an event cannot be known before it happens")

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def named(
        cls,
        items: Sequence[int],
        surfaces: Sequence[str],
        actions: Sequence[Sequence[str]],
        times_ms: Sequence[int],
        available_ms: Sequence[int | None] | None = None,
    ) -> Self:
        """From names, one entry an event. Known when it happened where nothing later is said.

        Raises :class:`ValueError` as the constructor does.
        """
        # A dictionary and no set: names keep the order in which they came, in every process.
        places = {name: place for place, name in enumerate(dict.fromkeys(surfaces))}
        tasks = {name: place for place, name in enumerate(dict.fromkeys(name for names in actions for name in names))}
        _check_names("tasks", tuple(tasks), MAX_TASKS)  # before the masks, which could not hold more
        masks = {names: sum(1 << tasks[name] for name in set(names)) for names in set(map(tuple, actions))}
        times = np.array(times_ms, np.int64)
        known = times
        if available_ms is not None:
            pairs = zip(times_ms, available_ms, strict=True)
            known = np.array([time if late is None else max(time, late) for time, late in pairs], np.int64)
        return cls(
            np.array(items, np.int64),
            np.array([places[name] for name in surfaces], np.int64),
            np.array([masks[tuple(names)] for names in actions], np.int64),
            times,
            known,
            tuple(places),
            tuple(tasks),
        )

    def take(self, index: Ints | slice) -> Self:
        """The events that an index names, under the same names."""
        return replace(self, **{name: getattr(self, name)[index] for name in _COLUMNS})


def _check_names(field: str, names: tuple[str, ...], most: int) -> None:
    if len(names) > most:
        raise ValueError(f"{field}: at most {most} names are allowed, not {len(names)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{field}: each name is allowed once")
    for name in names:
        if not 1 <= len(name) <= NAME_LENGTH:
            raise ValueError(f"{field}: a name has 1 to {NAME_LENGTH} characters")
