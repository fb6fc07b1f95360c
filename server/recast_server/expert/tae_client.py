"""The seam to the foundation: :class:`TaeClient` fetches target-aware embeddings or says why there are none.

:class:`GrpcTaeClient` is the one used in pods. It never retries: a late embedding is worth less than the time that
the retry would take from a foundation in trouble. A replica that gives no answers is left alone for a while
(:mod:`recast_server.expert.replicas`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from recast_api.pair import is_pair
from recast_api.resources.version import FoundationPin
from recast_server.expert.questions import TaeUnavailableError, answer_of
from recast_server.expert.replicas import Replica, Replicas, Resolve, resolver
from recast_server.proto import columns
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Query, Unread
from recast_server.runtime.metrics import PAIR_MISMATCH, FoundationCalls

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
_log = logging.getLogger("recast.tae")
_DTYPES: dict[int, np.dtype[np.floating]] = {wire.FLOAT32: np.dtype("<f4"), wire.FLOAT16: np.dtype("<f2")}
HISTORY_EVENTS = 1024
"""What every foundation takes with a call."""
PROBE_SECONDS = 1.0
"""How long an ejected replica may take to say which version it is."""


@dataclass(frozen=True)
class ServedFoundation:
    """The version that a foundation's server says it serves."""

    name: str
    version: int
    lineage: int
    digest: str
    tae_dim: int
    history_events: int = HISTORY_EVENTS
    """The most events of a history that it takes with a call, which is no less than it reads."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a foundation says of a query."""

    rows: NDArray[np.floating]
    """(M, D), row i for candidate i."""
    served: ServedFoundation
    """The version that answered: the pin's, or a later one of its lineage."""
    cursor_ms: int = 0
    """It has learned labels up to this instant of availability time; 0 where it does not say."""
    history_age_ms: int | None = None
    """How long before the request the stored history ended that was read; None where none was, or it does not say."""
    history_sequence: int | None = None
    """Sequence number of that history."""


class TaeClient(Protocol):
    """Where an expert gets its embeddings from."""

    async def describe(self, timeout_seconds: float) -> ServedFoundation:
        """Which version is served. Raises :class:`TaeUnavailableError`."""
        ...

    async def tae(self, query: Query, context: RequestContext, within_seconds: float) -> Embeddings:
        """The embeddings of the query's candidates. Raises :class:`TaeUnavailableError`, at the latest in that time."""
        ...

    async def close(self) -> None:
        """Ends its connections."""
        ...


class GrpcTaeClient:
    """Calls the replicas behind the foundation lineage's headless Service, each user's own first.

    What it returns is what it was promised, whoever answered: the pinned version's embeddings, one finite row of
    ``tae_dim`` numbers per candidate. Anything else is :class:`TaeUnavailableError`.
    """

    def __init__(
        self,
        address: str,
        pin: FoundationPin,
        *,
        tae_dim: int,
        deadline_seconds: float,
        calls: FoundationCalls,
        resolve: Resolve | None = None,
    ) -> None:
        """``resolve`` stands in for the lookup of ``address``, which is ``host:port``."""
        self._address, self._pin, self._tae_dim = address, pin, tae_dim
        self._deadline_seconds, self._calls = deadline_seconds, calls
        self._replicas = Replicas(resolve or resolver(address), self._is_right, calls)
        self._mismatch_logged = ""

    async def describe(self, timeout_seconds: float) -> ServedFoundation:
        """See :class:`TaeClient`. All replicas are asked: it is the pair's version that counts, if any serves it."""
        try:
            async with asyncio.timeout(timeout_seconds):
                replicas = await self._replicas.known()
        except TimeoutError:
            raise TaeUnavailableError("UNAVAILABLE", f"{self._address} has no address") from None
        asking = [asyncio.ensure_future(_describe(replica, timeout_seconds)) for replica in replicas]
        wrong: ServedFoundation | None = None
        error = TaeUnavailableError("UNAVAILABLE", "")
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    served = await answer
                except TaeUnavailableError as failed:
                    error = failed
                    continue
                if is_pair(served, self._pin):
                    return served
                wrong = served
        finally:
            for task in asking:
                task.cancel()
        if wrong is None:
            raise error
        return wrong

    async def tae(self, query: Query, context: RequestContext, within_seconds: float) -> Embeddings:
        """See :class:`TaeClient`. Every call is counted by how it ended; there is none where no time is left.

        Where every replica is ejected there is none either, but it counts as UNAVAILABLE.
        """
        begin, timeout = time.monotonic(), min(self._deadline_seconds, within_seconds)
        if timeout <= 0:
            raise TaeUnavailableError("DEADLINE_EXCEEDED", "no time is left to ask the foundation")
        replica = self._replicas.choose(query.user)
        if replica is None:
            replica = await self._first_choice(query.user, timeout)
            timeout -= time.monotonic() - begin
        if replica is None:
            self._calls.not_made("UNAVAILABLE")
            raise TaeUnavailableError("UNAVAILABLE", f"no replica behind {self._address} answers")
        request, result = _request(query), "UNKNOWN"
        replica.in_flight += 1
        try:
            reply = await replica.questions.ask(request, context, timeout)
            embeddings = self._embeddings(reply, query)
            result = "OK"
        except TaeUnavailableError as error:
            result = error.code
            raise
        except asyncio.CancelledError:
            result = "CANCELLED"  # by our own caller, who no longer waits
            raise
        finally:
            replica.in_flight -= 1
            took = time.monotonic() - begin
            self._calls.observe(result, took)
            self._replicas.ended(replica, result, begin, took, timeout)
        return embeddings

    async def close(self) -> None:
        """See :class:`TaeClient`."""
        await self._replicas.close()

    async def _first_choice(self, user: int, timeout: float) -> Replica | None:
        """Of replicas that may not have been looked up yet: the first request waits for that."""
        try:
            async with asyncio.timeout(timeout):
                await self._replicas.looked_up()
        except TimeoutError:
            return None
        return self._replicas.choose(user)

    async def _is_right(self, replica: Replica) -> bool:
        """Whether an ejected replica answers and is the pair's."""
        try:
            served = await _describe(replica, PROBE_SECONDS)
        except TaeUnavailableError:
            return False
        return is_pair(served, self._pin) and served.tae_dim == self._tae_dim

    def _embeddings(self, reply: wire.TaeReply, query: Query) -> Embeddings:
        count, version = len(query.candidates), reply.version
        served = ServedFoundation(version.model, version.number, version.lineage, version.digest, reply.dim)
        if not is_pair(served, self._pin):
            text = mismatch(self._pin, served)
            if text != self._mismatch_logged:  # once per version, not once per request
                self._mismatch_logged = text
                _log.error(text)
            raise TaeUnavailableError(PAIR_MISMATCH, text)
        dtype = _DTYPES.get(reply.scheme)
        shape, wanted = (reply.rows, reply.dim), (count, self._tae_dim)
        if dtype is None or shape != wanted or len(reply.data) != count * self._tae_dim * dtype.itemsize:
            raise TaeUnavailableError(
                "INTERNAL",
                f"asked for {count} rows of {self._tae_dim} numbers, the answer says {reply.rows} of {reply.dim} and"
                f" holds {len(reply.data)} bytes in scheme {reply.scheme}",
            )
        rows: NDArray[np.floating] = np.frombuffer(reply.data, dtype)
        if not np.isfinite(rows).all():
            raise TaeUnavailableError("INTERNAL", "the embeddings are not finite")
        return Embeddings(
            rows.reshape(wanted),
            served,
            reply.cursor_milliseconds,
            reply.history_age_milliseconds if reply.HasField("history_age_milliseconds") else None,
            reply.history_sequence if reply.HasField("history_sequence") else None,
        )


async def _describe(replica: Replica, timeout_seconds: float) -> ServedFoundation:
    answer: wire.Description = await answer_of(
        replica.stub.Describe(wire.DescribeRequest(), timeout=timeout_seconds, wait_for_ready=True)
    )
    version = answer.version
    events = max(HISTORY_EVENTS, answer.history_events)
    return ServedFoundation(version.model, version.number, version.lineage, version.digest, answer.dim, events)


def mismatch(pin: FoundationPin, served: ServedFoundation) -> str:
    """The sentence that names the pinned foundation and the one that answered instead."""
    return (
        f"this expert was trained with {pin.name} v{pin.version} (lineage {pin.lineage}, {pin.digest}), but its"
        f" foundation's Service answers with {served.name} v{served.version} (lineage {served.lineage},"
        f" {served.digest}): point the expert at lineage {pin.lineage}, or roll out an expert trained with"
        f" v{served.version}"
    )


def _request(query: Query) -> wire.TaeRequest:
    assert not isinstance(query.history, Unread), "a query is read before it is sent"
    return wire.TaeRequest(
        user=query.user,
        surface=query.surface,
        time_milliseconds=query.time_ms,
        candidate_ids=columns.pack_ids(query.candidates),
        events=None if query.history is None else columns.pack(query.history),
        sequence=query.sequence,
        events_before=query.history_before,
        context=[_feature(name, value) for name, value in query.context.items() if value is not None],
    )


def _feature(name: str, value: str | float) -> wire.ContextFeature:
    if isinstance(value, str):
        return wire.ContextFeature(name=name, text=value)
    return wire.ContextFeature(name=name, number=value)
