"""How planning's questions become PromQL, and Prometheus's answers a count or words."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.cluster.paths import cache
from recast_operator.adapters import prometheus
from recast_operator.adapters.prometheus import ANSWER_BYTES, Prometheus, parse
from recast_operator.adapters.promql import promql
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.rollout.questions import Answer, Count, Question

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PROMTOOL = shutil.which("promtool") or next(map(str, cache().glob("debs-*/usr/bin/promtool")), None)


def question(count: Count = Count.REQUESTS, window: int = 60) -> Question:
    return Question(count, "shop", "reels", "abc123", window)


@pytest.mark.parametrize(
    ("count", "series"),
    [
        (Count.REQUESTS, "recast_requests_total{%s}[60s]"),
        (Count.ERRORS, 'recast_requests_total{%s,code=~"5.."}[60s]'),
        (Count.SLOW, "recast_slow_requests_total{%s}[60s]"),
        (Count.TAE_ANSWERS, "recast_tae_total{%s}[60s]"),
        (Count.TAE_NOT_FRESH, 'recast_tae_total{%s,state!="fresh"}[60s]'),
    ],
)
def test_a_question_becomes_what_the_scrapes_of_its_revision_have_seen(count: Count, series: str) -> None:
    chosen = series % 'namespace="shop",kind="expert-server",model="reels",revision="abc123"'
    assert promql(question(count)) == (
        f"sum(max_over_time({chosen}) - min_over_time({chosen}) and resets({chosen}) == 0 or increase({chosen}))"
    )


def test_two_queries_of_the_longest_names_fit_into_a_status() -> None:
    longest = Question(Count.ERRORS, "n" * 63, "m" * 40, "r" * 16, 6_048_000)
    assert 2 * len(promql(longest)) + 3 <= 2048


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool: make cluster fetches one")
def test_promtool_counts_what_was_seen_and_never_what_was_extrapolated(tmp_path: Path) -> None:
    """Two pods: one is scraped all the while, of the other the container restarts (1000, 1010, 1020, 3, 8, …)."""
    asked = question(window=59)
    labels = 'namespace="shop",kind="expert-server",model="reels",revision="abc123",code="{}",pod="{}"'
    restarted = " ".join(map(str, [1000, 1010, 1020, *range(3, 143, 5)]))
    series = [
        {"series": f"recast_requests_total{{{labels.format(200, 'a')}}}", "values": "100+5x30"},
        {"series": f"recast_requests_total{{{labels.format(500, 'a')}}}", "values": "0+1x30"},
        {"series": f"recast_requests_total{{{labels.format(200, 'b')}}}", "values": restarted},
    ]
    counted = {Count.ERRORS: 29.0, Count.REQUESTS: 29 * 5 + 29 + 150.55172413793102}
    expected = [
        {
            "expr": promql(Question(count, "shop", "reels", "abc123", asked.window_seconds)),
            "eval_time": "60s",
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for count, value in counted.items()
    ]
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"tests": [{"interval": "2s", "input_series": series, "promql_expr_test": expected}]}))
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def vector(*values: str) -> dict[str, Any]:
    return {"data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, value]} for value in values]}}


@pytest.mark.parametrize(
    ("body", "count", "error"),
    [
        (vector("12.5"), 12.5, ""),
        (vector("0"), 0.0, ""),
        (vector(), None, ""),
        (vector("NaN"), None, "nan where a count was asked for"),
        (vector("+Inf"), None, "inf where a count was asked for"),
        (vector("-1"), None, "-1 where a count was asked for"),
        (vector("1", "2"), None, "2 series where one was asked for"),
        ({"data": {"resultType": "scalar", "result": [0, "3"]}}, None, "a scalar where one number was asked for"),
        ({"data": {"resultType": "matrix", "result": []}}, None, "a matrix where one number was asked for"),
        ({"data": None}, None, "not Prometheus's"),
        ([], None, "not Prometheus's"),
        ({"data": {"resultType": "vector", "result": [{"value": [0, "many"]}]}}, None, "not Prometheus's"),
        ({"data": {"resultType": "vector", "result": [{"value": [0]}]}}, None, "not Prometheus's"),
    ],
)
def test_an_answer_is_one_count_or_none_with_a_reason(body: Any, count: float | None, error: str) -> None:
    answer = parse(body)
    assert answer.count == count
    assert error in answer.error
    assert bool(error) == bool(answer.error)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def asked_of(handler: Handler, *questions: Question, now: datetime = NOW) -> dict[Question, Answer]:
    application = web.Application()
    application.router.add_get("/api/v1/query", handler)
    async with TestServer(application) as server:
        prometheus = Prometheus(f"http://127.0.0.1:{server.port}/")
        try:
            return dict(await prometheus.answers(questions, now))
        finally:
            await prometheus.close()


async def test_each_question_is_asked_once_at_the_plans_time_and_its_text_comes_back() -> None:
    seen: list[tuple[str, str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.query["query"], request.query["time"], request.query["timeout"]))
        if "5.." in request.query["query"]:
            return web.json_response({"status": "error", "error": "parse error"}, status=400)
        return web.json_response({"status": "success", **vector("7")})

    good, bad = question(), question(Count.ERRORS)
    answers = await asked_of(handler, good, bad, good)
    assert sorted(seen) == sorted((promql(entry), f"{NOW.timestamp():.0f}", "5s") for entry in (good, bad))
    assert answers[good] == Answer(7, "", promql(good))
    assert answers[bad] == Answer(None, "HTTP 400: parse error", promql(bad))


async def test_whenever_a_pass_comes_the_window_begins_where_it_began_at_the_pass_before() -> None:
    """A canary of weight since 23:59:00: its window is so many whole seconds long, and ends in a whole second."""
    began = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)
    ends: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        ends.append(float(request.query["time"]))
        return web.json_response({"status": "success", **vector("7")})

    passes = [NOW + timedelta(seconds=seconds) for seconds in (0, 0.001, 0.7, 0.999, 5.4)]
    windows = [int(elapsed(stamp(began), now)) for now in passes]
    for now, window in zip(passes, windows, strict=True):
        await asked_of(handler, question(window=window), now=now)
    assert {end - window for end, window in zip(ends, windows, strict=True)} == {began.timestamp()}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b'{"status": "error", "error": "too many samples"}', "HTTP 200: too many samples"),
        (503, b'{"status": "success", "data": {"resultType": "vector", "result": []}}', "HTTP 503"),
        (200, b"<html>login</html>", "Expecting value"),
        (200, b"[1]", "no attribute 'get'"),
        (200, b"\xff", "decode"),
        (200, b"[" + b" " * ANSWER_BYTES + b"]", f"more than {ANSWER_BYTES} bytes"),
    ],
    ids=["error", "unavailable", "a-login-page", "a-list", "not-text", "endless"],
)
async def test_whatever_else_answers_is_no_data_with_a_reason(status: int, body: bytes, error: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json")

    answer = (await asked_of(handler, question()))[question()]
    assert answer.count is None
    assert error in answer.error
    assert len(answer.error) < 300


async def test_a_prometheus_that_says_nothing_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "QUERY_SECONDS", 0.05)
    stop = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await stop.wait()
        return web.Response()

    asking = asyncio.create_task(asked_of(handler, question(), question(Count.SLOW)))
    done, _ = await asyncio.wait({asking}, timeout=0.5)
    stop.set()
    answers = await asking
    assert all(answer.count is None and "TimeoutError" in answer.error for answer in answers.values()), done


async def test_a_prometheus_that_is_not_there_or_not_named_is_no_data_and_never_an_error() -> None:
    server = TestServer(web.Application())
    await server.start_server()
    port = server.port
    await server.close()  # nobody listens there now
    gone = Prometheus(f"http://127.0.0.1:{port}")
    answer = (await gone.answers([question()], NOW))[question()]
    await gone.close()
    assert answer.count is None
    assert "Cannot connect" in answer.error
    nobody = (await Prometheus("").answers([question()], NOW))[question()]
    what = "the operator has none: set operator.prometheusUrl in the values of its chart (--prometheus-url)"
    assert nobody == Answer(None, what, promql(question()))
