"""The hop expert -> foundation over real gRPC on loopback, with a foundation that needs no model."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from past_events import Event, past, rows
from prometheus_client import CollectorRegistry
from real_edge import until
from server_builders import a_context, a_scheduler

from recast_api.resources.version import FoundationPin
from recast_api.run import RecastError
from recast_server.expert import tae_client
from recast_server.expert.handshake import handshake
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.tae_client import GrpcTaeClient, ServedFoundation
from recast_server.foundation import service
from recast_server.foundation.service import FoundationMetadata, FoundationService
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.foundation_pb2_grpc import add_FoundationServicer_to_server
from recast_server.runtime.events import Events
from recast_server.runtime.inputs import Query, Unread
from recast_server.runtime.metrics import FoundationCalls, FoundationRequests
from recast_server.runtime.scheduler import OverloadedError

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest=DIGEST)
METADATA = FoundationMetadata(
    "home-fm", 3, 3, DIGEST, 4, np.dtype(np.float16), ("feed", "reels"), ("click",), 1_700_000_000_000
)


class FakeEngine:
    def __init__(self) -> None:
        self.metadata = METADATA
        self.calls: list[Query] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def units(self, query: Query) -> float:
        return len(query.candidates)

    def shape(self, query: Query) -> None:
        return None

    def run(self, queries: Sequence[Query]) -> list[np.ndarray[Any, np.dtype[np.floating]]]:
        self.begun.set()
        assert self.gate.wait(30)
        self.calls += queries
        if any(query.user == 500 for query in queries):
            raise ValueError("secret")
        return [np.outer(np.array(query.candidates), np.ones(4)).astype(np.float16) for query in queries]


@dataclasses.dataclass
class Hop:
    engine: FakeEngine
    registry: CollectorRegistry
    server_registry: CollectorRegistry
    address: str
    client: GrpcTaeClient
    servicer: Any
    stop: Any

    def counted(self, code: str, registry: CollectorRegistry | None = None) -> float | None:
        """Calls made, in a client's registry, or answered, in the server's."""
        kind = "requests" if registry is self.server_registry else "calls"
        return (registry or self.registry).get_sample_value(f"recast_foundation_{kind}_total", {"code": code})

    @property
    def in_flight(self) -> float | None:
        return self.server_registry.get_sample_value("recast_requests_in_flight")

    def another_client(self, **changes: Any) -> GrpcTaeClient:
        options = {
            "pin": PIN,
            "tae_dim": 4,
            "deadline_seconds": 5.0,
            "calls": FoundationCalls(CollectorRegistry()),
        }
        return GrpcTaeClient(self.address, **{**options, **changes})


@pytest.fixture
async def hop() -> AsyncIterator[Hop]:
    engine, scheduler = FakeEngine(), a_scheduler(capacity=2)
    registry, server_registry = CollectorRegistry(), CollectorRegistry()
    server = grpc.aio.server()
    servicer = FoundationService(engine, scheduler, FoundationRequests(server_registry))
    add_FoundationServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    calls = FoundationCalls(registry)
    client = GrpcTaeClient(address, PIN, tae_dim=4, deadline_seconds=5.0, calls=calls)
    yield Hop(engine, registry, server_registry, address, client, servicer, lambda: server.stop(None))
    engine.gate.set()
    await client.close()
    await server.stop(None)
    scheduler.close()


async def asked(client: GrpcTaeClient, query: Query | None = None, **changes: Any) -> Any:
    query = query or Query(1, "reels", 0, [1])
    return await client.tae(dataclasses.replace(query, **changes), a_context(), 30.0)


async def test_embeddings_arrive_as_they_were_sent(hop: Hop) -> None:
    events = (Event(4, "feed", 9, ("click",)), Event(2**63 - 1, "reels", 7, (), 8), Event(4, "stories", 9, ("b", "a")))
    found = await asked(hop.client, Query(1, "reels", 1000, [3, 5], past(*events), sequence=12, history_before=70))
    assert found.rows.dtype == np.float16
    assert found.rows.tolist() == [[3.0] * 4, [5.0] * 4]
    assert found.served == ServedFoundation("home-fm", 3, 3, DIGEST, 4)
    assert (found.cursor_ms, found.history_age_ms, found.history_sequence) == (1_700_000_000_000, None, None)
    (query,) = hop.engine.calls
    assert isinstance(query.history, Events)
    assert rows(query.history) == rows(past(*events))
    assert (query.user, query.surface, query.time_ms, query.sequence) == (1, "reels", 1000, 12)
    assert query.history_before == 70
    assert list(query.candidates) == [3, 5]
    assert hop.counted("OK") == hop.counted("OK", hop.server_registry) == 1


async def test_context_arrives_as_it_was_sent(hop: Hop) -> None:
    await asked(hop.client, context={"device": "tv", "battery": 0.0, "app": None, "note": ""})
    await asked(hop.client)
    assert [query.context for query in hop.engine.calls] == [{"device": "tv", "battery": 0.0, "note": ""}, {}]


async def test_a_feature_without_a_value_is_none_and_more_than_sixty_four_are_refused(hop: Hop) -> None:
    fields: dict[str, Any] = {"user": 1, "surface": "reels", "time_milliseconds": 0, "candidates": [1]}
    await hop.servicer.Tae(wire.TaeRequest(**fields, context=[wire.ContextFeature(name="app")] * 64), Context(None))
    assert [query.context for query in hop.engine.calls] == [{}]
    many = wire.TaeRequest(**fields, context=[wire.ContextFeature(name="app", number=1)] * 65)
    context = Context(None)
    with pytest.raises(grpc.aio.AbortError):
        await hop.servicer.Tae(many, context)
    assert context.aborted == (
        grpc.StatusCode.INVALID_ARGUMENT, "context: at most 64 features are allowed, not 65",
    )  # fmt: skip


async def test_both_sides_measure_from_the_beginning_of_a_call_to_its_end(
    hop: Hop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked(hop.client)  # which looks the address up
    names = "recast_foundation_call_duration_seconds_sum", "recast_foundation_duration_seconds_sum"
    before = [
        of.get_sample_value(name) or 0.0 for of, name in zip((hop.registry, hop.server_registry), names, strict=True)
    ]
    for module in (service, tae_client):
        ticks = itertools.count(100.0, 0.25)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda ticks=ticks: next(ticks)))
    await asked(hop.client)
    after = [
        of.get_sample_value(name) or 0.0 for of, name in zip((hop.registry, hop.server_registry), names, strict=True)
    ]
    assert [now - then for now, then in zip(after, before, strict=True)] == pytest.approx([0.25, 0.25])


async def test_no_history_and_an_empty_history_are_different(hop: Hop) -> None:
    await asked(hop.client, history=None)
    await asked(hop.client, history=past())
    none, empty = (query.history for query in hop.engine.calls)
    assert none is None
    assert isinstance(empty, Events)
    assert len(empty) == 0


def columns(**changes: Any) -> wire.TaeRequest:
    """A request of two events that can be read, but for the changes."""
    two = {name: np.array([1, 2], "<i8").tobytes() for name in ("item", "time_milliseconds")}
    none = {name: bytes(16) for name in ("surface", "actions")}
    events = wire.Events(**(two | none | {"surfaces": ["feed"], "tasks": ["click"]} | changes))
    return wire.TaeRequest(user=1, surface="reels", candidate_ids=bytes(8), events=events)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        pytest.param(columns(item=bytes(15)), "history: buffer size", id="bytes that are no integers"),
        pytest.param(columns(item=bytes(8)), "history: surface: must be", id="columns of several lengths"),
        pytest.param(columns(item=b""), "history: surface: must be", id="a column too few"),
        pytest.param(columns(surfaces=[]), "history: surface: must be an index", id="a surface without a name"),
        pytest.param(columns(available_at_milliseconds=bytes(16)), "history: available_ms", id="known before it was"),
        pytest.param(columns(tasks=["click"] * 2), "history: tasks: each name", id="a name twice"),
        pytest.param(
            columns(**dict.fromkeys(("item", "surface", "actions", "time_milliseconds"), bytes(8 * 1025))),
            "history: at most 1024 events are allowed, not 1025", id="too many events",
        ),
        pytest.param(wire.TaeRequest(surface="reels", candidate_ids=bytes(7)), "not 0", id="less than one id"),
        pytest.param(wire.TaeRequest(surface="reels", candidate_ids=bytes(9)), "candidates: buffer", id="not whole"),
        pytest.param(wire.TaeRequest(surface="reels", candidate_ids=b"\xff" * 8), "candidates: must not", id="below 0"),
        pytest.param(wire.TaeRequest(surface="reels", candidates=[-5]), "candidates: must not", id="below 0, before"),
        pytest.param(
            wire.TaeRequest(surface="reels", candidate_ids=bytes(8), sequence=-1), "sequence must not", id="a sequence"
        ),
        pytest.param(
            wire.TaeRequest(surface="reels", candidate_ids=bytes(8), events_before=2**41), "events_before: at most",
            id="events before",
        ),
        pytest.param(
            wire.TaeRequest(
                surface="reels", candidates=[1], history=wire.History(events=[wire.Event(item=-1, surface="feed")])
            ),
            "history: item: must not be negative", id="an event of an older expert",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_the_callers_mistake_and_named(
    hop: Hop, request_: wire.TaeRequest, says: str
) -> None:
    context = Context(None)
    with pytest.raises(grpc.aio.AbortError):
        await hop.servicer.Tae(request_, context)
    assert context.aborted is not None
    code, message = context.aborted
    assert (code, says in message) == (grpc.StatusCode.INVALID_ARGUMENT, True), message
    assert hop.engine.calls == []
    assert hop.server_registry.get_sample_value("recast_queue_requests") in {0, None}


async def test_an_expert_of_the_release_before_is_understood(hop: Hop) -> None:
    event = wire.Event(item=4, surface="feed", time_milliseconds=9, actions=["click"], available_at_milliseconds=11)
    bare = wire.Event(item=5, surface="reels", time_milliseconds=8)
    for history in (wire.History(events=[event, bare]), wire.History(), None):
        reply = await hop.servicer.Tae(
            wire.TaeRequest(user=1, surface="reels", candidates=[3, 5], history=history), Context(None)
        )
        assert (reply.rows, reply.version.number) == (2, 3)
    full, empty, none = (query.history for query in hop.engine.calls)
    assert isinstance(full, Events)
    assert rows(full) == [(4, "feed", frozenset({"click"}), 9, 11), (5, "reels", frozenset(), 8, 8)]
    assert isinstance(empty, Events)
    assert len(empty) == 0
    assert none is None
    assert [list(query.candidates) for query in hop.engine.calls] == [[3, 5]] * 3


async def test_a_foundation_of_the_release_before_finds_no_candidates_and_says_so(hop: Hop) -> None:
    sent = tae_client._request(Query(1, "reels", 0, [3], past()))
    assert not sent.candidates, "it must not take an inline history for the stored one in silence"


async def test_what_is_refused_is_not_unpacked(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    admitted: list[Query] = []

    def refuses(_engine: Any, query: Query, _deadline: float) -> Any:
        admitted.append(query)
        raise OverloadedError("scripted")

    monkeypatch.setattr(hop.servicer._scheduler, "admit", refuses)
    monkeypatch.setattr(service, "_read", None)
    context = Context(None)
    with pytest.raises(grpc.aio.AbortError):
        await hop.servicer.Tae(columns(), context)
    assert context.aborted == (grpc.StatusCode.RESOURCE_EXHAUSTED, "scripted")
    assert admitted[0].history == Unread(2)
    assert len(admitted[0].candidates) == 1


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ({"user": 500}, "INTERNAL"),
        ({"candidates": []}, "INVALID_ARGUMENT"),
        ({"candidates": [1] * 2049}, "INVALID_ARGUMENT"),
        ({"candidates": [-1]}, "INVALID_ARGUMENT"),
        ({"candidates": [5, -1, 7]}, "INVALID_ARGUMENT"),
        ({"user": -1}, "INVALID_ARGUMENT"),
        ({"time_ms": -1}, "INVALID_ARGUMENT"),
    ],
    ids=str,
)
async def test_a_call_that_fails_is_counted_on_both_sides_and_tells_no_internals(
    hop: Hop, call: dict[str, Any], code: str
) -> None:
    with pytest.raises(TaeUnavailableError) as raised:
        await asked(hop.client, **call)
    assert raised.value.code == code
    assert "secret" not in str(raised.value)
    assert hop.counted(code) == hop.counted(code, hop.server_registry) == 1


async def test_a_surface_that_the_foundation_never_saw_is_named(hop: Hop) -> None:
    with pytest.raises(TaeUnavailableError, match="trained on feed, reels"):
        await asked(hop.client, surface="shop")


async def test_a_full_queue_is_resource_exhausted(hop: Hop) -> None:
    hop.engine.gate.clear()
    running = asyncio.create_task(asked(hop.client))
    await asyncio.to_thread(hop.engine.begun.wait, 30)
    assert hop.in_flight == 1
    more = [asyncio.create_task(asked(hop.client)) for _ in range(2)]
    done, pending = await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
    error = done.pop().exception()
    assert isinstance(error, TaeUnavailableError)
    assert error.code == "RESOURCE_EXHAUSTED"
    hop.engine.gate.set()
    await asyncio.gather(running, *pending)
    assert hop.in_flight == 0


async def test_a_call_ends_with_the_time_that_its_request_has_left(hop: Hop) -> None:
    hop.engine.gate.clear()
    for within in (0.05, 0.0, -1.0):
        with pytest.raises(TaeUnavailableError) as raised:
            async with asyncio.timeout(4):  # the client's own deadline is five seconds
                await hop.client.tae(Query(1, "reels", 0, [1]), a_context(), within)
        assert raised.value.code == "DEADLINE_EXCEEDED"
    assert hop.counted("DEADLINE_EXCEEDED") == 1  # without any time there is no call
    hop.engine.gate.set()


async def test_work_whose_deadline_passed_is_never_computed(hop: Hop) -> None:
    hasty = hop.another_client(deadline_seconds=0.05)
    await hasty.describe(30)  # so that the lookup is not what takes its time
    hop.engine.gate.clear()
    running = asyncio.create_task(asked(hop.client))
    await asyncio.to_thread(hop.engine.begun.wait, 30)
    with pytest.raises(TaeUnavailableError) as raised:
        await asked(hasty, user=2)
    assert raised.value.code == "DEADLINE_EXCEEDED"
    ended = ("CANCELLED", "DEADLINE_EXCEEDED")
    await until(lambda: sum(hop.counted(code, hop.server_registry) or 0 for code in ended) == 1)  # there, too
    hop.engine.gate.set()
    await running
    await asked(hop.client, user=3)
    assert [query.user for query in hop.engine.calls] == [1, 3]
    await hasty.close()


class Context:
    """A call whose deadline is told, and that nobody cancels."""

    def __init__(self, remaining: float | None) -> None:
        self.remaining = remaining
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    def time_remaining(self) -> float | None:
        return self.remaining

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        self.aborted = code, message
        raise grpc.aio.AbortError


@pytest.mark.parametrize(("remaining", "computed"), [(None, True), (5.0, True), (0.0, False), (-1.0, False)], ids=str)
async def test_a_call_without_time_left_is_refused_before_it_is_computed(
    hop: Hop, remaining: float | None, computed: bool
) -> None:
    request = wire.TaeRequest(user=1, surface="reels", time_milliseconds=0, candidates=[1])
    context = Context(remaining)
    if computed:
        assert (await hop.servicer.Tae(request, context)).rows == 1
        return
    with pytest.raises(grpc.aio.AbortError):
        await hop.servicer.Tae(request, context)
    assert context.aborted is not None
    assert context.aborted[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert hop.engine.calls == []
    assert hop.counted("DEADLINE_EXCEEDED", hop.server_registry) == 1


def test_every_way_a_call_can_end_is_counted_from_zero() -> None:
    registry = CollectorRegistry()
    FoundationCalls(registry)
    FoundationRequests(registry)  # no name is that of another
    codes = [code.name for code in grpc.StatusCode]
    for code in codes:
        assert registry.get_sample_value("recast_foundation_requests_total", {"code": code}) == 0, code
    for code in (*codes, "PAIR_MISMATCH"):
        assert registry.get_sample_value("recast_foundation_calls_total", {"code": code}) == 0, code


async def test_an_answer_of_another_version_counts_as_absent(hop: Hop) -> None:
    registry = CollectorRegistry()
    pinned = hop.another_client(
        pin=FoundationPin(name="home-fm", version=2, lineage=2, digest=OTHER), calls=FoundationCalls(registry)
    )
    with pytest.raises(TaeUnavailableError) as raised:
        await asked(pinned)
    assert raised.value.code == "PAIR_MISMATCH"
    assert hop.counted("PAIR_MISMATCH", registry) == 1
    await pinned.close()


async def test_a_foundation_that_is_gone_is_unavailable(hop: Hop) -> None:
    await hop.stop()
    with pytest.raises(TaeUnavailableError) as raised:
        await asked(hop.client)
    assert raised.value.code == "UNAVAILABLE"
    assert hop.counted("UNAVAILABLE") == 1


async def test_the_handshake_accepts_the_pair(hop: Hop) -> None:
    assert await handshake(hop.client, PIN, 4)


@pytest.mark.parametrize(
    ("pin", "dim", "named"),
    [
        (FoundationPin(name="home-fm", version=2, lineage=2, digest=OTHER), 4, [OTHER, DIGEST, "v2", "v3"]),
        (FoundationPin(name="home-fm", version=3, lineage=3, digest=OTHER), 4, [OTHER, DIGEST]),
        (PIN, 8, ["home-fm v3", "4", "8"]),
        (PIN, 2, ["home-fm v3", "4", "2"]),
    ],
    ids=["another lineage", "another digest", "a smaller width", "a greater width"],
)
async def test_the_handshake_refuses_another_foundation_and_names_both(
    hop: Hop, pin: FoundationPin, dim: int, named: list[str]
) -> None:
    with pytest.raises(RecastError) as raised:
        await handshake(hop.client, pin, dim)
    assert raised.value.termination.reason == "PairMismatch"
    assert all(name in raised.value.termination.message for name in named)


async def test_the_handshake_gives_up_on_a_foundation_out_of_reach(hop: Hop) -> None:
    await hop.stop()
    assert not await handshake(hop.client, PIN, 4, patience_seconds=0.5)
