"""What a server runs before it takes requests: the smallest and the largest, alone and together, twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from recast_server.runtime.cost import Sample
from recast_server.runtime.events import Events
from recast_server.runtime.inputs import Query
from recast_server.runtime.scheduler import Engine

TOGETHER = 8
USUAL = 16
"""Candidates of a request as many send it."""


def probe(surface: str, events: int, candidates: int) -> Query:
    """A query of so many events and candidates, all of them unknown."""
    past = Events.named([0] * events, [surface] * events, [()] * events, range(events))
    return Query(0, surface, events, [0] * candidates, past)


def measure(
    engine: Engine[Any, Any], request: Callable[[Query], Any], surface: str, history: int, candidates: int
) -> list[Sample]:
    """Run batches of several sizes; returns how long each took once memory was warm.

    ``request`` makes what the engine takes of a query; ``history`` and ``candidates`` are the most that may come.
    """
    found = []
    for events, shown, together in (
        (0, 1, 1), (history, USUAL, 1), (0, 1, TOGETHER), (history, USUAL, TOGETHER), (history, candidates, 1),
    ):  # fmt: skip
        batch = [request(probe(surface, events, shown)) for _ in range(together)]
        engine.run(batch)
        begin = time.monotonic()
        engine.run(batch)
        found.append(Sample(together, sum(map(engine.units, batch)), time.monotonic() - begin))
    return found
