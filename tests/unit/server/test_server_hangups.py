"""Clients that hang up: no answer of the server's, neither a good one nor a bad one."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry
from real_edge import GOOD, SLO_SECONDS, Edge, message, post, real_edge, until
from starlette.requests import ClientDisconnect

from recast_server.runtime.http_protocol import Connection
from recast_server.runtime.metrics import ScoringRequests

DISCONNECTS = "recast_client_disconnects_total"


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with real_edge() as made:
        yield made


async def gone(edge: Edge) -> None:
    """Waits until the server knows that its clients are."""
    await until(lambda: edge.server.connections == 0)


async def test_cut_uploads_are_nobodys_error(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recast")
    for _ in range(40):
        _, writer = await edge.connect()
        writer.write(post()[: -len(GOOD) // 2])
        await writer.drain()
        await until(lambda: edge.server.connections == 1)
        writer.close()
        await gone(edge)
    await until(lambda: edge.value(DISCONNECTS) == 40)
    assert edge.answered() == {}
    assert edge.value("recast_slow_requests_total") == 0
    assert [record.fields["code"] for record in caplog.records] == [499] * 40  # type: ignore[attr-defined]
    assert (await edge.ask()).startswith(b"HTTP/1.1 200")
    assert edge.answered() == {"200": 1}


async def test_a_client_that_left_before_its_answer_got_none(edge: Edge) -> None:
    edge.ranker.gate.clear()
    _, writer = await edge.connect()
    writer.write(post())
    await until(lambda: edge.ranker.begun == 1)
    assert edge.value("recast_requests_in_flight") == 1
    writer.close()
    await gone(edge)
    edge.ranker.gate.set()
    await until(lambda: edge.value(DISCONNECTS) == 1)
    assert edge.value("recast_requests_in_flight") == 0
    assert edge.answered() == {}
    assert edge.value("recast_tae_total", state="fresh") == 0


async def test_what_a_client_that_left_had_asked_for_is_not_done(edge: Edge) -> None:
    edge.ranker.gate.clear()
    writers = []
    for _ in range(50):
        _, writer = await edge.connect()
        writer.write(post())
        writers.append(writer)
    await until(lambda: edge.ranker.begun == 50)
    for writer in writers:
        writer.close()
    await until(lambda: edge.ranker.cancelled == 50)
    await until(lambda: edge.value(DISCONNECTS) == 50)
    assert edge.answered().keys() <= {"499"}  # where a slow machine let some wait for longer than the SLO


async def test_a_slow_upload_that_was_cut_is_no_slow_answer(served: Any) -> None:
    now = time.monotonic()
    served.state["connection"] = Connection(now, lost=now + 60)

    async def cut() -> AsyncIterator[bytes]:
        yield GOOD[:5]
        raise ClientDisconnect  # as Starlette says it, when the body is asked for

    await served.client.post("/v1/rank", content=cut())
    assert served.registry.get_sample_value(DISCONNECTS) == 1
    assert served.count("499") == served.count("500") == 0


@pytest.mark.parametrize(("after", "slow"), [(0.0, 0), (60.0, 1)], ids=["at once", "in the end"])
async def test_what_counts_is_when_the_client_left_and_not_when_the_work_was_done(
    served: Any, after: float, slow: int
) -> None:
    now = time.monotonic()
    served.state["connection"] = Connection(now, lost=now + after)
    await served.client.post("/v1/rank", content=GOOD)
    assert served.registry.get_sample_value(DISCONNECTS) == 1
    assert served.count("499") == slow
    assert served.count("200") == 0


@pytest.mark.parametrize(
    ("waited", "slow"),
    [(None, 0), (0.0, 0), (SLO_SECONDS, 0), (SLO_SECONDS + 0.01, 1)],
    ids=["during the upload", "at once", "as long as the SLO", "longer"],
)
def test_only_a_client_that_waited_for_longer_than_the_slo_left_a_slow_request(waited: float | None, slow: int) -> None:
    registry = CollectorRegistry()
    metrics = ScoringRequests(registry, SLO_SECONDS)
    metrics.disconnected(waited)
    assert registry.get_sample_value(DISCONNECTS) == 1
    assert registry.get_sample_value("recast_slow_requests_total") == slow
    assert registry.get_sample_value("recast_requests_total", {"code": "499"}) == slow
    assert registry.get_sample_value("recast_requests_total", {"code": "500"}) == 0


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_who_hangs_up_on_several_requests_at_once_is_no_failure(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with real_edge() as edge:
            edge.ranker.gate.clear()
            for count in range(1, 11):
                _, writer = await edge.connect()
                writer.write(post() * depth)
                await until(lambda count=count: edge.ranker.begun == count)  # type: ignore[misc]
                writer.close()
                await until(lambda count=count: edge.value(DISCONNECTS) == count)  # type: ignore[misc]
            assert edge.answered().keys() <= {"499"}
            edge.ranker.gate.set()
            reader, writer = await edge.connect()
            writer.write(post() * depth)
            for _ in range(depth):
                assert (await message(reader)).startswith(b"HTTP/1.1 200")

    uvloop.run(play())  # the loop of servers, which does not let one write to who is gone
    assert "Exception" not in caplog.text
