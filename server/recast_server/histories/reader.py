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

from recast_api import names
from recast_api import server as contract
from recast_server.histories.breaker import FAILURES, Breaker
from recast_server.histories.metrics import HistoryMetrics
from recast_server.histories.store import HistoryStore, Read, StoreError
from recast_server.histories.user_history import TrimmedError, UserHistory
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Query

READ_SHARE = 0.2
"""Of the time that a request has left, for the store."""
LONGEST_READ_SECONDS = 0.05
INLINE_EVENTS = 1024
"""As many as a foundation takes with a call."""
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
    read: Read | str, snapshot: Snapshot, query: Query, max_age_seconds: float
) -> tuple[Read | None, str | None]:
    """What to answer from, None for the snapshot; and why not from a store that is fresh. Pure.

    ``read`` is what the store gave, or the reason for which it gave nothing.
    """
    if isinstance(read, str):
        return None, read
    if not read.history.sequence and snapshot.knows(query.user):
        return None, "unknown"
    if age_seconds(query, read.until_ms) > max_age_seconds:
        return (read if read.until_ms >= snapshot.until_ms else None), "stale"
    return read, None


def age_seconds(query: Query, until_ms: int) -> float:
    """How old what a history knows is for a request; a request of the past misses nothing of it."""
    return max(0.0, (query.time_ms - until_ms) / 1000)


def queries(query: Query, history: UserHistory, limit: int) -> tuple[Query, Query]:
    """The expert's and the foundation's query over this history; ``limit`` is the expert's window.

    The foundation's window is its own to cut: it is given the newest events of all, and how many came before those.
    Raises :class:`TrimmedError`.
    """
    tail = history.tail_events
    tail = tail.take(slice(max(0, len(tail) - INLINE_EVENTS), None))
    before = history.total - len(tail)
    if before and tail.available_ms[0] >= query.time_ms:
        raise TrimmedError("none of the events that are kept was known at the request's time")
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
    ) -> None:
        """Without a ``store``, the snapshot is all there is. ``limit`` is the expert's window."""
        self._store, self._snapshot, self._limit = store, snapshot, limit
        self._max_age_seconds, self._metrics = max_age_seconds, metrics
        self._breaker = Breaker()

    async def asked(self, query: Query, context: RequestContext) -> Asked:
        """The request with its history. Never fails, and takes a share of the request's time at most."""
        if query.history is not None:
            return self._counted(Asked(query, query, Seen(contract.HISTORY_INLINE, contract.HISTORY_FRESH)))
        if self._store is None:
            return self._counted(self._from_snapshot(query))
        read, reason = chosen(
            await self._read(self._store, query.user, context), self._snapshot, query, self._max_age_seconds
        )
        asked = self._from_snapshot(query)
        if read is not None:
            try:
                expert, foundation = queries(query, read.history, self._limit)
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
        if not self._breaker.allows(begin):
            return "open"
        self._breaker = self._breaker.asking(begin)
        answered: bool | None = False
        reason = "down"
        try:
            async with asyncio.timeout(max(0.0, min(LONGEST_READ_SECONDS, READ_SHARE * context.left))):
                found = await store.read(user)
            answered = True
            return found if isinstance(found, Read) else "behind"
        except TimeoutError:
            reason = "late"
        except StoreError as error:
            reason, answered = error.reason, error.reason == "corrupt"
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
            if self._breaker.failures == FAILURES > before:
                _log.error("the store of histories is left alone for a while", extra={"fields": {"reason": reason}})
        return reason
