"""An open-loop HTTP client: requests leave at a constant rate, however long the answers take. Standard library only.

It runs as its own process, on the host or as ``python -c`` inside a pod, and speaks JSON lines: commands on standard
input (``{"start": {...}}``, ``{"stop": true}``), cumulative counts on standard output, once a second. Half of the
requests use a connection of their own, half share kept-alive ones. Nothing is ever retried: a request that gets no
good answer is a failed request, whatever the reason.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

IDLE_CONNECTIONS = 4  # per target
IN_FLIGHT = 512
TIMEOUT_SECONDS = 10.0
REPORT_SECONDS = 1.0
REMEMBERED_FAILURES = 200
SLOW_SECONDS = 0.5
COMMAND_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """One expert's address and how to ask it."""

    expert: str
    host: str
    port: int
    rate: float  # requests per second
    questions: tuple[dict[str, Any], ...]  # bodies of ranking requests, drawn at random


@dataclass(frozen=True)
class Answer:
    """A response, with lower-case header names."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def usable(self) -> bool:
        """Whether the peer has not closed it while it was idle."""
        return not self.reader.at_eof() and not self.writer.is_closing()

    async def ask(self, target: Target, request_id: str, body: bytes, keep: bool) -> Answer:
        """Send one request and read its answer. Raises ``OSError``, ``EOFError`` or ``ValueError``."""
        head = (
            f"POST /v1/rank HTTP/1.1\r\nHost: {target.host}\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: {request_id}\r\nX-Envoy-Expected-Rq-Timeout-Ms: {TIMEOUT_SECONDS * 1000:.0f}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = headers.get("content-length")
        if length is None:
            raise ValueError("answer without Content-Length")
        return Answer(int(lines[0].split(" ", 2)[1]), headers, await self.reader.readexactly(int(length)))

    def close(self) -> None:
        """Drop it."""
        self.writer.close()


@dataclass
class Client:
    """Counts by (expert, revision, outcome, TAE state); failures by id, the first few hundred."""

    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    kept: int = 0
    slow: int = 0
    not_sent: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    _idle: dict[str, deque[Connection]] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def drive(self, target: Target) -> None:
        """Send to one target until stopped: the n-th request leaves at n / rate, answered or not."""
        clock, random_source, number = asyncio.get_running_loop().time, random.Random(target.expert), 0
        began = clock()
        while not self._stopping.is_set():
            delay = began + number / target.rate - clock()
            if delay > 0:
                await asyncio.sleep(delay)
                if self._stopping.is_set():  # one more would be sent after stop() has counted those in flight
                    return
            number += 1
            if len(self._running) >= IN_FLIGHT:
                self.not_sent += 1
                continue
            body = question(target, random_source)
            task = asyncio.create_task(self._one(target, f"{target.expert}-{number}", body, keep=number % 2 == 0))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """Send nothing more, and wait for what is in flight."""
        self._stopping.set()
        if self._running:
            await asyncio.wait(set(self._running), timeout=TIMEOUT_SECONDS + 1)

    async def _one(self, target: Target, request_id: str, body: bytes, keep: bool) -> None:
        began = asyncio.get_running_loop().time()
        revision = tae = ""
        try:
            answer = await asyncio.wait_for(self._exchange(target, request_id, body, keep), TIMEOUT_SECONDS)
            revision, tae = answer.headers.get("x-recast-revision", ""), answer.headers.get("x-recast-tae", "")
            outcome = judge(answer, request_id)
        except TimeoutError:
            outcome = "no answer in time"
        except (OSError, EOFError, ValueError) as error:
            outcome = f"{type(error).__name__}: {error}"
        self.slow += asyncio.get_running_loop().time() - began > SLOW_SECONDS
        self.counts[target.expert, revision, outcome, tae] += 1
        if outcome != "200" and len(self.failures) < REMEMBERED_FAILURES:
            self.failures.append({"id": request_id, "revision": revision, "outcome": outcome})

    async def _exchange(self, target: Target, request_id: str, body: bytes, keep: bool) -> Answer:
        idle = self._idle.setdefault(target.expert, deque())
        connection = None
        while keep and idle and connection is None:
            candidate = idle.popleft()
            if candidate.usable:
                connection = candidate
                self.kept += 1
            else:
                candidate.close()
        if connection is None:
            connection = Connection(*await asyncio.open_connection(target.host, target.port))
        try:
            answer = await connection.ask(target, request_id, body, keep)
        except BaseException:
            connection.close()
            raise
        reusable = keep and answer.headers.get("connection", "").lower() != "close" and len(idle) < IDLE_CONNECTIONS
        if reusable:
            idle.append(connection)
        else:
            connection.close()
        return answer

    def report(self, *, final: bool = False) -> dict[str, Any]:
        """The cumulative counts, as one JSON object."""
        return {
            "counts": [[*key, count] for key, count in sorted(self.counts.items())],
            "kept": self.kept,
            "slow": self.slow,
            "notSent": self.not_sent,
            "failures": self.failures,
            "final": final,
        }


def question(target: Target, source: random.Random) -> bytes:
    """The body of one of the target's questions."""
    return json.dumps(source.choice(target.questions)).encode()


def judge(answer: Answer, request_id: str) -> str:
    """``"200"`` for a good ranking; else what is wrong with the answer."""
    if answer.status != 200:
        return str(answer.status)
    if answer.headers.get("x-request-id") != request_id:
        return f"answer to another request: {answer.headers.get('x-request-id')}"
    try:
        scores = [float(item["score"]) for item in json.loads(answer.body)["items"]]
    except (ValueError, KeyError, TypeError) as error:
        return f"not a ranking: {type(error).__name__}"
    if not scores or scores != sorted(scores, reverse=True):
        return "not a ranking: empty or out of order"
    return "200"


async def main() -> None:
    """Follow commands until ``stop`` or the end of standard input."""
    client, drives = Client(), set()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=COMMAND_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            print(json.dumps(client.report()), flush=True)

    reporter = asyncio.create_task(report())
    while line := await commands.readline():
        command = json.loads(line)
        if "stop" in command:
            break
        start = command["start"]
        target = Target(**{**start, "questions": tuple(start["questions"])})
        drives.add(asyncio.create_task(client.drive(target)))
    await client.stop()
    reporter.cancel()
    for drive in drives:
        drive.cancel()
    print(json.dumps(client.report(final=True)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
