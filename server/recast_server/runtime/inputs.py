"""A request in raw ids and names -> what the networks read. Both servers, so that both see the same history.

Nothing here refuses: an item that the server knows nothing of becomes the unknown row; a surface or action in an inline
history that it does not know is left out, because a client may serve newer surfaces than a version was trained on; a
feature of context that it does not know is passed over, and a value that it does not list is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from recast_model.context import Context, Features
from recast_model.features import UNKNOWN_ITEM, Request
from recast_model.flops import forward_flops
from recast_model.history import History, Ints
from recast_server.runtime.events import Events

if TYPE_CHECKING:
    from recast_model.config import ExpertConfig, FoundationConfig
    from recast_model.items import ExtendedItems, ItemTable
    from recast_model.snapshot import HistorySnapshot


@dataclass(frozen=True)
class Unread:
    """Events of which no more is known than how many: enough to say what a request costs, before they are unpacked."""

    length: int

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True)
class Query:
    """Which candidates to look at for whom, in raw ids and names."""

    user: int
    surface: str
    time_ms: int
    candidates: Sequence[int] | Ints
    history: Events | Unread | None = None
    """Stands in for the stored one, even when it is empty."""
    context: Mapping[str, str | float | None] = field(default_factory=dict)
    """Features of the request by name; those that the version does not know are passed over."""
    sequence: int | None = None
    """Sequence number of the user's stored history that the caller saw."""
    history_before: int = 0
    """Events of the user that were known before those of the history, and are not among them: the window's anchor
    depends on how many there ever were."""


def padded_to(candidates: int) -> int:
    """The next power of two: requests of one such size run in one batch, which wastes less than half of it."""
    return 1 << (candidates - 1).bit_length()


@dataclass(frozen=True)
class RequestEncoder:
    """Encodes with what a server knows: items, users' histories, and names of surfaces and tasks in its order."""

    items: ItemTable | ExtendedItems
    histories: HistorySnapshot
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]
    context: Features = ()

    def flops(self, query: Query, config: FoundationConfig | ExpertConfig) -> float:
        """How much work the query is for a network, at most: events of other surfaces count as if it read them."""
        events = self.histories.length(query.user) if query.history is None else len(query.history)
        return forward_flops(config, min(events, config.history_length), padded_to(len(query.candidates)))

    def encode(self, query: Query) -> Request:
        """The query in dense indices; a user without a stored history has none.

        All of it is given, also what was not known yet at the request's time: what a request sees is decided by
        :func:`recast_model.features.collate`, as it was in training.
        """
        assert not isinstance(query.history, Unread), "a query is read before it is encoded"
        events = self.histories.lookup(query.user) if query.history is None else self._inline(query.history)
        dense = self.items.index(np.asarray(query.candidates, np.int64))
        given = Context.given(self.context, query.context)
        surface = self.surfaces.index(query.surface)
        return Request(query.user, surface, query.time_ms, dense, events, given, query.history_before)

    def unknown_context(self, context: Mapping[str, str | float | None]) -> list[str]:
        """The features of which a value was given that the version does not list, in its order."""
        given = [feature for feature in self.context if feature.categorical and context.get(feature.name) is not None]
        return [feature.name for feature in given if not feature.encode([context[feature.name]])[0]]

    @staticmethod
    def unknown_items(candidates: Sequence[int] | Ints, dense: Ints) -> list[int]:
        """The candidates with neither a row nor content, each once, in the order asked."""
        return list(dict.fromkeys(int(candidates[int(row)]) for row in np.flatnonzero(dense == UNKNOWN_ITEM)))

    def _inline(self, events: Events) -> History:
        places = [self.surfaces.index(name) if name in self.surfaces else -1 for name in events.surfaces]
        surfaces = np.array(places, np.int64)[events.surface]
        items, masks = self.items.index(events.item), self._masks(events)
        return History(items, surfaces, masks, events.time_ms, events.available_ms).take(np.flatnonzero(surfaces >= 0))

    def _masks(self, events: Events) -> Ints:
        """(N,) The events' actions as bits over our own tasks."""
        masks = np.zeros_like(events.actions)
        for bit, name in enumerate(events.tasks):
            if name in self.tasks:
                masks |= (events.actions >> bit & 1) << self.tasks.index(name)
        return masks
