"""The expert's edge behind a real socket, with a ranker that needs no model and answers when it is told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from recast_api.resources.version import FoundationPin
from recast_server.expert.app import create_app
from recast_server.expert.edge import Identity
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RankRequest
from recast_server.runtime.context import RequestContext
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler

PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest="sha256:" + "ab" * 32)
SLO_SECONDS = 0.2
GOOD = json.dumps({"user": 1, "candidates": [5, 9, 7]}).encode()


def post(body: bytes = GOOD, *headers: bytes, path: bytes = b"/v1/rank") -> bytes:
    """A request as it stands on the wire."""
    lines = [b"POST %s HTTP/1.1" % path, b"host: x", b"content-length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


async def message(reader: asyncio.StreamReader) -> bytes:
    """One response, head and body."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        return head + await reader.readexactly(sum(lengths))


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition. Raises AssertionError where it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.001)


@dataclass
class GatedRanker:
    """Scores a candidate by its id once ``gate`` is open; ``failure`` is raised instead where there is one."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    begun: int = 0
    cancelled: int = 0

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure:
            raise self.failure
        scores = [float(item) for item in request.candidates]
        return Ranking(scores, {"click": scores}, [], "fresh")


@dataclass
class Edge:
    ranker: GatedRanker
    health: Health
    registry: CollectorRegistry
    server: HttpServer
    scheduler: Scheduler
    opened: list[asyncio.StreamWriter] = field(default_factory=list)
    """Every client's end: a writer that nobody holds is closed."""

    def value(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, f"no metric {name} {labels}"
        return value

    def answered(self) -> dict[str, float]:
        """Requests by code, those that occurred."""
        (found,) = [family for family in self.registry.collect() if family.name == "recast_requests"]
        return {s.labels["code"]: s.value for s in found.samples if s.name.endswith("_total") and s.value}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.opened.append(writer)
        return reader, writer

    async def ask(self, request: bytes | None = None) -> bytes:
        """The answer to one request on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(post() if request is None else request)
        answer = await message(reader)
        writer.close()
        return answer


@asynccontextmanager
async def real_edge(**options: Any) -> AsyncIterator[Edge]:
    """An edge that listens; its gate is open."""
    ranker, registry = GatedRanker(), CollectorRegistry()
    ranker.gate.set()
    scheduler = Scheduler(1, QueueMetrics(CollectorRegistry()))
    scheduler.start()
    health = Health(scheduler)
    health.phase = Phase.SERVING
    identity = Identity("reels", "reels", "0123456789", 7, PIN, ("click",))
    metrics = ScoringRequests(registry, SLO_SECONDS)
    app = create_app(identity, ranker, health, metrics, 30.0, SLO_SECONDS, scheduler.require_room)
    server = HttpServer(app, bind("127.0.0.1", 0), identity.refusal, **options)
    await server.start()
    edge = Edge(ranker, health, registry, server, scheduler)
    yield edge
    ranker.gate.set()
    for writer in edge.opened:
        writer.close()
    await server.stop()
    scheduler.close()
