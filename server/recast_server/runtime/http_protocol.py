"""One HTTP connection: uvicorn's protocol over httptools, with what a server in front of clients of every kind needs.

A connection costs memory and a file, so none is kept for nothing: a client has so long to send the head of a request,
from when it connects or from the head's first byte, and so long between two requests. (The body is the application's:
it knows how much of one it wants.) Beyond a number of connections, clients are told to come back later.

Every connection carries its :class:`Connection` into the application, at ``scope["state"]["connection"]``: uvicorn
tells an application whose client is gone no more than to let it write into nothing.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

AGE_SPREAD = 0.1
HEADER_BYTES = 32 * 1024
"""Of a request's line and headers together; httptools itself has no bound."""

_UPGRADE = re.compile(rb"\r\nUpgrade(?=[ \t]*:)", re.IGNORECASE)
"""Java's client offers HTTP/2 with every request. A server may ignore that, but httptools would skip the body; so it
does not get to see the header. The name put in its place is as long, and no JSON body can hold such a line."""
_CUT_UPGRADE = re.compile(rb"\r\n(U(?:p(?:g(?:r(?:a(?:de?)?)?)?)?)?)\Z", re.IGNORECASE)
"""The same, cut off by the end of what arrived so far: no head ends like this."""

T = TypeVar("T")
Refusal = Callable[[int], tuple[list[tuple[bytes, bytes]], bytes]]
"""Headers and body that go with a status with which the protocol itself refuses: 400 to bytes that are no HTTP request,
503 where there are too many connections. Called once for each."""


@dataclass(frozen=True)
class Limits:
    """What one server allows its clients."""

    connections: int = 1024
    """Open at a time. As many again get 503 with their first byte; what is beyond is closed unheard."""
    head_seconds: float = 10.0
    """For the head of a request, from when the connection opened or from the head's first byte; likewise for the rest
    of a body that was answered before its end."""
    unread_seconds: float = 10.0
    """How long an answer may wait for a client that does not read it."""
    refused_seconds: float = 1.0
    """The same, for a connection that only waits for its 503."""
    idle_seconds: int = 75
    """Between two requests. Longer than common clients' own limit, so that it is the client that closes an idle
    connection, not the server beneath a request that is already on its way."""


@dataclass
class Connection:
    """What an application may know of the connection of a request. Times are on ``time.monotonic``'s clock."""

    opened: float
    spread: float = 1.0
    """What an age limit is to be multiplied by: clients that came together shall not be sent away together."""
    lost: float | None = None
    """When it ended, by the client or by an error; None while it stands."""
    on_lost: Callable[[], object] | None = None

    async def while_it_stands(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives. Raises ``ClientDisconnect``, with the work cancelled, once nobody waits for it."""
        if self.lost is not None:
            work.close()
            raise ClientDisconnect
        task = asyncio.current_task()
        assert task is not None
        self.on_lost = task.cancel  # what it awaits, that is: not a task more for each request
        try:
            return await work
        except asyncio.CancelledError:
            if self.lost is not None and not task.uncancel():
                raise ClientDisconnect from None
            raise
        finally:
            self.on_lost = None

    def older_than(self, seconds: float, now: float) -> bool:
        """Whether its age is beyond a limit, which differs by up to ``AGE_SPREAD`` from connection to connection."""
        return now - self.opened >= seconds * self.spread


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a clock, a bound on headers and a well-formed answer to malformed requests."""

    refusal: Refusal
    limits: Limits
    connection: Connection
    _head_bytes = 0
    _in_head = False
    _in_message = False  # from the first byte of a request's head to the last of its body
    _unread_timer: asyncio.TimerHandle | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _refused = False
    _broken = False  # what came last is no HTTP, and an earlier request waits for its answer
    _fed = b""  # the last two bytes that the parser got
    _held = b""  # bytes that it did not get yet

    @property
    def heard(self) -> bool:
        """Whether the head of a request ever came."""
        return self.cycle is not None

    @property
    def in_flight(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connection = Connection(time.monotonic(), random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD))
        self.app_state = {**self.app_state, "connection": self.connection}
        self._open: deque[RequestResponseCycle] = deque()  # requests without their answer yet
        super().connection_made(transport)
        beyond = len(self.connections) - self.limits.connections
        if beyond > self.limits.connections:
            transport.abort()
            return
        self._refused = beyond > 0
        self._expect_head(self.limits.refused_seconds if self._refused else self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.lost = time.monotonic()
        for cycle in self._open:  # the base class tells only the one that came last
            cycle.disconnected = True
        if self.connection.on_lost is not None:
            self.connection.on_lost()
        self._head_came()
        self._read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._refuse(503)
            return
        data, self._held = self._held + data, b""
        whole = self._fed + data
        cut = _CUT_UPGRADE.search(whole, max(0, len(whole) - 9))
        end = cut.start(1) - len(self._fed) if cut else len(data)
        self._feed(_UPGRADE.sub(b"\r\nIgnored", whole)[len(self._fed) :][:end] if b"\r\n" in whole else data)
        if cut and self._in_head:
            self._held = data[end:]
        elif cut:
            self._feed(data[end:])
        if self.in_flight or self.transport.is_closing():
            return
        if self._in_message or self._held or not self.heard:
            self._expect_head(self.limits.head_seconds)
        elif self.timeout_keep_alive_task is None:  # what came was nothing: a line's end
            rest = self.limits.idle_seconds
            self.timeout_keep_alive_task = self.loop.call_later(rest, self.timeout_keep_alive_handler)

    def _feed(self, data: bytes) -> None:
        if data and not self._broken and not self.transport.is_closing():
            self._fed = (self._fed + data)[-2:]
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._in_head = self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._open.append(self.cycle)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._head_came()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._open:
            self._open.popleft()
        last = not self.pipeline
        super().on_response_complete()
        if last and self._broken:
            self._refuse(400)
        elif last and self._in_head:
            self._expect_head(self.limits.head_seconds)

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # close() would wait for a client that does not even read its last answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _expect_head(self, seconds: float) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(seconds, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_url(self, url: bytes) -> None:
        self._bound(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(len(name) + len(value))
        super().on_header(name, value)

    def _bound(self, more_bytes: int) -> None:
        self._head_bytes += more_bytes
        if self._head_bytes > HEADER_BYTES:
            raise ValueError("request headers are too long")  # httptools turns this into a parser error: 400

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle  # of the request that came last
        if self.in_flight and cycle.more_body and self.pipeline:  # it is broken itself, and others are before it
            self.pipeline.popleft()
            self._broken = True
        elif self.in_flight and not cycle.more_body:
            self._broken = True
        else:
            self._refuse(400)

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        headers, body = type(self).refusal(status)
        headers = [(b"connection", b"close"), (b"content-length", b"%d" % len(body)), *headers]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.close()


def no_words(_: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """A :data:`Refusal` that says nothing but the status."""
    return [], b""


def protocol(refusal: Refusal, limits: Limits) -> type[HttpToolsProtocol]:
    """The class of one server's connections."""
    return type("Protocol", (_Protocol,), {"refusal": staticmethod(refusal), "limits": limits})
