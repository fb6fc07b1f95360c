"""A held port is its holder's: refused to callers, kept from others, and open to the program that is told it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from dev.cluster.ports import held


def test_a_connection_to_a_port_on_which_nobody_listens_yet_is_refused() -> None:
    with held() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_server_that_is_told_the_port_can_listen_on_it() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    with held() as port:
        async with await asyncio.start_server(answer, "127.0.0.1", port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b"here"
            writer.close()


def test_nobody_who_asks_for_any_port_is_given_a_held_one() -> None:
    with ExitStack() as stack:
        mine = {stack.enter_context(held()) for _ in range(64)}
        assert len(mine) == 64
        for _ in range(2000):
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", 0))
                assert other.getsockname()[1] not in mine
