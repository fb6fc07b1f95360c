"""What reaches the application through real sockets: clients differ more than a test client shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.http_protocol import HEADER_BYTES, Connection


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    assert scope["state"]["connection"].opened > 0
    await PlainTextResponse(await request.body())(scope, receive, send)


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    server = HttpServer(echo, bind("127.0.0.1", 0), lambda _: ([(b"x-who", b"us")], b"{}"))
    await server.start()
    yield server
    await server.stop()


async def exchange(server: HttpServer, *parts: bytes) -> list[bytes]:
    """Sends each part on one connection and returns what came back after each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answers = []
    for part in parts:
        writer.write(part)
        answers.append(await asyncio.wait_for(_message(reader), 30))
    writer.close()
    return answers


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")), 0)
    return head + await reader.readexactly(length)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST / HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read(server: HttpServer) -> None:
    offer = post(b"hello", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
    for answer in await exchange(server, offer, offer):
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"hello")


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server: HttpServer) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
    first, second = await exchange(server, head, b"5\r\nhello\r\n0\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 100")
    assert second.endswith(b"hello")


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\nbig: " + b"a" * HEADER_BYTES, b"GET /" + b"a" * HEADER_BYTES + b" HTTP/1.1"],
    ids=["header", "path"],
)
async def test_a_head_without_end_is_refused(server: HttpServer, head: bytes) -> None:
    (answer,) = await exchange(server, head + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"x-who: us" in answer
    assert b"connection: close" in answer


async def test_an_offer_to_upgrade_is_ignored_wherever_the_network_cuts_it(server: HttpServer) -> None:
    offer = post(b"hello", b"Connection: Upgrade", b"UPGRADE: h2c", b"x: y")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for cut in range(1, len(offer)):
        for part in (offer[:cut], offer[cut:]):
            await _arrived(server, writer, part)
        answer = await asyncio.wait_for(_message(reader), 30)
        assert answer.startswith(b"HTTP/1.1 200"), cut
        assert answer.endswith(b"hello")
    for byte in offer:
        await _arrived(server, writer, bytes([byte]))
    assert (await asyncio.wait_for(_message(reader), 30)).endswith(b"hello")
    writer.close()


async def _arrived(server: HttpServer, writer: asyncio.StreamWriter, part: bytes) -> None:
    """Sends bytes so that the server reads them before any others."""
    (connection,) = server._server.server_state.connections
    received: Any = connection.data_received
    seen = asyncio.Event()

    def once(data: bytes) -> None:
        assert data == part
        received(data)
        seen.set()

    connection.data_received = once  # type: ignore[method-assign, union-attr]
    writer.write(part)
    await asyncio.wait_for(seen.wait(), 30)
    del connection.data_received


@pytest.mark.parametrize("body", [b"a\r\nUp", b"\r\nUpgrade", b"\r\nu", b"\r\n"])
async def test_a_body_that_ends_like_an_offer_is_not_held_back(server: HttpServer, body: bytes) -> None:
    for answer in await exchange(server, post(body), post(body)):
        assert answer.endswith(b"\r\n\r\n" + body)


GARBAGE = b"\x16\x03\x01 this is no HTTP\r\n\r\n"


@pytest.mark.parametrize("good", [1, 2, 3])
async def test_good_requests_are_answered_before_the_garbage_behind_them(server: HttpServer, good: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"".join(post(b"%d" % number) for number in range(good)) + GARBAGE)
    for number in range(good):
        answer = await asyncio.wait_for(_message(reader), 30)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"%d" % number)
    assert (await asyncio.wait_for(_message(reader), 30)).startswith(b"HTTP/1.1 400")
    assert await reader.read() == b""
    writer.close()


async def test_a_request_whose_body_is_broken_is_refused_after_the_good_one_before_it(server: HttpServer) -> None:
    broken = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(b"good") + broken + post(b"never read"))
    assert (await asyncio.wait_for(_message(reader), 30)).endswith(b"good")
    assert (await asyncio.wait_for(_message(reader), 30)).startswith(b"HTTP/1.1 400")
    assert await reader.read() == b""
    (answer,) = await exchange(server, broken)
    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()


async def test_connections_that_came_together_do_not_grow_old_together(server: HttpServer) -> None:
    streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
    while len(server._server.server_state.connections) < 50:
        await asyncio.sleep(0.001)
    clients: Any = server._server.server_state.connections
    spreads = {client.connection.spread for client in clients}
    assert len(spreads) == 50
    assert all(0.9 <= spread <= 1.1 for spread in spreads)
    assert max(spreads) - min(spreads) > 0.1
    for _, writer in streams:
        writer.close()


def test_an_age_limit_is_as_long_as_a_connections_own_spread_says() -> None:
    for spread, age, old in ((1.0, 30.0, True), (1.0, 29.9, False), (1.1, 32.9, False), (0.9, 27.1, True)):
        assert Connection(100.0, spread).older_than(30.0, 100.0 + age) is old
