"""What every request to an expert's traffic port passes, whatever it asks for.

The edge gives a request its id, answers whatever goes wrong as JSON, sets the headers that tell a client which
revision it met, asks old connections to close, and counts the request once, when its status is known. It has no
framework around it: under overload most requests are refused, and what a refusal costs is taken from the others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from recast_api import names
from recast_api.resources.version import FoundationPin
from recast_api.server import CLIENT_GONE
from recast_model.context import Features
from recast_server.expert import compression
from recast_server.expert.outcomes import TAE_NONE, Outcome, Outcomes
from recast_server.expert.schema import BODY_BYTES, CANDIDATES, HISTORY_EVENTS, RefusedError
from recast_server.histories.reader import Seen
from recast_server.runtime.context import RequestContext, deadline, traceparent
from recast_server.runtime.health import Health
from recast_server.runtime.http_protocol import Connection
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.scheduler import ExpiredError, OverloadedError

BODY_SECONDS = 10.0
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
"""Of a client's own; others are replaced."""
_TAE, _REQUEST = names.HEADER_TAE.encode(), names.HEADER_REQUEST_ID.encode()
_log = logging.getLogger("recast.expert")
T = TypeVar("T")
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class Identity:
    """Who answers, as told in headers and bodies."""

    model: str
    surface: str
    revision: str
    version: int
    foundation: FoundationPin
    tasks: tuple[str, ...] = ()
    """What it gives probabilities of."""
    context: Features = ()
    """Features of a request's context that it knows."""

    def headers(self, request_id: str, tae: str) -> list[tuple[bytes, bytes]]:
        """The headers that every response carries."""
        return [
            (names.HEADER_REVISION.encode(), self.revision.encode()),
            (names.HEADER_VERSION.encode(), b"%d" % self.version),
            (_TAE, tae.encode()),
            (_REQUEST, request_id.encode()),
        ]

    def refusal(self, status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body where the protocol refuses what never reaches the application; see ``Refusal`` there."""
        request_id = uuid.uuid4().hex
        refusal = (
            RefusedError(400, "InvalidHttp", "this is not an HTTP/1.1 request that can be read")
            if status == 400
            else RefusedError(status, "TooManyConnections", "this server has as many connections as it may: use fewer")
        )
        headers = [(b"content-type", b"application/json"), *self.headers(request_id, TAE_NONE)]
        return headers, encode_json(refusal.body(request_id))


@dataclass(frozen=True)
class Part:
    """One of several requests that came as one; ``tae`` and ``history`` as in :class:`Reply`."""

    status: int
    tae: str | None = None
    history: Seen | None = None


@dataclass(frozen=True)
class Reply:
    """An answer; ``tae`` is where its scores' embeddings came from, None without scores."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media_type: bytes = b"application/json"
    tae: str | None = None
    history: Seen | None = None
    """Which history of the user they rest on."""
    parts: tuple[Part, ...] = ()
    """Where it answers several scoring requests, each of them: these count, and it does not."""


class Exchange:
    """A request and what is known of it so far."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.path: str = scope["path"]
        self.begin = time.monotonic()
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        self.connection: Connection | None = scope.get("state", {}).get("connection")
        asked_id = self.headers.get(names.HEADER_REQUEST_ID, "")
        self.request_id = asked_id if REQUEST_ID.fullmatch(asked_id) else uuid.uuid4().hex
        self.traceparent = traceparent(self.headers)
        self.received: float | None = None
        """When the body was there: how fast a client sends is not this server's to answer for."""

    async def body(self) -> bytes:
        """The body. Raises :class:`RefusedError` where it is too long or does not come, ``ClientDisconnect`` where its
        client leaves. What is too long is read and dropped, within reason: a connection closed over unread bytes is
        reset, and the client would never see why.
        """
        parts: list[bytes] = []
        received, more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and received <= 16 * BODY_BYTES:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part, more = message.get("body", b""), message.get("more_body", False)
                    received += len(part)
                    if received <= BODY_BYTES:
                        parts.append(part)
        except TimeoutError:
            raise RefusedError(
                400, "BodyTimeout", f"the body did not arrive within {BODY_SECONDS:.0f} s", headers=_CLOSE
            ) from None
        if received > BODY_BYTES:
            raise RefusedError(
                413,
                "BodyTooLarge",
                f"the body has more than {BODY_BYTES} bytes: send at most {CANDIDATES} candidates"
                f" and {HISTORY_EVENTS} events per request",
                headers=_CLOSE,
            )
        self.received = time.monotonic()
        return b"".join(parts)

    async def while_wanted(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives. Raises ``ClientDisconnect``, with the work cancelled, once the client is gone."""
        return await (work if self.connection is None else self.connection.while_it_stands(work))

    def context(self, slo_seconds: float, lag_seconds: float = 0.0) -> RequestContext:
        """What goes with the request from here, once its body is there.

        A client that names no deadline has the SLO less a reserve. ``lag_seconds``: what is thought to have passed
        before the body was looked at.
        """
        assert self.received is not None, "the body comes first"
        until = deadline(self.received - lag_seconds, self.headers.get(names.HEADER_TIMEOUT), slo_seconds)
        return RequestContext(self.request_id, until, self.traceparent)


Handler = Callable[[Exchange], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """What answers one method on one path."""

    handler: Handler
    scores: bool = False
    """Whether it is what a revision is judged by."""


RefusalBody = Callable[[str, RefusedError, str], Mapping[str, object]]
"""What is said of a refusal: to a request for this path, why, and under this request id."""


def _own_body(_: str, refusal: RefusedError, request_id: str) -> Mapping[str, object]:
    return refusal.body(request_id)


class Edge:
    """The ASGI application; see the module. ``routes`` has, by path and by method, what answers."""

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Route]],
        identity: Identity,
        health: Health,
        metrics: ScoringRequests,
        max_connection_age_seconds: float,
        refusal_body: RefusalBody = _own_body,
    ) -> None:
        self._refusal_body = refusal_body
        self._routes, self._identity, self._health, self._metrics = routes, identity, health, metrics
        self._max_age_seconds = max_connection_age_seconds
        self._outcomes = Outcomes(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive)
        methods = self._routes.get(scope["path"], {})
        route = methods.get(scope["method"])
        if route is None:
            reply = self._refused(exchange, self._no_route(exchange.path, methods))
        elif not route.scores:
            reply = await self._answer(exchange, route)
        else:
            with self._metrics.in_flight():
                reply = await self._answer(exchange, route)
        connection, end = exchange.connection, None
        if connection is not None and connection.lost is not None:
            reply, end = Reply(CLIENT_GONE, b""), connection.lost
        body, encoding = _encoded(reply.body, exchange.headers.get("accept-encoding"))
        headers = [
            (b"content-type", reply.media_type),
            (b"content-length", b"%d" % len(body)),
            *encoding,
            *reply.headers,
            *self._identity.headers(exchange.request_id, reply.tae or TAE_NONE),
            *(() if reply.history is None else reply.history.headers),
        ]
        if self._closes(connection):
            headers.append((b"connection", b"close"))
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._count(exchange, reply, route is not None and route.scores, end or time.monotonic())

    async def _answer(self, exchange: Exchange, route: Route) -> Reply:
        try:
            return await route.handler(exchange)
        except ClientDisconnect:
            return Reply(CLIENT_GONE, b"")  # nobody is left to read it
        except asyncio.CancelledError:
            if not self._health.draining:
                raise
            return self._refused(exchange, STOPPING)  # the time for its answer is over, but not for a word
        except Exception as error:
            return self._refused(exchange, error)

    def _refused(self, exchange: Exchange, error: Exception) -> Reply:
        refusal = refusal_of_failure(error, exchange.request_id)
        headers = tuple((name.encode(), value.encode()) for name, value in refusal.headers.items())
        body = self._refusal_body(exchange.path, refusal, exchange.request_id)
        return Reply(refusal.status, encode_json(body), headers)

    def _no_route(self, path: str, methods: Mapping[str, Route]) -> RefusedError:
        if not methods:
            near = [known for known in self._routes if known.split("/")[1:2] == path.split("/")[1:2]] or self._routes
            known = ", ".join(f"{method} {known}" for known in near for method in self._routes[known])
            return RefusedError(404, "NotFound", f"there is no such path here; use {known}")
        allowed = ", ".join(methods)
        return RefusedError(405, "MethodNotAllowed", f"use {allowed} here", headers={"allow": allowed})

    def _count(self, exchange: Exchange, reply: Reply, scores: bool, end: float) -> None:
        whole = Outcome(
            exchange.request_id,
            exchange.traceparent.split("-")[1] if exchange.traceparent else None,
            reply.status,
            end - (exchange.received or exchange.begin),
            exchange.received is not None,
            reply.tae,
            reply.history,
        )
        for place, part in enumerate(reply.parts):
            own = replace(whole, request_id=f"{whole.request_id}.{place}", status=part.status)
            self._outcomes.scored(replace(own, tae=part.tae, history=part.history))
        judged = scores and not reply.parts
        (self._outcomes.scored if judged else self._outcomes.other)(whole)

    def _closes(self, connection: Connection | None) -> bool:
        aged = connection is not None and connection.older_than(self._max_age_seconds, time.monotonic())
        return aged or self._health.draining


_CLOSE = {"connection": "close"}
STOPPING = RefusedError(503, "Stopping", "this server ends before it could answer: ask again", headers=_CLOSE)


def refusal_of_failure(error: Exception, request_id: str) -> RefusedError:
    """What a client is told of an error; one that is no refusal is logged."""
    match error:
        case RefusedError():
            return error
        case OverloadedError() | ExpiredError():
            message = "this server has more requests than it can serve in time"
            return RefusedError(503, "Overloaded", message, headers={"retry-after": "1"})
        case _:
            fields = {"requestId": request_id, "reason": "Internal"}
            _log.error("request failed", exc_info=error, extra={"fields": fields})
            return RefusedError(
                500, "Internal", "this server failed on the request; its log has the cause under this request id"
            )


def _encoded(body: bytes, accepted: str | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    short = compression.deflated(body, accepted)
    return (body, []) if short is None else (short, [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")])


def encode_json(value: object) -> bytes:
    """Compact JSON. Raises ValueError on numbers that are not finite."""
    return _encode(value).encode()
