"""The work queue: which key to reconcile next, and when.

Level triggered: an entry says "look at this again", never what happened, so any number of events about one key are one
entry. Every key is handed out to at most one worker at a time; a key that is added while it is being worked on is
handed out again afterwards. :class:`Schedule` is the rule book, without clock or coroutine, so that properties of it
can be tested by thousands; :class:`WorkQueue` lets workers wait for it. :mod:`recast_operator.runtime` adds keys and
takes them.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 300.0


class Schedule(Generic[K]):
    """Keys and the times they are due. All times are seconds of the caller's clock."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}

    def add(self, key: K, due: float) -> None:
        """Ask for a key at ``due`` or earlier; a later wish never delays an earlier one."""
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))

    def take(self, now: float) -> K | None:
        """The key that is due longest and that nobody works on, now in the caller's hands; None where there is none."""
        blocked: list[tuple[float, int, K]] = []
        taken: K | None = None
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            due, _, key = entry
            if self._due.get(key) != due:
                continue  # superseded by an earlier wish, or already taken
            if key in self._working:
                blocked.append(entry)
                continue
            del self._due[key]
            self._working.add(key)
            taken = key
            break
        for entry in blocked:
            heapq.heappush(self._heap, entry)
        return taken

    def done(self, key: K) -> None:
        """The caller's hands are empty again; what was added meanwhile may be taken."""
        self._working.discard(key)

    def succeeded(self, key: K) -> None:
        """Forget the failures of a key."""
        self._failures.pop(key, None)

    def failed(self, key: K, now: float) -> float:
        """Ask for a key again after a delay that doubles with every failure in a row; the delay in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay: float = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(count, 20))
        delay *= 0.5 + 0.5 * self._jitter()  # apart, so that what failed together does not retry together
        self.add(key, now + delay)
        return delay

    def next_due(self) -> float | None:
        """When :meth:`take` may next have an answer; None while nothing that can be taken is known."""
        times = [due for key, due in self._due.items() if key not in self._working]
        return min(times, default=None)

    def depth(self, now: float) -> int:
        """How many keys are due and wait for a worker."""
        return sum(1 for key, due in self._due.items() if due <= now and key not in self._working)

    def oldest(self, now: float) -> float:
        """How many seconds the longest-waiting due key has waited."""
        times = [due for key, due in self._due.items() if due <= now and key not in self._working]
        return now - min(times) if times else 0.0

    @property
    def working(self) -> int:
        """How many keys are in workers' hands."""
        return len(self._working)


class WorkQueue(Generic[K]):
    """A :class:`Schedule` that workers of one event loop can wait for."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._schedule: Schedule[K] = Schedule(jitter)
        self._changed = asyncio.Event()

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a key in ``after`` seconds or earlier."""
        self._schedule.add(key, self._clock() + after)
        self._changed.set()

    async def take(self) -> K:
        """The next key; waits for one. The caller owes :meth:`done`."""
        while True:
            key = self._schedule.take(self._clock())
            if key is not None:
                return key
            self._changed.clear()
            due = self._schedule.next_due()
            timeout = None if due is None else max(0.0, due - self._clock())
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                continue

    def done(self, key: K, *, failed: bool = False) -> float:
        """Give a key back; a failed one returns by itself after the delay that this returns, in seconds."""
        delay = 0.0
        if failed:
            delay = self._schedule.failed(key, self._clock())
        else:
            self._schedule.succeeded(key)
        self._schedule.done(key)
        self._changed.set()
        return delay

    def depth(self) -> int:
        """How many keys are due and wait."""
        return self._schedule.depth(self._clock())

    def oldest(self) -> float:
        """Seconds that the longest-waiting due key has waited."""
        return self._schedule.oldest(self._clock())
