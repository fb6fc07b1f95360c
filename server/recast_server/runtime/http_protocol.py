"""One HTTP connection: uvicorn's protocol over httptools, with what a server in front of clients of every kind needs.

Every connection carries its :class:`Connection` into the application, at ``scope["state"]["connection"]``: uvicorn
tells an application whose client is gone no more than to let it write into nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 32 * 1024
"""Of a request's line and headers together; httptools itself has no bound."""

_UPGRADE = re.compile(rb"\r\nUpgrade(?=[ \t]*:)", re.IGNORECASE)
"""Java's client offers HTTP/2 with every request. A server may ignore that, but httptools would skip the body; so it
does not get to see the header. The name put in its place is as long, and no JSON body can hold such a line."""

T = TypeVar("T")
Malformed = Callable[[], tuple[list[tuple[bytes, bytes]], bytes]]
"""Headers and JSON body that answer bytes which are no HTTP request."""


@dataclass
class Connection:
    """What an application may know of the connection of a request. Times are on ``time.monotonic``'s clock."""

    opened: float
    lost: float | None = None
    """When it ended, by the client or by an error; None while it stands."""
    on_lost: Callable[[], object] | None = None

    async def while_it_stands(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work gives. Raises ``ClientDisconnect``, with the work cancelled, once nobody waits for it."""
        if self.lost is not None:
            work.close()
            raise ClientDisconnect
        task = asyncio.ensure_future(work)
        self.on_lost = task.cancel
        try:
            return await task
        except asyncio.CancelledError:
            if self.lost is not None:
                raise ClientDisconnect from None
            raise
        finally:
            self.on_lost = None


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a clock, a bound on headers and a well-formed answer to malformed requests."""

    malformed: Malformed
    connection: Connection
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connection = Connection(time.monotonic())
        self.app_state = {**self.app_state, "connection": self.connection}
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.lost = time.monotonic()
        if self.connection.on_lost is not None:
            self.connection.on_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(_UPGRADE.sub(b"\r\nIgnored", data) if b"pgrade" in data else data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

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
        headers, body = type(self).malformed()
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), head, body)
        )
        self.transport.close()


def protocol(malformed: Malformed) -> type[HttpToolsProtocol]:
    """The class of one server's connections."""
    return type("Protocol", (_Protocol,), {"malformed": staticmethod(malformed)})
