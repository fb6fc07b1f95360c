"""Until when a request is worth an answer, and whose it is: from the headers of HTTP, and from the deadline of gRPC."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from real_edge import GOOD

from recast_server.expert import edge
from recast_server.runtime.context import RequestContext, deadline, deadline_of_call, traceparent

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, 0.18),
        ("250", 0.25),
        ("5000", 5.0),
        ("999999999", 60.0),
        ("0", 0.18),
        ("-5", 0.18),
        ("1e3", 0.18),
        ("soon", 0.18),
        ("", 0.18),
        ("٣٠٠", 0.18),
        ("9" * 400, 0.18),
    ],
    ids=str,
)
def test_a_request_has_its_clients_deadline_or_the_slo_less_a_reserve(asked: str | None, seconds: float) -> None:
    assert deadline(100.0, asked, 0.2) == pytest.approx(100.0 + seconds)


@pytest.mark.parametrize(("remaining", "seconds"), [(None, 10.0), (3.0, 3.0), (99.0, 10.0), (0.0, 0.0), (-2.0, -2.0)])
def test_only_a_call_that_never_had_a_deadline_gets_the_longest(remaining: float | None, seconds: float) -> None:
    assert deadline_of_call(remaining, 10.0) - time.monotonic() == pytest.approx(seconds, abs=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        TRACE.upper(),
        TRACE + "-extra",
        "ff" + TRACE[2:],
        TRACE + "\n",
    ],
)
def test_a_trace_that_cannot_be_read_is_none(text: str) -> None:
    assert traceparent({"traceparent": text}) is None
    assert traceparent({}) is None
    assert traceparent({"traceparent": TRACE}) == TRACE


def test_a_context_knows_what_is_left_of_its_time() -> None:
    context = RequestContext("id", time.monotonic() + 5.0, TRACE)
    assert 4.0 < context.left <= 5.0
    assert context.trace_id == TRACE.split("-")[1]
    assert RequestContext("id", 0.0).trace_id is None
    assert RequestContext("id", 0.0).left < 0


async def test_the_edge_reads_deadline_and_trace_of_a_request_and_logs_the_trace(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "recast.expert")
    begin = time.monotonic()
    await served.client.post(
        "/v1/rank", content=GOOD, headers={"x-envoy-expected-rq-timeout-ms": "7000", "traceparent": TRACE}
    )
    await served.client.post("/v1/rank", content=json.dumps({"user": 1, "candidates": [1]}).encode())
    named, unnamed = served.ranker.contexts
    assert 6.9 < named.deadline - begin < 12.0
    assert unnamed.deadline - begin < 5.0
    assert (named.traceparent, unnamed.traceparent) == (TRACE, None)
    traces = [record.fields.get("traceId") for record in caplog.records]  # type: ignore[attr-defined]
    assert traces == [TRACE.split("-")[1], None]


async def test_a_request_has_its_time_from_when_it_is_there_however_slowly_it_came(served: Any) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield GOOD[:5]
        await asyncio.sleep(0)
        arrived.append(time.monotonic())
        yield GOOD[5:]

    arrived: list[float] = []
    clock = time.monotonic
    with pytest.MonkeyPatch.context() as patch:
        # The head comes a minute before the rest of the body.
        patch.setattr(edge, "time", SimpleNamespace(monotonic=lambda: clock() + (0 if arrived else -60)))
        response = await served.client.post("/v1/rank", content=slowly())
    assert response.status_code == 200
    (context,) = served.ranker.contexts
    assert context.deadline - arrived[0] == pytest.approx(0.18, abs=0.1)
    assert served.registry.get_sample_value("recast_slow_requests_total") == 0
