"""HTTP over uvicorn, uvloop and httptools: several servers on one loop, and a drain.

Kubernetes balances connections, not requests: a client that keeps one open stays on one pod for ever, and a canary's
weight never reaches it. So every connection knows when it was opened (:mod:`recast_server.runtime.http_protocol`), and
the application asks old ones to close with their next response.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from recast_server.runtime.http_protocol import Limits, Refusal, no_words, protocol

ACCEPT_SECONDS = 1.0
"""A drain accepts new connections for at least so long, where it has the time."""
STOP_SECONDS = 1
"""For the requests that are still in flight when a server stops, after its drain."""


class _Server(uvicorn.Server):
    """A server among several in one process: signals belong to the process, not to it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on a host, or on every interface where it is empty; port 0 takes a free one.

    Raises OSError with the address in its message.
    """
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host or '*'}:{port}: {error.strerror}") from error
    # Accepted sockets inherit it; asyncio's own loop, unlike uvloop, sets it on none of these. Without it, the body of
    # an answer waits for the client to acknowledge its head: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


class HttpServer:
    """One application on one port."""

    def __init__(
        self, app: ASGIApp, listener: socket.socket, refusal: Refusal = no_words, limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self._server = _Server(
            uvicorn.Config(
                cast("Any", app),
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.idle_seconds,
                timeout_graceful_shutdown=STOP_SECONDS,
                http=protocol(refusal, limits),
            )
        )
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when requests are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._server.server_state.connections)

    async def stop(self) -> None:
        """Stops accepting and closes idle connections; requests in flight have ``STOP_SECONDS``."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def drain(self, seconds: float) -> None:
        """Serves on until clients have left, then stops, all within ``seconds``.

        The application must by now answer with ``Connection: close``. New connections are still accepted for a while:
        kube-proxy may not have heard yet. Closing an idle connection races with the request its client is about to
        send, so idle ones have half of the time to be used once more and be told. A connection on which no request
        ever came is owed nothing.
        """
        begin, patience = time.monotonic(), seconds - STOP_SECONDS
        while (elapsed := time.monotonic() - begin) < patience:
            clients: set[Any] = set(self._server.server_state.connections)
            owed = any(client.in_flight or (client.heard and elapsed < seconds / 2) for client in clients)
            if elapsed >= min(ACCEPT_SECONDS, seconds / 4) and not owed:
                break
            await asyncio.sleep(0.05)
        await self.stop()
