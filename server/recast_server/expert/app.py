"""The expert's HTTP application: one scoring route inside an edge that every request passes.

The edge gives a request its id, answers whatever goes wrong as JSON, sets the headers that tell a client which
revision it met, asks old connections to close, and counts the request once, when its status is known.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recast_api import names
from recast_api.resources.version import FoundationPin
from recast_api.server import CLIENT_GONE
from recast_server.expert import schema
from recast_server.expert.ranker import Ranker
from recast_server.expert.schema import RefusedError
from recast_server.runtime.context import RequestContext, deadline, traceparent
from recast_server.runtime.health import Health
from recast_server.runtime.http_protocol import Connection
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.scheduler import ExpiredError, OverloadedError

TAE_NONE = "none"
"""``x-recast-tae`` on a response without scores."""
BODY_SECONDS = 10.0
METHOD, PATH = "POST", "/v1/rank"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_log = logging.getLogger("recast.expert")


@dataclass(frozen=True)
class Identity:
    """Who answers, as told in headers and bodies."""

    model: str
    surface: str
    revision: str
    version: int
    foundation: FoundationPin

    def headers(self, request_id: str, tae: str) -> list[tuple[bytes, bytes]]:
        """The headers that every response carries."""
        return [
            (names.HEADER_REVISION.encode(), self.revision.encode()),
            (names.HEADER_VERSION.encode(), str(self.version).encode()),
            (names.HEADER_TAE.encode(), tae.encode()),
            (names.HEADER_REQUEST_ID.encode(), request_id.encode()),
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
        return headers, _json(refusal.body(request_id))


def create_app(
    identity: Identity,
    ranker: Ranker,
    health: Health,
    metrics: ScoringRequests,
    max_connection_age_seconds: float,
    slo_seconds: float,
) -> ASGIApp:
    """The application of the traffic port. Requests of clients that name no deadline have the SLO less a reserve."""

    async def rank(request: Request) -> Response:
        body = await _bounded_body(request)
        known = request.scope["recast"]
        known["received"] = received = time.monotonic()  # how fast a client sends is not this server's to answer for
        context: RequestContext = replace(known["context"], deadline=deadline(received, known["timeout"], slo_seconds))
        asked = schema.parse(body)
        work = ranker.rank(asked, context)
        connection: Connection | None = request.scope.get("state", {}).get("connection")
        ranking = await (work if connection is None else connection.while_it_stands(work))
        known["tae"] = ranking.tae
        order = sorted(range(len(ranking.scores)), key=ranking.scores.__getitem__, reverse=True)[: asked.limit]
        return _respond(
            200,
            {
                "requestId": context.request_id,
                "model": identity.model,
                "revision": identity.revision,
                "version": identity.version,
                "foundation": {
                    "name": identity.foundation.name,
                    "version": identity.foundation.version,
                    "lineage": identity.foundation.lineage,
                },
                "surface": identity.surface,
                "tae": ranking.tae,
                "items": [
                    {
                        "item": asked.candidates[row],
                        "score": ranking.scores[row],
                        "scores": {task: values[row] for task, values in ranking.probabilities.items()},
                    }
                    for row in order
                ],
                "unknownItems": ranking.unknown_items,
                "unknownContext": ranking.unknown_context,
            },
        )

    async def refused(request: Request, error: Exception) -> Response:
        refusal = _refusal(error)
        if refusal.status == 500:  # a refusal under overload is counted, and says the rest to its client
            fields = {"requestId": request.scope["recast"]["request_id"], "reason": refusal.reason}
            _log.error("request failed", exc_info=error, extra={"fields": fields})
        return _respond(refusal.status, refusal.body(request.scope["recast"]["request_id"]), headers=refusal.headers)

    async def guarded(request: Request) -> Response:
        try:
            return await rank(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)  # nobody is left to read it
        except Exception as error:
            return await refused(request, error)

    inner = Starlette(routes=[Route(PATH, guarded, methods=[METHOD])], exception_handlers={HTTPException: refused})
    inner.router.redirect_slashes = False
    return _Edge(inner, identity, health, metrics, max_connection_age_seconds)


class _Edge:
    """Wraps the application; see the module."""

    def __init__(
        self,
        app: ASGIApp,
        identity: Identity,
        health: Health,
        metrics: ScoringRequests,
        max_connection_age_seconds: float,
    ) -> None:
        self._app, self._identity, self._health, self._metrics = app, identity, health, metrics
        self._max_age_seconds = max_connection_age_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begin = time.monotonic()
        connection: Connection | None = scope.get("state", {}).get("connection")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        asked_id = headers.get(names.HEADER_REQUEST_ID, "")
        request_id = asked_id if _REQUEST_ID.fullmatch(asked_id) else uuid.uuid4().hex
        known: dict[str, Any] = {
            "request_id": request_id,
            "context": RequestContext(request_id, math.inf, traceparent(headers)),
            "timeout": headers.get(names.HEADER_TIMEOUT),
            "tae": None,
            "received": None,
        }
        scope["recast"] = known
        status = 0
        end: float | None = None

        async def stamped(message: Message) -> None:
            nonlocal status, end
            if message["type"] == "http.response.start":
                status = message["status"]
                if connection and connection.lost is not None:
                    status, end = CLIENT_GONE, connection.lost
                headers = [*message["headers"], *self._identity.headers(known["request_id"], known["tae"] or TAE_NONE)]
                if self._closes(connection):
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        scores = (scope["method"], scope["path"]) == (METHOD, PATH)
        try:
            with self._metrics.in_flight() if scores else nullcontext():
                await self._app(scope, receive, stamped)
        finally:
            if status:
                self._count(scores, status, (end or time.monotonic()) - (known["received"] or begin), known)

    def _count(self, scores: bool, status: int, seconds: float, known: dict[str, Any]) -> None:
        if not scores:
            self._metrics.other(status)
        elif status == CLIENT_GONE:
            self._metrics.disconnected(None if known["received"] is None else seconds)
        else:
            self._metrics.observe(status, seconds, known["tae"] if status == 200 else None)
        fields = {"requestId": known["request_id"], "code": status, "ms": round(seconds * 1000, 2)}
        if (trace := known["context"].trace_id) is not None:
            fields["traceId"] = trace
        _log.info("request", extra={"fields": {**fields, "tae": known["tae"] or TAE_NONE}})

    def _closes(self, connection: Connection | None) -> bool:
        aged = connection is not None and connection.older_than(self._max_age_seconds, time.monotonic())
        return aged or self._health.draining


async def _bounded_body(request: Request) -> bytes:
    """The body, refused before it is parsed when it is too long. What is too long is read and dropped, within reason:
    a connection closed over unread bytes is reset, and the client would never see why.
    """
    parts: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                received += len(part)
                if received <= schema.BODY_BYTES:
                    parts.append(part)
                elif received > 16 * schema.BODY_BYTES:
                    break
    except TimeoutError:
        raise RefusedError(
            400,
            "BodyTimeout",
            f"the body did not arrive within {BODY_SECONDS:.0f} s",
            headers={"connection": "close"},
        ) from None
    if received > schema.BODY_BYTES:
        raise RefusedError(
            413,
            "BodyTooLarge",
            f"the body has more than {schema.BODY_BYTES} bytes: send at most {schema.CANDIDATES} candidates"
            f" and {schema.HISTORY_EVENTS} history events per request",
            headers={"connection": "close"},
        )
    return b"".join(parts)


def _refusal(error: Exception) -> RefusedError:
    match error:
        case RefusedError():
            return error
        case OverloadedError() | ExpiredError():
            return RefusedError(
                503,
                "Overloaded",
                "this server has more requests than it can serve in time",
                headers={"retry-after": "1"},
            )
        case HTTPException(status_code=405):
            return RefusedError(
                405, "MethodNotAllowed", "use POST /v1/rank", headers=dict(error.headers or {"allow": "POST"})
            )
        case HTTPException(status_code=404):
            return RefusedError(404, "NotFound", "there is no such path here; use POST /v1/rank")
        case HTTPException() if error.status_code < 500:
            return RefusedError(400, "BadRequest", error.detail or "this request cannot be read")
        case _:
            return RefusedError(
                500, "Internal", "this server failed on the request; its log has the cause under this request id"
            )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _respond(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(_json(value), status, headers=headers, media_type="application/json")
