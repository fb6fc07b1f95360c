"""What the expert's HTTP edge answers to good, bad and absurd requests."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from real_edge import GOOD as GOOD_BODY
from real_edge import post as on_the_wire
from real_edge import real_edge, until

from recast_server.expert.app import create_app
from recast_server.expert.schema import BODY_BYTES, RefusedError, parse
from recast_server.runtime.http_protocol import Connection
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.scheduler import ExpiredError, OverloadedError

HEADERS = ("x-recast-revision", "x-recast-version", "x-recast-tae", "x-request-id")
OTHER = ("400", "404", "405", "503")
GOOD: dict[str, Any] = {"user": 1, "candidates": [5, 9, 7]}


async def post(served: Any, content: bytes, **headers: str) -> httpx.Response:
    response: httpx.Response = await served.client.post("/v1/rank", content=content, headers=headers)
    assert all(name in response.headers for name in HEADERS)
    return response


async def test_items_come_best_first_with_the_pair_that_scored_them(served: Any) -> None:
    response = await post(served, json.dumps({**GOOD, "limit": 2}).encode())
    assert response.status_code == 200
    body = response.json()
    assert [(entry["item"], entry["score"], entry["scores"]) for entry in body["items"]] == [
        (9, 9.0, {"click": 9.0}), (7, 7.0, {"click": 7.0}),
    ]  # fmt: skip
    assert body["foundation"] == {"name": "home-fm", "version": 3, "lineage": 3}
    assert (body["model"], body["revision"], body["version"], body["tae"]) == ("reels", "0123456789", 7, "fresh")
    assert response.headers["x-recast-revision"] == "0123456789"
    assert response.headers["x-recast-tae"] == "fresh"
    assert served.count("200") == 1
    assert served.registry.get_sample_value("recast_tae_total", {"state": "fresh"}) == 1


async def test_a_request_id_is_kept_where_it_is_sane_and_replaced_where_it_is_not(served: Any) -> None:
    kept = await post(served, json.dumps(GOOD).encode(), **{"x-request-id": "client-17"})
    assert kept.headers["x-request-id"] == kept.json()["requestId"] == "client-17"
    replaced = await post(served, json.dumps(GOOD).encode(), **{"x-request-id": "a" * 65})
    assert replaced.headers["x-request-id"] == replaced.json()["requestId"] != "a" * 65


BAD = [
    (b"", 400, "JSON"),
    (b"{", 400, "JSON"),
    (b"\xff\xfe", 400, "JSON"),
    (b"[" * 100_000, 400, "JSON"),
    (b'{"user": 1, "candidates": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "JSON"),
    (b"null", 422, "(body)"),
    (b"[]", 422, "(body)"),
    (b"{}", 422, "user"),
    (b'{"user": 1}', 422, "candidates"),
    (b'{"user": 1, "candidates": []}', 422, "candidates"),
    (json.dumps({"user": 1, "candidates": list(range(10_000))}).encode(), 422, "candidates"),
    (b'{"user": "1", "candidates": [1]}', 422, "user"),
    (b'{"user": true, "candidates": [1]}', 422, "user"),
    (b'{"user": 1.5, "candidates": [1]}', 422, "user"),
    (b'{"user": -1, "candidates": [1]}', 422, "user"),
    (b'{"user": NaN, "candidates": [1]}', 422, "user"),
    (b'{"user": 1, "candidates": [NaN]}', 422, "candidates.0"),
    (b'{"user": 1, "candidates": [1, Infinity]}', 422, "candidates.1"),
    (b'{"user": 1, "candidates": [1e400]}', 422, "candidates.0"),
    (b'{"user": 1, "candidates": [9223372036854775808]}', 422, "candidates.0"),
    (b'{"user": ' + b"9" * 4000 + b', "candidates": [1]}', 422, "user"),
    (b'{"user": 1, "candidates": "1"}', 422, "candidates"),
    (b'{"user": 1, "candidates": {"0": 1}}', 422, "candidates"),
    (b'{"user": 1, "candidates": [1], "limit": 0}', 422, "limit"),
    (b'{"user": 1, "candidates": [1], "time": "yesterday"}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "time": "2026-01-01T00:00:00"}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "time": "0001-01-01T00:00:00+23:59"}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "time": "2026-13-01T00:00:00Z"}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "time": 1e30}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "time": -1}', 422, "time"),
    (b'{"user": 1, "candidates": [1], "history": [{"item": 1}]}', 422, "history.0.surface"),
    (b'{"user": 1, "candidates": [1], "history": [7]}', 422, "history.0"),
    (b'{"user": 1, "candidates": [1], "surprise": 1}', 422, "surprise"),
]


@pytest.mark.parametrize(("content", "status", "named"), BAD, ids=range(len(BAD)))
async def test_a_bad_request_is_refused_by_name_and_counted_once(
    served: Any, content: bytes, status: int, named: str
) -> None:
    response = await post(served, content)
    error = response.json()["error"]
    assert response.status_code == status
    assert named in error["message"]
    assert error["requestId"] == response.headers["x-request-id"]
    if status == 422:
        assert named in [entry["field"] for entry in error["fields"]]
        assert all(entry["allowed"] for entry in error["fields"])
    assert served.count(str(status)) == 1
    assert served.ranker.seen == []


async def test_a_body_beyond_the_limit_is_refused_before_it_is_parsed(served: Any) -> None:
    response = await post(served, b'{"user": 1, "candidates": [' + b"1," * BODY_BYTES)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert served.count("413") == 1


async def test_a_body_is_read_no_further_than_sixteen_times_the_limit(served: Any) -> None:
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(40):
            sent += BODY_BYTES
            yield b" " * BODY_BYTES

    response = await served.client.post("/v1/rank", content=long())
    assert response.status_code == 413
    assert 16 * BODY_BYTES <= sent <= 18 * BODY_BYTES


async def test_a_score_that_is_not_a_number_is_a_500_and_counts_as_no_answer(served: Any) -> None:
    served.ranker.scores = [0.5, float("nan"), 0.1]  # a decorated ranker may return anything
    response = await post(served, json.dumps(GOOD).encode())
    assert response.status_code == 500
    assert served.count("500") == 1
    assert served.registry.get_sample_value("recast_tae_total", {"state": "fresh"}) == 0


async def test_a_request_is_slow_from_beyond_the_slo_on() -> None:
    registry = CollectorRegistry()
    metrics = ScoringRequests(registry, slo_seconds=0.2)
    for seconds in (0.1, 0.2, 0.2001, 0.3):
        metrics.observe(200, seconds, "absent")
    assert registry.get_sample_value("recast_slow_requests_total") == 2
    assert registry.get_sample_value("recast_tae_total", {"state": "absent"}) == 4
    assert registry.get_sample_value("recast_request_duration_seconds_bucket", {"le": "0.2"}) == 2


async def test_another_path_is_404_and_another_method_405(served: Any) -> None:
    missing = await served.client.get("/v2/rank")
    wrong = await served.client.get("/v1/rank")
    assert (missing.status_code, wrong.status_code, wrong.headers["allow"]) == (404, 405, "POST")
    assert all(name in response.headers for name in HEADERS for response in (missing, wrong))
    await served.client.post("/v1/rank/", content=b"")
    other = {code: served.registry.get_sample_value("recast_other_requests_total", {"code": code}) for code in OTHER}
    assert other == {"400": 0, "404": 2, "405": 1, "503": 0}
    assert served.registry.get_sample_value("recast_request_duration_seconds_count") == 0  # no dilution of a verdict


@pytest.mark.parametrize(
    ("failure", "status"),
    [(KeyError("boost"), 500), (OverloadedError("full"), 503), (ExpiredError("late"), 503)],
    ids=lambda value: str(value),
)
async def test_a_failing_ranker_is_counted_once_and_tells_no_internals(
    served: Any, caplog: pytest.LogCaptureFixture, failure: Exception, status: int
) -> None:
    served.ranker.failure = failure
    response = await post(served, json.dumps(GOOD).encode())
    assert response.status_code == status
    assert "boost" not in response.text
    assert response.headers["x-recast-tae"] == "none"
    assert served.count(str(status)) == 1
    assert served.registry.get_sample_value("recast_tae_total", {"state": "fresh"}) == 0
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == (status == 500)  # overload is counted: a line for each refusal would make it worse
    for record in errors:
        assert record.fields["requestId"] == response.headers["x-request-id"]  # type: ignore[attr-defined]
        assert record.exc_info


async def test_every_code_and_state_is_counted_from_zero(served: Any) -> None:
    for code in ("200", "400", "413", "422", "499", "500", "503"):
        assert served.count(code) == 0
    assert served.registry.get_sample_value("recast_client_disconnects_total") == 0
    assert served.registry.get_sample_value("recast_tae_total", {"state": "absent"}) == 0
    assert served.registry.get_sample_value("recast_request_duration_seconds_bucket", {"le": "0.2"}) == 0


@pytest.mark.parametrize(("opened", "closes"), [(1e12, False), (-1e12, True)], ids=["young", "old"])
async def test_a_connection_beyond_its_age_is_asked_to_close(served: Any, opened: float, closes: bool) -> None:
    served.state["connection"] = Connection(opened)  # on the monotonic clock: far in the future or in the past
    response = await post(served, json.dumps(GOOD).encode())
    assert (response.headers.get("connection") == "close") is closes


async def test_while_draining_every_connection_is_asked_to_close(served: Any) -> None:
    from recast_server.runtime.health import Phase

    served.health.phase = Phase.DRAINING
    response = await post(served, json.dumps(GOOD).encode())
    assert (response.status_code, response.headers["connection"]) == (200, "close")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "user": st.integers() | json_values,
        "candidates": st.lists(st.integers(), max_size=5) | json_values,
        "time": st.text(max_size=30) | st.integers() | st.datetimes().map(str) | json_values,
        "limit": st.integers(-2, 5) | json_values,
        "context": st.dictionaries(st.text(max_size=50), st.text(max_size=210) | st.floats() | json_values)
        | json_values,
        "history": st.lists(
            st.fixed_dictionaries(
                {"item": st.integers(), "surface": st.text(max_size=50), "time": st.integers() | st.text(max_size=30)},
                optional={"actions": st.lists(st.text(max_size=50), max_size=3) | json_values},
            ),
            max_size=3,
        )
        | json_values,
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | (json_values | near_misses).map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_in_is_a_request_or_a_refusal_with_a_reason(content: bytes) -> None:
    try:
        request = parse(content)
    except RefusedError as error:
        refusal = error
    else:
        assert request.user >= 0
        assert 1 <= len(request.candidates) <= 2048
        assert request.time is None or request.time >= 0
        return
    assert refusal.status in (400, 422)
    assert json.dumps(refusal.body("id"))
    assert refusal.message


async def test_where_nothing_could_be_answered_a_request_is_refused_unread(caplog: pytest.LogCaptureFixture) -> None:
    async with real_edge() as edge:
        scheduler = edge.scheduler
        scheduler.close()
        with caplog.at_level(logging.INFO, "recast.expert"):
            for body in (b"no JSON", GOOD_BODY):
                assert (await edge.ask(on_the_wire(body))).startswith(b"HTTP/1.1 503")
            await until(lambda: "requests refused" in caplog.text)
    assert edge.ranker.begun == 0
    assert edge.answered() == {"503": 2}
    assert [record.fields for record in caplog.records] == [{"code": 503, "requests": 2}]  # type: ignore[attr-defined]


async def test_what_waited_in_the_event_loop_is_not_given_again(served: Any) -> None:
    ranker, lags = served.ranker, iter((0.0, 30.0))
    app = create_app(
        served.identity,
        ranker,
        served.health,
        ScoringRequests(CollectorRegistry(), 60.0),
        30.0,
        60.0,
        lag=lambda: next(lags),
    )
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://expert") as client:
        for _ in range(2):
            assert (await client.post("/v1/rank", content=GOOD_BODY)).status_code == 200
    first, second = (context.deadline for context in ranker.contexts)
    assert first - second == pytest.approx(30.0, abs=5.0)
