"""One user's history as a store keeps it: the newest events in the order in which they became known. Pure.

The window that a request sees starts at an anchor, which depends on how many events there ever were
(:func:`recast_model.history.anchored_start`), so a history counts what it no longer keeps: of the user, and of each
surface, since an expert reads its own surface alone. What is kept is the newest :attr:`Bounds.events` of all, and the
newest :attr:`Bounds.of_surface` of each surface, however long ago they were. Events that arrive late are put where
they belong; those that became known at one instant keep the order in which they arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recast_model.history import Ints, anchored_start
from recast_server.runtime.events import Events

Mask = NDArray[np.bool_]
COLUMNS = ("item", "surface", "actions", "time_ms", "available_ms")


MOST_EVENTS = 32_768
MOST_SURFACES = 64
"""Names of surfaces among a user's events, since the newest of each are kept."""


@dataclass(frozen=True)
class Bounds:
    """How many events of a user are kept. A window can be read whole only where it is not longer than that."""

    events: int = 2048
    """From 1 to :data:`MOST_EVENTS`."""
    of_surface: int = 512
    """From 1 to 512, the longest window of an expert."""


class TrimmedError(Exception):
    """A window reaches back to events that are no longer kept."""


@dataclass(frozen=True, eq=False)
class UserHistory:
    """What a store knows of one user.

    Raises :class:`ValueError` where it contradicts itself: a store that lies must not be believed.
    """

    user: int
    sequence: int = 0
    """How many appends it has had; 0 for a user never heard of."""
    total: int = 0
    """Events ever appended."""
    tail: int = 0
    """How many of the newest of all events are kept without a gap: the last ones of ``events``."""
    events: Events = Events.named([], [], [], [])  # noqa: RUF009 - it is immutable
    surface_totals: tuple[int, ...] = ()
    """Events ever appended of each of ``events.surfaces``."""

    def __post_init__(self) -> None:
        events, kept = self.events, len(self.events)
        if (np.diff(events.available_ms) < 0).any():
            raise ValueError("events are not in the order in which they became known")
        counts = np.bincount(events.surface, minlength=len(events.surfaces))
        if len(self.surface_totals) != len(events.surfaces) or (counts > np.array(self.surface_totals, np.int64)).any():
            raise ValueError("there are more events of a surface than were ever appended")
        if sum(self.surface_totals) != self.total or not min(self.total, 1) <= self.tail <= kept <= self.total:
            raise ValueError(f"{kept} events are kept and {self.tail} without a gap, of {self.total} in all")

    def window(self, time_ms: int, limit: int, surface: str | None = None) -> Events:
        """What a request at ``time_ms`` sees, of all surfaces or of one: at most ``limit`` events, oldest first.

        Raises :class:`TrimmedError` where some of it is no longer kept.
        """
        events, total = self.tail_events, self.total
        if surface is not None:
            if surface not in self.events.surfaces:
                return self.events.take(slice(0, 0))
            index = self.events.surfaces.index(surface)
            events = self.events.take(np.flatnonzero(self.events.surface == index))
            total = self.surface_totals[index]
        dropped = total - len(events)
        known = int(np.searchsorted(events.available_ms, time_ms, side="left"))
        start = int(anchored_start(np.asarray(dropped + known), limit)) - dropped
        if start < 0:
            raise TrimmedError(f"the window of {limit} events begins {-start} events before those that are kept")
        return events.take(slice(start, known))

    @property
    def tail_events(self) -> Events:
        """The newest events of all surfaces, without a gap; ``total - len(tail_events)`` came before."""
        return self.events.take(slice(len(self.events) - self.tail, None))

    def with_events(self, new: Events, bounds: Bounds) -> UserHistory:
        """The history after one more append.

        Raises :class:`ValueError` where the user's events would have more names of surfaces or of actions than are
        allowed.
        """
        old, new = in_one_language(self._of_used_names(), new)
        if len(old.surfaces) > MOST_SURFACES:
            raise ValueError(f"surfaces: a user's events may have {MOST_SURFACES} of them, not {len(old.surfaces)}")
        totals = np.bincount(new.surface, minlength=len(old.surfaces))
        totals[: len(self.surface_totals)] += np.array(self.surface_totals, np.int64)
        columns = {name: np.concatenate([getattr(old, name), getattr(new, name)]) for name in COLUMNS}
        order = np.argsort(columns["available_ms"], kind="stable")
        # Where something was dropped already, what arrives late and belongs before what is kept is dropped too: between
        # it and the rest something is missing.
        begin = 0 if self.total == self.tail else int(np.flatnonzero(order == len(old) - self.tail)[0])
        tail = min(len(order) - begin, bounds.events)
        surface = columns["surface"][order]
        keep = _newest_of_each(surface, self._unbroken(surface, order >= len(old), begin), bounds.of_surface)
        keep[len(order) - tail :] = True
        return replace(
            self,
            sequence=self.sequence + 1,
            total=self.total + len(new),
            tail=tail,
            events=Events(**{n: v[order[keep]] for n, v in columns.items()}, surfaces=old.surfaces, tasks=old.tasks),
            surface_totals=tuple(totals.tolist()),
        )

    def _unbroken(self, surface: Ints, arrived: Mask, begin: int) -> Mask:
        """(N,) which events have all that came after them on their surface among the others.

        The tail, from ``begin`` on, has; before it, what ``arrived`` now may come before something that was dropped.
        """
        whole = np.ones(len(surface), np.bool_)
        counts = np.bincount(self.events.surface, minlength=len(self.events.surfaces))
        for index, total in enumerate(self.surface_totals):
            if total > counts[index]:
                left = np.flatnonzero((surface == index) & ~arrived)
                oldest = min(int(left[0]), begin)
                whole[:oldest] &= surface[:oldest] != index
        return whole

    def _of_used_names(self) -> Events:
        """Without names of actions that no event has any more. Those of surfaces have totals, and stay."""
        events = self.events
        used = [bit for bit in range(len(events.tasks)) if (events.actions >> bit & 1).any()]
        if len(used) == len(events.tasks):
            return events
        masks = sum((events.actions >> bit & 1) << place for place, bit in enumerate(used))
        actions = np.broadcast_to(np.asarray(masks, np.int64), events.actions.shape).copy()
        return replace(events, actions=actions, tasks=tuple(events.tasks[bit] for bit in used))


def in_one_language(first: Events, second: Events) -> tuple[Events, Events]:
    """Both under the same names: those of the first, then what the second adds. Raises as :class:`Events` does."""
    surfaces = tuple(dict.fromkeys([*first.surfaces, *second.surfaces]))
    tasks = tuple(dict.fromkeys([*first.tasks, *second.tasks]))
    places = np.array([surfaces.index(name) for name in second.surfaces], np.int64)
    actions = np.zeros_like(second.actions)
    grown = replace(first, surfaces=surfaces, tasks=tasks)  # refuses too many names, before a mask cannot hold them
    for bit, name in enumerate(second.tasks):
        actions |= (second.actions >> bit & 1) << tasks.index(name)
    surface = places[second.surface] if len(second) else second.surface
    return grown, replace(second, surface=surface, actions=actions, surfaces=surfaces, tasks=tasks)


def _newest_of_each(surface: Ints, allowed: Mask, count: int) -> Mask:
    """(N,) which events are among the newest ``count`` of their surface, of those that are allowed."""
    keep = np.zeros(len(surface), np.bool_)
    for index in np.unique(surface):
        keep[np.flatnonzero((surface == index) & allowed)[-count:]] = True
    return keep
