"""A gRPC server in front of clients of every kind: connections have an age, a limit and no time to say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc.aio

CONNECTION_GRACE_SECONDS = 10
"""What a call on a connection that is told to go away has left."""
CONNECTIONS = 1024
"""Open at a time; what is beyond is closed at once."""
HANDSHAKE_SECONDS = 2
"""For HTTP/2's first words. Who never says them must not stay, and no stop ends while they are waited for."""


def make_server(
    max_connection_age_seconds: float, max_message_bytes: int, more: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Server:
    """A server that does not listen yet. Longer messages are refused by gRPC itself, with RESOURCE_EXHAUSTED.

    ``more`` are further options of gRPC's, by name.
    """
    return grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_age_ms", round(max_connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_SECONDS * 1000),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.max_receive_message_length", max_message_bytes),
            *more,
        ]
    )


def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """The port that it listens on, once it starts: every interface where the host is empty. Raises OSError."""
    address = f"[{host}]" if ":" in host else host or "[::]"
    try:
        return int(server.add_insecure_port(f"{address}:{port}"))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}:{port}: {error}") from error


async def drain(server: grpc.aio.Server, seconds: float) -> None:
    """Tells connections to go away and answers calls in flight, in so long at most."""
    stopping = asyncio.ensure_future(server.stop(seconds))
    await asyncio.wait({stopping}, timeout=seconds)
