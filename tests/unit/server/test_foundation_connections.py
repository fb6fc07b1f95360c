"""The foundation's port over real sockets: connections that never become one of HTTP/2's, and the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from server_builders import a_scheduler

from recast_server.foundation.serve import FoundationServer
from recast_server.foundation.service import FoundationMetadata
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.foundation_pb2_grpc import FoundationStub
from recast_server.runtime import grpc_server
from recast_server.runtime.health import Health
from recast_server.runtime.loop_lag import LoopLag
from recast_server.runtime.process import Ports, Runtime


class Described:
    """An engine that only says what it is."""

    metadata = FoundationMetadata(
        "home-fm", 3, 3, "sha256:" + "ab" * 32, 4, np.dtype(np.float16), ("feed",), ("click",)
    )


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FoundationServer, int]]:
    monkeypatch.setattr(grpc_server, "CONNECTIONS", 20)
    scheduler = a_scheduler()
    unused: Any = None
    server = FoundationServer(unused, unused, Runtime(Health(scheduler), scheduler, CollectorRegistry(), LoopLag()))
    server._engine = Described()  # type: ignore[assignment]
    yield server, await server.start(Ports("127.0.0.1"))
    await server.drain(1.0)
    scheduler.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Waits until the server closed the connection."""
    async with asyncio.timeout(30):
        try:
            while await reader.read(1024):
                pass
        except ConnectionResetError:
            pass


async def test_a_connection_that_says_nothing_is_closed_and_one_beyond_their_number_at_once(
    port: tuple[FoundationServer, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [await asyncio.open_connection("127.0.0.1", port[1]) for _ in range(30)]
    closed = [asyncio.create_task(ended(reader)) for reader, _ in streams]
    done, _ = await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
    assert done
    await asyncio.gather(*closed)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port[1]}") as channel:
        told = await FoundationStub(channel).Describe(wire.DescribeRequest(), timeout=30)
    assert told.version.number == 3


async def test_connections_that_say_nothing_do_not_hold_the_end(port: tuple[FoundationServer, int]) -> None:
    streams = [await asyncio.open_connection("127.0.0.1", port[1]) for _ in range(10)]
    begin = time.monotonic()
    await port[0].drain(60.0)
    assert time.monotonic() - begin < 15  # gRPC alone waits for 20 s
    for _, writer in streams:
        writer.close()
