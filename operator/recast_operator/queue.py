"""The work queue: which key to reconcile next, and when.

Level triggered: an entry says "look at this again", never what happened, so any number of events about one key are one
entry. Every key is handed out to at most one worker at a time; a key that is added while it is being worked on is
handed out again afterwards, and not before its *interval* has passed since the last time: a burst of changes makes few
passes. Urgent keys come first, so that the one foundation never waits behind its thousand experts.

:class:`Schedule` is the rule book, without clock or coroutine, so that properties of it can be tested by thousands;
every call costs the logarithm of what is queued, or less. :class:`WorkQueue` lets workers wait for it.
:mod:`recast_operator.runtime` adds keys and takes them.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 300.0


@dataclass(frozen=True)
class Pace:
    """How a kind of key is served."""

    urgent: bool = False
    interval_seconds: float = 0.0
    """At least so long from the end of one pass to the beginning of the next."""


class _Heap(Generic[K]):
    """Keys by time; an entry counts while ``due`` still has that time for its key."""

    def __init__(self, due: dict[K, float]) -> None:
        self._due = due
        self._entries: list[tuple[float, int, K]] = []
        self._sequence = 0

    def push(self, key: K, time: float) -> None:
        self._sequence += 1
        heapq.heappush(self._entries, (time, self._sequence, key))

    def first(self) -> tuple[float, K] | None:
        while self._entries:
            time, _, key = self._entries[0]
            if self._due.get(key) == time:
                return time, key
            heapq.heappop(self._entries)
        return None

    def pop(self) -> None:
        heapq.heappop(self._entries)


class Schedule(Generic[K]):
    """Keys and the times they are due. All times are seconds of the caller's clock, which never goes back."""

    def __init__(
        self, pace: Callable[[K], Pace] = lambda key: Pace(), jitter: Callable[[], float] = random.random
    ) -> None:
        self._pace = pace
        self._jitter = jitter
        self._later: dict[K, float] = {}
        """Due in the future, as far as known."""
        self._ready: tuple[dict[K, float], dict[K, float]] = ({}, {})
        """Due, and in nobody's hands: urgent ones, and others."""
        self._parked: dict[K, float] = {}
        """Asked for while in somebody's hands."""
        self._later_heap: _Heap[K] = _Heap(self._later)
        self._ready_heaps: tuple[_Heap[K], _Heap[K]] = (_Heap(self._ready[0]), _Heap(self._ready[1]))
        self._working: set[K] = set()
        self._not_before: dict[K, float] = {}
        """Ends of intervals that are not over yet."""
        self._resting: _Heap[K] = _Heap(self._not_before)
        self._failures: dict[K, int] = {}

    def add(self, key: K, due: float) -> None:
        """Ask for a key at ``due`` or earlier; a later wish never delays an earlier one."""
        if key in self._working:
            self._parked[key] = min(self._parked.get(key, due), due)
            return
        due = max(due, self._not_before.get(key, due))
        known = self._later.get(key)
        if key in self._ready[self._level(key)] or (known is not None and known <= due):
            return
        self._later[key] = due
        self._later_heap.push(key, due)

    def take(self, now: float, *, urgent_only: bool = False) -> K | None:
        """The key that is due longest, an urgent one first, now in the caller's hands; None where there is none."""
        self._advance(now)
        for level, heap in list(zip(self._ready, self._ready_heaps, strict=True))[: 1 if urgent_only else 2]:
            if (first := heap.first()) is not None:
                heap.pop()
                del level[first[1]]
                self._working.add(first[1])
                return first[1]
        return None

    def done(self, key: K, now: float) -> None:
        """The caller's hands are empty again; what was asked for meanwhile may be taken when the interval is over."""
        self._working.discard(key)
        interval = self._pace(key).interval_seconds
        if interval > 0:
            self._not_before[key] = now + interval
            self._resting.push(key, now + interval)
        if (due := self._parked.pop(key, None)) is not None:
            self.add(key, due)

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

    def next_due(self, now: float, *, urgent_only: bool = False) -> float | None:
        """When :meth:`take` may next have an answer; None while nothing that can be taken is known."""
        self._advance(now)
        heaps = [*self._ready_heaps[: 1 if urgent_only else 2], self._later_heap]
        times = [first[0] for heap in heaps if (first := heap.first()) is not None]
        return min(times, default=None)

    def depth(self, now: float) -> int:
        """How many keys are due and wait for a worker."""
        self._advance(now)
        return sum(map(len, self._ready))

    def oldest(self, now: float) -> float:
        """How many seconds the longest-waiting due key has waited."""
        self._advance(now)
        times = [first[0] for heap in self._ready_heaps if (first := heap.first()) is not None]
        return now - min(times) if times else 0.0

    def _level(self, key: K) -> int:
        return 0 if self._pace(key).urgent else 1

    def _advance(self, now: float) -> None:
        """Move what has become due to where it can be taken, and forget intervals that are over."""
        while (rested := self._resting.first()) is not None and rested[0] <= now:
            self._resting.pop()
            del self._not_before[rested[1]]
        while (first := self._later_heap.first()) is not None and first[0] <= now:
            due, key = first
            self._later_heap.pop()
            del self._later[key]
            level = self._level(key)
            self._ready[level][key] = due
            self._ready_heaps[level].push(key, due)


class WorkQueue(Generic[K]):
    """A :class:`Schedule` that workers of one event loop can wait for."""

    def __init__(
        self,
        clock: Callable[[], float],
        pace: Callable[[K], Pace] = lambda key: Pace(),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._schedule: Schedule[K] = Schedule(pace, jitter)
        self._waiting: set[asyncio.Event] = set()

    def add(self, key: K, after: float = 0.0) -> None:
        """Ask for a key in ``after`` seconds or earlier."""
        self._schedule.add(key, self._clock() + after)
        self._notify()

    async def due(self, *, urgent_only: bool = False) -> None:
        """Wait until there is a key to take. Another worker may take it first."""
        while True:
            now = self._clock()
            due = self._schedule.next_due(now, urgent_only=urgent_only)
            if due is not None and due <= now:
                return
            changed = asyncio.Event()
            self._waiting.add(changed)
            try:
                async with asyncio.timeout(None if due is None else due - now):
                    await changed.wait()
            except TimeoutError:
                continue
            finally:
                self._waiting.discard(changed)

    def take(self, *, urgent_only: bool = False) -> K | None:
        """The next key; None where none is due. The caller owes :meth:`done`."""
        return self._schedule.take(self._clock(), urgent_only=urgent_only)

    def done(self, key: K, *, failed: bool = False) -> float:
        """Give a key back; a failed one returns by itself after the delay that this returns, in seconds."""
        delay, now = 0.0, self._clock()
        if failed:
            delay = self._schedule.failed(key, now)
        else:
            self._schedule.succeeded(key)
        self._schedule.done(key, now)
        self._notify()
        return delay

    def depth(self) -> int:
        """How many keys are due and wait."""
        return self._schedule.depth(self._clock())

    def oldest(self) -> float:
        """Seconds that the longest-waiting due key has waited."""
        return self._schedule.oldest(self._clock())

    def _notify(self) -> None:
        for changed in self._waiting:
            changed.set()
