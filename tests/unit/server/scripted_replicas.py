"""Replicas of a foundation that answer as a test says, and the client that has them to choose from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
from prometheus_client import CollectorRegistry
from real_edge import until
from server_builders import a_context

from recast_api.resources.version import FoundationPin
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.tae_client import GrpcTaeClient
from recast_server.foundation.stream import answer_questions
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.foundation_pb2_grpc import FoundationServicer, add_FoundationServicer_to_server
from recast_server.runtime.inputs import Query
from recast_server.runtime.metrics import FoundationCalls

DIM = 4
PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest="sha256:" + "ab" * 32)
RIGHT = wire.Version(model=PIN.name, number=PIN.version, lineage=PIN.lineage, digest=PIN.digest)
WRONG = wire.Version(model=PIN.name, number=9, lineage=9, digest="sha256:" + "cd" * 32)


class AbortedError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Aborts:
    """As much of a call's context as a script needs, for a question on a stream."""

    @staticmethod
    async def abort(code: grpc.StatusCode, message: str) -> None:
        raise AbortedError(code, message)


@dataclass
class Scripted(FoundationServicer):
    """One replica; its rows are all ``row``, so that a test sees who answered."""

    row: float
    version: wire.Version = field(default_factory=lambda: RIGHT)
    code: grpc.StatusCode | None = None
    """Said to every call of ``Tae``, if any."""
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: neither call is answered, as by a process that is frozen."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: ``Tae`` is not answered, as by a model that is busy."""
    asked: int = 0
    described: int = 0
    address: str = ""
    server: Any = None

    async def start(self) -> None:
        self.running.set()
        self.ready.set()
        self.server = grpc.aio.server()
        add_FoundationServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(self.address or '127.0.0.1:0')}"
        await self.server.start()

    async def Tae(self, request: wire.TaeRequest, context: Any) -> wire.TaeReply:
        self.asked += 1
        await self.running.wait()
        await self.ready.wait()
        if self.code is not None:
            await context.abort(self.code, "scripted")
        rows = np.full((len(request.candidate_ids) // 8, DIM), self.row, np.float16)
        return wire.TaeReply(version=self.version, data=rows.tobytes(), rows=len(rows), dim=DIM, scheme=wire.FLOAT16)

    async def TaeStream(self, requests: Any, context: Any) -> None:
        async def answer(question: wire.TaeQuestion) -> wire.TaeAnswer:
            try:
                return wire.TaeAnswer(id=question.id, reply=await self.Tae(question.request, Aborts))
            except AbortedError as aborted:
                return wire.TaeAnswer(id=question.id, code=aborted.code.value[0], message=str(aborted))

        await answer_questions(context, answer)

    async def Describe(self, request: wire.DescribeRequest, context: Any) -> wire.Description:
        self.described += 1
        await self.running.wait()
        return wire.Description(version=self.version, dim=DIM)


@dataclass
class Fleet:
    """Replicas, the addresses that a lookup finds (an error is raised instead), and a client."""

    replicas: list[Scripted]
    addresses: list[str] | OSError
    client: GrpcTaeClient
    registry: CollectorRegistry
    lookups: int = 0
    hangs: bool = False
    """Whether lookups never end."""

    async def ask(self, user: int = 1, within: float = 30.0) -> float | str:
        """The row that was answered, or the code of why there is none."""
        try:
            found = await self.client.tae(Query(user, "feed", 0, [1, 2]), a_context(), within)
        except TaeUnavailableError as error:
            return error.code
        return float(found.rows[0, 0])

    async def user_of(self, replica: Scripted) -> int:
        """Somebody who is asked of this one, once all are connected: before that, others stand in for it."""
        await self.ask()
        await until(lambda: all(known.connected() for known in self.client._replicas._usable))
        for user in range(100):
            if await self.ask(user) == replica.row:
                return user
        raise AssertionError("nobody is asked of it")

    def known(self, state: str) -> float | None:
        return self.registry.get_sample_value("recast_foundation_replicas", {"state": state})

    @property
    def ejections(self) -> float | None:
        return self.registry.get_sample_value("recast_foundation_ejections_total")

    def counted(self, code: str) -> float | None:
        return self.registry.get_sample_value("recast_foundation_calls_total", {"code": code})


@asynccontextmanager
async def fleet(*replicas: Scripted, deadline_seconds: float = 20.0) -> AsyncIterator[Fleet]:
    for replica in replicas:
        await replica.start()
    registry = CollectorRegistry()
    made: Fleet

    async def resolve() -> list[str]:
        made.lookups += 1
        if made.hangs:
            await asyncio.Event().wait()
        if isinstance(made.addresses, OSError):
            raise made.addresses
        return made.addresses

    client = GrpcTaeClient(
        "fm-home-fm-l3.demo.svc:9090", PIN, tae_dim=DIM, deadline_seconds=deadline_seconds,
        calls=FoundationCalls(registry), resolve=resolve,
    )  # fmt: skip
    made = Fleet(list(replicas), [replica.address for replica in replicas], client, registry)
    yield made
    await client.close()
    for replica in made.replicas:
        replica.running.set()
        replica.ready.set()
        await replica.server.stop(None)
