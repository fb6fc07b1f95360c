"""The open-loop client against a real socket: what it counts, what it calls a failure, that it never waits."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dev.demo.client import Answer, Client, Target, judge, question

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUESTIONS = tuple({"user": user, "candidates": [1, 2, user]} for user in range(10, 15))
GOOD = json.dumps({"items": [{"item": 2, "score": 0.9}, {"item": 1, "score": 0.1}]}).encode()


def target(port: int, rate: float = 200) -> Target:
    return Target(expert="reels", host="127.0.0.1", port=port, rate=rate, questions=QUESTIONS)


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def read(reader: asyncio.StreamReader) -> dict[str, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
    await reader.readexactly(int(headers["content-length"]))
    return headers


def reply(request: dict[str, str], status: int = 200, body: bytes = GOOD, close: bool = False) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nx-request-id: {request['x-request-id']}\r\nX-Recast-Revision: aaa\r\n"
        f"x-recast-tae: fresh\r\ncontent-length: {len(body)}\r\n" + ("connection: close\r\n" if close else "") + "\r\n"
    ).encode() + body


async def drive_until(client: Client, port: int, enough: Callable[[], bool], rate: float = 200) -> None:
    drive = asyncio.create_task(client.drive(target(port, rate)))
    async with asyncio.timeout(20):
        while not enough():
            await asyncio.sleep(0.01)
        await client.stop()
        await drive


async def test_good_answers_are_counted_by_revision_and_tae_over_short_and_kept_connections() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                request = await read(reader)
                writer.write(reply(request))
                if request["connection"] == "close":
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    client = Client()
    async with served(handler) as port:
        await drive_until(client, port, lambda: client.counts.total() >= 60)
    assert set(client.counts) == {("reels", "aaa", "200", "fresh")}
    assert client.kept > 0
    assert connections < client.counts.total()
    assert client.failures == []


async def test_nothing_is_sent_once_stop_has_counted_what_is_in_flight() -> None:
    asked = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        request = await read(reader)
        asked += 1
        writer.write(reply(request, close=True))
        writer.close()

    client = Client()
    async with served(handler) as port:
        drive = asyncio.create_task(client.drive(target(port, rate=5)))
        async with asyncio.timeout(20):
            while not client.counts.total():
                await asyncio.sleep(0.005)
            await client.stop()  # the drive sleeps until the next request is due
            counted = client.counts.total()
            await drive
    assert (client.counts.total(), asked) == (counted, counted)
    assert client._running == set()


async def test_a_server_that_never_answers_does_not_slow_the_schedule_down() -> None:
    asked = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read(reader)
        asked += 1

    client = Client()
    async with served(handler) as port:
        drive = asyncio.create_task(client.drive(target(port)))
        async with asyncio.timeout(20):
            while asked < 40:
                await asyncio.sleep(0.01)
        drive.cancel()
    assert client.counts.total() == 0


async def test_a_connection_that_ends_without_an_answer_is_a_failed_request_and_is_not_sent_again() -> None:
    asked = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read(reader)
        asked += 1
        writer.close()

    client = Client()
    async with served(handler) as port:
        await drive_until(client, port, lambda: client.counts.total() >= 10)
    assert client.counts.total() == asked
    assert {(revision, tae) for _, revision, _, tae in client.counts} == {("", "")}
    assert all("IncompleteReadError" in outcome for _, _, outcome, _ in client.counts)
    assert {failure["id"] for failure in client.failures} >= {"reels-1", "reels-2"}


async def test_a_connection_that_the_server_closes_after_its_answer_is_not_used_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(await read(reader), close=True))
        writer.close()

    client = Client()
    async with served(handler) as port:
        await drive_until(client, port, lambda: client.counts.total() >= 30)
    assert client.kept == 0
    assert set(client.counts) == {("reels", "aaa", "200", "fresh")}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, {"x-request-id": "r-1"}, GOOD), "200"),
        (Answer(500, {"x-request-id": "r-1"}, b"{}"), "500"),
        (Answer(200, {"x-request-id": "r-2"}, GOOD), "answer to another request: r-2"),
        (Answer(200, {"x-request-id": "r-1"}, b'{"items": []}'), "not a ranking: empty or out of order"),
        (Answer(200, {"x-request-id": "r-1"}, b"<html>"), "not a ranking: JSONDecodeError"),
        (
            Answer(200, {"x-request-id": "r-1"}, b'{"items": [{"score": 0.1}, {"score": 0.9}]}'),
            "not a ranking: empty or out of order",
        ),
    ],
)
def test_only_an_ordered_ranking_with_our_id_is_a_good_answer(answer: Answer, expected: str) -> None:
    assert judge(answer, "r-1") == expected


def test_all_questions_are_asked_and_no_others() -> None:
    source = random.Random(1)
    asked = {question(target(1), source) for _ in range(200)}
    assert asked == {json.dumps(body).encode() for body in QUESTIONS}
