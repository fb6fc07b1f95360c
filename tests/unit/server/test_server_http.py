"""What reaches the application through real sockets: clients differ more than a test client shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.http_protocol import HEADER_BYTES


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
