"""A foundation that answers with whatever bytes or code a test scripts, and an expert of a real network before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
from prometheus_client import CollectorRegistry
from scripted_replicas import AbortedError, Aborts
from server_builders import NOW, TAE_DIM, LandedPair, a_reader, a_scheduler

from recast_api.resources.version import FoundationPin
from recast_server.expert.app import create_app
from recast_server.expert.edge import Identity
from recast_server.expert.engine import ExpertEngine
from recast_server.expert.model_ranker import ModelRanker
from recast_server.expert.tae_client import GrpcTaeClient
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.metrics import RESULTS, FoundationCalls, ScoringRequests

PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest="sha256:" + "ab" * 32)
CANDIDATES = [101, 105, 110]
Answer = Callable[[bytes, Any], Awaitable[bytes]]


def reply(**changes: Any) -> Answer:
    """An answer that is right but for what changes."""
    count = len(CANDIDATES)
    values: dict[str, Any] = {
        "version": wire.Version(model=PIN.name, number=PIN.version, lineage=PIN.lineage, digest=PIN.digest),
        "data": np.linspace(-1, 1, count * TAE_DIM).astype(np.float16).tobytes(),
        "rows": count,
        "dim": TAE_DIM,
        "scheme": wire.FLOAT16,
    }
    return raw(wire.TaeReply(**(values | changes)).SerializeToString())


def raw(data: bytes) -> Answer:
    async def answer(_request: bytes, _context: Any) -> bytes:
        return data

    return answer


def code(status: grpc.StatusCode) -> Answer:
    async def answer(_request: bytes, context: Any) -> bytes:
        await context.abort(status, "scripted")
        raise AssertionError("abort raises")

    return answer


def filled(value: float, dtype: type[np.floating]) -> bytes:
    """A row with one such number among good ones."""
    rows = np.zeros((len(CANDIDATES), TAE_DIM), dtype)
    rows[1, 3] = value
    return rows.tobytes()


async def _stream(script: dict[str, Answer], context: Any) -> None:
    """What the script says of ``Tae``, to each question of a stream, whatever bytes that are."""
    running = set()

    async def one(question: wire.TaeQuestion) -> None:
        head = wire.TaeAnswer(id=question.id)
        try:
            said = await script["Tae"](question.request.SerializeToString(), Aborts)
            data = head.SerializeToString() + b"\x22" + _length(said) + said  # field 4, reply
        except AbortedError as aborted:
            head.code, head.message = aborted.code.value[0], str(aborted)
            data = head.SerializeToString()
        await context.write(b"\x0a" + _length(data) + data)  # field 1, answers

    while (data := await context.read()) is not grpc.aio.EOF:
        for question in wire.TaeQuestions.FromString(data).questions:
            task = asyncio.create_task(one(question))
            running.add(task)
            task.add_done_callback(running.discard)


def _length(data: bytes) -> bytes:
    found, left = bytearray(), len(data)
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    return bytes([*found, left])


async def silent(_request: bytes, _context: Any) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError("waits for ever")


@dataclass
class Expert:
    """An expert over a real network, behind HTTP, and the script of its foundation."""

    script: dict[str, Answer]
    client: GrpcTaeClient
    http: httpx.AsyncClient
    registry: CollectorRegistry
    engine: ExpertEngine
    ranker: ModelRanker

    def counted(self) -> dict[str, float]:
        """TAE calls by result, those that occurred."""
        found = {c: self.registry.get_sample_value("recast_foundation_calls_total", {"code": c}) for c in RESULTS}
        return {name: value for name, value in found.items() if value}

    async def rank(self) -> httpx.Response:
        return await self.http.post("/v1/rank", json={"user": 1, "candidates": CANDIDATES, "time": NOW})


@asynccontextmanager
async def expert_before_a_script(pair: LandedPair, streams: bool = True) -> AsyncIterator[Expert]:
    """The expert's foundation says what ``script`` says; at first, that it has the right embeddings.

    Without ``streams`` it is a server of before there were any. ``script["TaeStream"]`` stands in for a whole stream.
    """
    script: dict[str, Answer] = {"Tae": reply(), "Describe": raw(b"")}
    server = grpc.aio.server()

    def scripted(name: str) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return await script[name](request, context)

        return grpc.unary_unary_rpc_method_handler(answer)  # without codecs: bytes in, bytes out

    handlers = {name: scripted(name) for name in script}
    script["TaeStream"] = partial(_stream, script)

    async def stream(_requests: object, context: Any) -> None:
        await script["TaeStream"](context)  # type: ignore[call-arg,arg-type]

    if streams:
        handlers["TaeStream"] = grpc.stream_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("recast.v1alpha1.Foundation", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    registry = CollectorRegistry()
    scheduler = a_scheduler(registry=registry)
    calls = FoundationCalls(registry)
    client = GrpcTaeClient(address, PIN, tae_dim=TAE_DIM, deadline_seconds=20.0, calls=calls)
    engine = ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served())
    ranker = ModelRanker(engine, "reels", client, scheduler, a_reader())
    health = Health(scheduler)
    health.phase = Phase.SERVING
    app = create_app(
        Identity("reels", "reels", "r1", 7, PIN), ranker, health,
        ScoringRequests(registry, 0.2), 30.0, 30.0,
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://expert") as http:
        yield Expert(script, client, http, registry, engine, ranker)
    await client.close()
    await server.stop(None)
    scheduler.close()
