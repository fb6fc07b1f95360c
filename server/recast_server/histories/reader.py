"""Which history a request is answered from: its own, the store's, or the one that the version brought with it.

A store never breaks an answer. It has a share of the request's time; one that fails, is late or contradicts itself is
passed over, and after some failures in a row it is not asked at all for a while. Each such fallback is counted by its
reason, and the answer says which history it had and how old that was: what became known before ``until`` is in it, and
its age is the request's time less that.

==============  ====================================================================================
reason          what happened
==============  ====================================================================================
``down``        the store could not be reached, or failed
``late``        it did not answer within its share of the request's time
``open``        it was not asked, since it failed several times in a row
``corrupt``     it gave a record that is damaged, another user's, or out of order
``unknown``     it has no event of a user that the version has events of
``trimmed``     the request's window reaches back to events that the store no longer keeps
``stale``       it answered, but what it knows is older than ``maxAge``
==============  ====================================================================================
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recast_api import names
from recast_api import server as contract
from recast_server.histories.breaker import FAILURES, Breaker
from recast_server.histories.metrics import HistoryMetrics
from recast_server.histories.store import AHEAD_MILLISECONDS, HistoryStore, Read, StoreError
from recast_server.histories.user_history import TrimmedError, UserHistory
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Query
from recast_server.runtime.loop_lag import fired_late

READ_SHARE = 0.2
"""Of the time that a request has left, for the store."""
LONGEST_READ_SECONDS = 0.05
INLINE_EVENTS = 1024
"""As many as every foundation takes with a call; one that reads more says so."""
USUAL_TIMES, FAIR_SECONDS = 3.0, 0.005
"""A read that had less time than so many usual ones, or than that, says nothing of the store."""
_log = logging.getLogger("recast.histories")


@dataclass(frozen=True)
class Seen:
    """Which history an answer rests on."""

    source: str
    """``inline``, ``store`` or ``artifact``."""
    state: str
    """``fresh`` or ``stale``."""
    age_seconds: float | None = None
    """None where the client sent it: only the client knows."""

    @property
    def body(self) -> dict[str, str | float]:
        """As an answer and the log say it."""
        age = {} if self.age_seconds is None else {"ageSeconds": round(self.age_seconds, 3)}
        return {"source": self.source, "state": self.state, **age}

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As an answer's headers say it."""
        named = {names.HEADER_HISTORY: self.source, names.HEADER_HISTORY_STATE: self.state}
        if self.age_seconds is not None:
            named[names.HEADER_HISTORY_AGE] = f"{self.age_seconds:.3f}"
        return [(name.encode(), value.encode()) for name, value in named.items()]


@dataclass(frozen=True)
class Asked:
    """One request, as each of the two networks is asked."""

    expert: Query
    foundation: Query
    seen: Seen


@dataclass(frozen=True)
class Snapshot:
    """What a version brought with it."""

    until_ms: int
    knows: Callable[[int], bool]
    """Whether it has events of a user."""


def chosen(
    read: Read | str, snapshot: Snapshot, query: Query, max_age_seconds: float, now_ms: int
) -> tuple[Read | None, str | None]:
    """What to answer from, None for the snapshot; and why not from a store that is fresh. Pure.

    ``read`` is what the store gave, or the reason for which it gave nothing.
    """
    if isinstance(read, str):
        return None, read
    if read.until_ms > now_ms + AHEAD_MILLISECONDS:
        return None, "corrupt"  # or all would seem fresh until then
    if not read.history.sequence and snapshot.knows(query.user):
        return None, "unknown"
    if age_seconds(query, read.until_ms) > max_age_seconds:
        return (read if read.until_ms >= snapshot.until_ms else None), "stale"
    return read, None


def age_seconds(query: Query, until_ms: int) -> float:
    """How old what a history knows is for a request; a request of the past misses nothing of it."""
    return max(0.0, (query.time_ms - until_ms) / 1000)


def queries(query: Query, history: UserHistory, limit: int, inline_events: int = INLINE_EVENTS) -> tuple[Query, Query]:
    """The expert's and the foundation's query over this history; ``limit`` is the expert's window.

    The foundation's window is its own to cut: it is given the newest ``inline_events`` that were known at the request's
    time, and how many came before those.
    Raises :class:`TrimmedError`.
    """
    tail = history.tail_events
    dropped, known = history.total - len(tail), int(np.searchsorted(tail.available_ms, query.time_ms, side="left"))
    if dropped and not known:
        raise TrimmedError("none of the events that are kept was known at the request's time")
    begin = max(0, known - inline_events)
    tail, before = tail.take(slice(begin, known)), dropped + begin
    own = history.window(query.time_ms, limit, query.surface)
    return replace(query, history=own), replace(query, history=tail, history_before=before, sequence=history.sequence)


class HistoryReader:
    """Reads for requests; see the module."""

    def __init__(
        self,
        store: HistoryStore | None,
        snapshot: Snapshot,
        limit: int,
        max_age_seconds: float,
        metrics: HistoryMetrics,
        inline_events: int = INLINE_EVENTS,
    ) -> None:
        """Without a ``store``, the snapshot is all there is. ``limit`` is the expert's window, ``inline_events`` what
        the foundation takes with a call.
        """
        self._store, self._snapshot, self._limit, self._inline_events = store, snapshot, limit, inline_events
        self._max_age_seconds, self._metrics = max_age_seconds, metrics
        self._breaker = Breaker()
        self._usual_seconds = 0.0
        self._probe: asyncio.Task[None] | None = None

    async def asked(self, query: Query, context: RequestContext) -> Asked:
        """The request with its history. Never fails, and takes a share of the request's time at most."""
        if query.history is not None:
            return self._counted(Asked(query, query, Seen(contract.HISTORY_INLINE, contract.HISTORY_FRESH)))
        if self._store is None:
            return self._counted(self._from_snapshot(query))
        found = await self._read(self._store, query.user, context)
        now_ms = time.time_ns() // 1_000_000
        read, reason = chosen(found, self._snapshot, query, self._max_age_seconds, now_ms)
        asked = self._from_snapshot(query)
        if read is not None:
            try:
                expert, foundation = queries(query, read.history, self._limit, self._inline_events)
                asked = Asked(expert, foundation, self._seen(contract.HISTORY_STORE, query, read.until_ms))
            except TrimmedError:
                reason = "trimmed"
        if reason is not None:
            self._metrics.fallback(reason)
        return self._counted(asked)

    def _from_snapshot(self, query: Query) -> Asked:
        return Asked(query, query, self._seen(contract.HISTORY_ARTIFACT, query, self._snapshot.until_ms))

    def _seen(self, source: str, query: Query, until_ms: int) -> Seen:
        age = age_seconds(query, until_ms)
        return Seen(source, contract.HISTORY_STALE if age > self._max_age_seconds else contract.HISTORY_FRESH, age)

    def _counted(self, asked: Asked) -> Asked:
        self._metrics.answered(asked.seen.source, asked.seen.state, asked.seen.age_seconds)
        return asked

    async def _read(self, store: HistoryStore, user: int, context: RequestContext) -> Read | str:
        begin = time.monotonic()
        if self._breaker.failures >= FAILURES:
            if self._breaker.allows(begin):  # tried anew, but at no request's expense: one may be in a hurry
                self._breaker = self._breaker.asking(begin)
                self._probe = asyncio.create_task(self._try(store, user))
            return "open"
        return await self._within(store, user, min(LONGEST_READ_SECONDS, READ_SHARE * context.left))

    async def _try(self, store: HistoryStore, user: int) -> None:
        await self._within(store, user, LONGEST_READ_SECONDS)

    async def _within(self, store: HistoryStore, user: int, seconds: float) -> Read | str:
        """What the store gives in so many seconds, or why it gives nothing; the breaker hears of it."""
        begin = time.monotonic()
        answered: bool | None = False
        reason, problem = "down", ""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                found = await store.read(user)
            answered = True
            return found if isinstance(found, Read) else "behind"
        except TimeoutError:
            reason = "late"
            fair = seconds >= max(FAIR_SECONDS, USUAL_TIMES * self._usual_seconds)
            answered = False if fair and not fired_late(time.monotonic() - begin, seconds) else None
        except StoreError as error:
            reason, answered, problem = error.reason, error.reason == "corrupt", str(error)
            if answered:  # of this one user: it must be found in the log
                _log.error("a history cannot be read", extra={"fields": {"problem": str(error)}})
        except asyncio.CancelledError:
            answered = None  # its client has gone, which says nothing of the store
            raise
        except Exception:
            _log.exception("a store of histories failed")
        finally:
            now = time.monotonic()
            self._metrics.read(now - begin)
            before = self._breaker.failures
            if answered is not None:
                self._breaker = self._breaker.after(answered, now)
            if answered:
                self._usual_seconds += 0.1 * (now - begin - self._usual_seconds)
            fields = {"reason": reason, "problem": problem}
            if self._breaker.failures == FAILURES > before:
                _log.error("the store of histories is left alone for a while", extra={"fields": fields})
            elif before >= FAILURES and answered:
                _log.info("the store of histories is back")
        return reason
