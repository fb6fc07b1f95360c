"""A TCP port for a program that must be told one before it starts.

Asking the kernel for a free port and closing it again is a race: another program may bind it first. So the port stays
bound here, by a socket that never listens. The kernel then gives it to no program that asks for any port, a connection
to it is refused, and a program that sets ``SO_REUSEADDR``, as Go, asyncio and gRPC do, can listen on it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[int]:
    """The number of a loopback port that the kernel gives to no other program before the block ends."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
