"""How many passes may be at work at once, and how many more may wait for somebody slow meanwhile.

A pass asks the apiserver a few things one after another. More passes at once do not make a fleet faster: their requests
queue up at the apiserver, in front of everybody else's. Waiting for Prometheus costs nobody anything. So there are few
:class:`Places` to work at; a pass leaves its :class:`Place` for as long as it waits, and must find a free one again
before it goes on. It may be gone for long, so that it observes anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """``at_work`` places, and ``away`` more passes that wait without one. Inside one event loop."""

    def __init__(self, at_work: int, away: int) -> None:
        self.at_work = asyncio.Semaphore(at_work)
        self.under_way = asyncio.Semaphore(at_work + away)

    async def place(self) -> Place:
        """Wait for a place. The caller owes :meth:`Place.end`."""
        await self.under_way.acquire()
        await self.at_work.acquire()
        return Place(self)


class Place:
    """One pass's place, and how it spent its time."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._taken_at: float | None = time.monotonic()
        self.seconds = 0.0
        """How long it was held."""
        self.away_seconds = 0.0
        """How long somebody else was waited for; waiting for a free place again is in neither."""

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Leave the place for as long as this is open, then wait for a free one."""
        self._leave()
        left = time.monotonic()
        try:
            yield
        finally:
            self.away_seconds += time.monotonic() - left
        await self._places.at_work.acquire()
        self._taken_at = time.monotonic()

    def end(self) -> None:
        """The pass is over, wherever it was."""
        self._leave()
        self._places.under_way.release()

    def _leave(self) -> None:
        if self._taken_at is not None:
            self.seconds += time.monotonic() - self._taken_at
            self._taken_at = None
            self._places.at_work.release()
