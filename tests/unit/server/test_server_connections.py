"""Connections that ask for nothing: how long they live, how many there may be, and what a drain owes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from real_edge import GOOD, Edge, message, post, real_edge, until

from recast_server.runtime.health import Phase
from recast_server.runtime.http import STOP_SECONDS
from recast_server.runtime.http_protocol import Limits

PATIENT = 3600.0
"""A limit that no test reaches."""
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def limited(**limits: Any) -> AsyncIterator[Edge]:
    values = {"head_seconds": PATIENT, "idle_seconds": PATIENT, "refused_seconds": PATIENT} | limits
    async with real_edge(limits=Limits(**values)) as edge:
        yield edge


async def opened(edge: Edge, count: int, begin: bytes = b"") -> list[Stream]:
    """So many connections that sent the beginning of a request, known to the server."""
    already = edge.server.connections
    streams = [await edge.connect() for _ in range(count)]
    for _, writer in streams:
        writer.write(begin)
    await until(lambda: edge.server.connections == already + count)
    return streams


async def ended(stream: Stream) -> bytes:
    """What came until the server closed the connection."""
    async with asyncio.timeout(30):
        try:
            return await stream[0].read()
        except ConnectionResetError:
            return b""


HALVES = {"nothing": b"", "a line": b"POST /v1/rank HTTP/1.1\r\n", "half a line": b"PO", "a line's end": b"\r\n"}


@pytest.mark.parametrize("begin", HALVES.values(), ids=HALVES)
async def test_a_head_that_does_not_come_ends_the_connection(begin: bytes) -> None:
    async with limited(head_seconds=0.05) as edge:
        assert await ended((await opened(edge, 1, begin))[0]) == b""


async def test_a_head_that_comes_drop_by_drop_is_not_waited_for_any_longer() -> None:
    async with limited(head_seconds=0.2) as edge:
        ((reader, writer),) = await opened(edge, 1, b"POST /v1/rank HTTP/1.1\r\n")
        closed = asyncio.create_task(ended((reader, writer)))
        while not closed.done():
            writer.write(b"x: y\r\n")
            await asyncio.wait({closed}, timeout=0.01)
        assert await closed == b""


async def test_a_request_whose_head_came_in_time_may_take_longer_than_a_head() -> None:
    async with limited(head_seconds=0.05) as edge:
        edge.ranker.gate.clear()
        ((reader, writer),) = await opened(edge, 1, post())
        await until(lambda: edge.ranker.begun == 1)
        begin = time.monotonic()
        await until(lambda: time.monotonic() > begin + 0.15)
        edge.ranker.gate.set()
        assert (await message(reader)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_between_requests_a_connection_may_rest_for_longer_but_a_head_once_begun_must_end() -> None:
    async with limited(head_seconds=0.05) as edge:
        ((reader, writer),) = await opened(edge, 1, post())
        await message(reader)
        begin = time.monotonic()
        await until(lambda: time.monotonic() > begin + 0.15)
        writer.write(post())
        assert (await message(reader)).startswith(b"HTTP/1.1 200")
        writer.write(b"POST /v1/r")
        assert await ended((reader, writer)) == b""


@pytest.mark.parametrize("late", [b"", b"POST /v1/r"], ids=["at rest", "with half a head sent along"])
async def test_a_connection_does_not_rest_for_ever(late: bytes) -> None:
    limits = {"idle_seconds": 0.05} if not late else {"head_seconds": 0.05}
    async with limited(**limits) as edge:
        ((reader, writer),) = await opened(edge, 1, post() + late)
        await message(reader)
        assert await ended((reader, writer)) == b""


async def test_a_body_that_was_answered_before_its_end_must_end() -> None:
    async with limited(head_seconds=0.05) as edge:
        ((reader, writer),) = await opened(edge, 1, post(path=b"/elsewhere")[: -len(GOOD)])
        assert (await message(reader)).startswith(b"HTTP/1.1 404")
        writer.write(GOOD[:1])
        assert await ended((reader, writer)) == b""


async def test_a_line_s_end_between_requests_is_nothing_and_begins_no_head() -> None:
    async with limited(head_seconds=0.05) as edge:
        ((reader, writer),) = await opened(edge, 1, post())
        await message(reader)
        writer.write(b"\r\n")
        begin = time.monotonic()
        await until(lambda: time.monotonic() > begin + 0.15)
        writer.write(post())
        assert (await message(reader)).startswith(b"HTTP/1.1 200")


async def test_a_line_s_end_does_not_make_a_connection_rest_for_ever() -> None:
    async with limited(idle_seconds=0.2) as edge:
        ((reader, writer),) = await opened(edge, 1, post())
        await message(reader)
        writer.write(b"\r\n")
        assert await ended((reader, writer)) == b""


async def test_a_body_that_ends_after_its_answer_leaves_a_connection_at_rest() -> None:
    async with limited(head_seconds=0.05) as edge:
        ((reader, writer),) = await opened(edge, 1, post(path=b"/elsewhere")[: -len(GOOD)])
        assert (await message(reader)).startswith(b"HTTP/1.1 404")
        writer.write(GOOD[:1])
        writer.write(GOOD[1:])
        begin = time.monotonic()
        await until(lambda: time.monotonic() > begin + 0.15)
        writer.write(post())
        assert (await message(reader)).startswith(b"HTTP/1.1 200")


async def test_who_does_not_read_its_answers_is_not_kept() -> None:
    async with limited(unread_seconds=0.1) as edge:
        _, writer = await edge.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ask = post(json.dumps({"user": 1, "candidates": list(range(2000))}).encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):  # hundreds of kilobytes of answers each: more than any socket holds
                writer.write(ask)
        await until(lambda: edge.ranker.begun > 1)
        await until(lambda: edge.server.connections == 0)


async def test_beyond_their_number_connections_are_told_so_and_those_within_are_served() -> None:
    async with limited(connections=3) as edge:
        within = await opened(edge, 3)
        beyond = (await opened(edge, 3, post()[:4]))[0]
        answer = await ended(beyond)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in answer
        assert b"TooManyConnections" in answer
        assert edge.ranker.begun == 0
        within[0][1].write(post())
        assert (await message(within[0][0])).startswith(b"HTTP/1.1 200")
        for _, writer in within:
            writer.close()
        await until(lambda: edge.server.connections == 0)
        assert (await edge.ask()).startswith(b"HTTP/1.1 200")


async def test_beyond_twice_their_number_connections_are_closed_unheard() -> None:
    async with limited(connections=2) as edge:
        await opened(edge, 4)
        assert await ended(await edge.connect()) == b""
        assert edge.server.connections == 4


async def test_a_connection_that_only_waits_for_its_refusal_does_not_wait_long() -> None:
    async with limited(connections=1, refused_seconds=0.05) as edge:
        await opened(edge, 1)
        assert await ended(await edge.connect()) == b""
        assert edge.server.connections == 1


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with limited(connections=10_000) as made:
        yield made


async def drained(edge: Edge, seconds: float) -> float:
    """How long a drain took that has so many seconds."""
    edge.health.phase = Phase.DRAINING
    begin = time.monotonic()
    async with asyncio.timeout(60):
        await edge.server.drain(seconds)
    return time.monotonic() - begin


async def test_a_drain_owes_nothing_to_connections_on_which_no_request_came(edge: Edge) -> None:
    await opened(edge, 100)
    await opened(edge, 100, b"POST /v1/rank HTTP/1.1\r\n")
    assert await drained(edge, 60.0) < 30  # it had until then for idle ones
    assert edge.server.connections == 0


async def test_a_drain_gives_idle_connections_half_of_its_time_to_be_told(edge: Edge) -> None:
    ((reader, writer),) = await opened(edge, 1, post())
    await message(reader)
    draining = asyncio.create_task(drained(edge, 4.0))
    closed = asyncio.create_task(reader.read(1))
    await asyncio.wait({closed, draining}, return_when=asyncio.FIRST_COMPLETED)
    assert await closed == b""
    took = await draining
    assert 2.0 <= took < 3.0
    writer.close()


async def test_a_drain_ends_when_the_last_client_was_told(edge: Edge) -> None:
    ((reader, writer),) = await opened(edge, 1, post())
    await message(reader)
    draining = asyncio.create_task(drained(edge, 60.0))
    await until(lambda: edge.health.draining)
    writer.write(post())
    assert b"connection: close" in await message(reader)
    assert await draining < 30


async def test_a_drain_waits_for_the_request_in_flight_and_answers_new_connections(edge: Edge) -> None:
    edge.ranker.gate.clear()
    ((reader, writer),) = await opened(edge, 1, post())
    await until(lambda: edge.ranker.begun == 1)
    draining = asyncio.create_task(drained(edge, 60.0))
    await until(lambda: edge.health.draining)
    newcomer = asyncio.create_task(edge.ask())
    await until(lambda: edge.ranker.begun == 2)
    assert not draining.done()
    edge.ranker.gate.set()
    assert b"connection: close" in await newcomer
    assert (await message(reader)).startswith(b"HTTP/1.1 200")
    assert await draining < 30
    writer.close()


async def test_a_drain_ends_in_its_time_whatever_is_in_flight(edge: Edge) -> None:
    edge.ranker.gate.clear()
    asked = await opened(edge, 2, post())
    await opened(edge, 50)
    await until(lambda: edge.ranker.begun == 2)
    edge.health.phase = Phase.DRAINING
    assert await drained(edge, 2.0) < 2.0 + STOP_SECONDS
    for stream in asked:
        answer = await ended(stream)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in answer
        assert b'"reason":"Stopping"' in answer
