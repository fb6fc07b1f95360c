"""What reaches the operator from outside: the apiserver's errors, silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from dev.cluster.ports import held
from recast_operator.adapters import errors
from recast_operator.adapters.credentials import Credentials
from recast_operator.adapters.kube import FOUNDATIONS, PODS, HttpRequester, Kube, Request, error_of
from recast_operator.liveness import Liveness, serve
from recast_operator.metrics import Metrics

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody listens, unless the test does."""
    with held() as number:
        yield number


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.Invalid),
        (403, errors.Blocked),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Expired),
        (422, errors.Invalid),
        (429, errors.Transient),
        (500, errors.Transient),
        (503, errors.Transient),
    ],
)
def test_an_answer_of_the_apiserver_becomes_the_error_that_tells_what_to_do(status: int, kind: type) -> None:
    error = error_of(status, json.dumps({"message": "because"}), "GET /x")
    assert type(error) is kind
    assert "because" in str(error)
    assert "GET /x" in str(error)
    assert str(error_of(status, "<html>", "GET /x")).count("<html>") == 1


def test_a_write_that_names_another_objects_uid_is_a_conflict_and_no_mistake_in_the_object() -> None:
    words = 'Deployment.apps "d" is invalid: metadata.uid: Invalid value: "0": field is immutable'
    assert type(error_of(422, json.dumps({"message": words}), "PATCH /x")) is errors.Conflict


async def test_a_write_that_got_no_answer_has_an_unknown_outcome_and_a_read_has_none(port: int) -> None:
    counted: list[tuple[str, ...]] = []
    requester = HttpRequester(Credentials(f"http://127.0.0.1:{port}"), lambda *call: counted.append(call))
    for method, unknown in (("GET", False), ("POST", True)):
        with pytest.raises(errors.Transient) as caught:
            await requester.send(Request(method, PODS.path("n", "p"), body={} if unknown else None))
        assert caught.value.unknown_outcome is unknown
    await requester.close()
    assert counted == [("GET", "pods", "error"), ("POST", "pods", "error")]


async def test_a_token_is_read_again_for_every_request(tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"items": []})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    token = tmp_path / "token"
    async with TestServer(application) as server:
        requester = HttpRequester(Credentials(f"http://127.0.0.1:{server.port}", token_file=token))
        for text in ("one\n", "two\n"):
            token.write_text(text)
            await Kube(requester).exists(FOUNDATIONS, None)
        await requester.close()
    assert seen == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        (PODS.path("n", "p", "status"), "pods/status"),
        (PODS.path("n"), "pods"),
        (FOUNDATIONS.path(None), "foundationmodels"),
        (FOUNDATIONS.path("n", "home-fm"), "foundationmodels"),
        ("/apis", ""),
        ("/apis/recast.dev/v1alpha1", ""),
        ("/api/v1/namespaces/n", "namespaces"),
    ],
)
def test_requests_are_counted_by_what_they_are_about_and_never_by_names(path: str, resource: str) -> None:
    assert Request("GET", path).resource == resource


def test_paths_are_kubernetes_paths() -> None:
    assert FOUNDATIONS.path("n", "x", "status") == "/apis/recast.dev/v1alpha1/namespaces/n/foundationmodels/x/status"
    assert PODS.path(None) == "/api/v1/pods"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_unhealthy_whatever_else_goes_on() -> None:
    clock = Clock()
    liveness = Liveness(clock, 10, lambda: 0.0)
    clock.now += 10
    assert liveness.problems() == []
    clock.now += 1
    assert "no watch event and no answer for 11s" in liveness.problems()[0]
    liveness.heard()
    assert liveness.problems() == []


def test_an_apiserver_that_refuses_has_answered_and_nothing_is_held_against_us_while_it_is_away() -> None:
    clock = Clock()
    liveness = Liveness(clock, 10, lambda: 1000.0)
    liveness.began("reels")
    for _ in range(20):
        clock.now += 9
        liveness.refused()
    assert liveness.problems() == []
    liveness.heard()  # from now on the pass has its full time
    assert liveness.problems() == []
    clock.now += 9
    liveness.heard()
    assert liveness.problems() == []
    clock.now += 2
    liveness.heard()
    assert "no pass was finished for 11s" in liveness.problems()[0]


def test_an_apiserver_that_refused_and_then_says_nothing_more_is_silence() -> None:
    clock = Clock()
    liveness = Liveness(clock, 10, lambda: 0.0)
    liveness.refused()
    clock.now += 11
    assert "no watch event and no answer" in liveness.problems()[0]


def test_a_pass_that_never_ends_and_work_that_nobody_takes_are_unhealthy_but_idleness_is_not() -> None:
    clock, oldest = Clock(), [0.0]
    liveness = Liveness(clock, 10, lambda: oldest[0])
    for _ in range(20):  # idle for long, but heard from
        clock.now += 9
        liveness.heard()
    assert liveness.problems() == []
    liveness.began("reels")
    assert liveness.problems() == []  # only just begun
    clock.now += 11
    liveness.heard()
    assert "no pass was finished" in liveness.problems()[0]
    liveness.finished("reels")
    assert liveness.problems() == []
    oldest[0] = 11.0
    assert "no pass was finished" in liveness.problems()[0]


def test_one_pass_that_hangs_is_seen_although_others_are_finished() -> None:
    clock = Clock()
    liveness = Liveness(clock, 10, lambda: 0.0)
    liveness.began("reels")
    for _ in range(6):
        clock.now += 2
        liveness.heard()
        liveness.began("feed")
        liveness.finished("feed")
    assert liveness.problems() == ["reels: a pass has not ended for 12s (limit 10s)"]
    liveness.began("feed")
    assert liveness.problems() == ["reels: a pass has not ended for 12s (limit 10s)"]


async def test_health_readiness_and_metrics_are_served(port: int) -> None:
    clock, metrics = Clock(), Metrics()
    liveness = Liveness(clock, 10, lambda: 0.0)
    metrics.pass_ended("ExpertModel", "Conflict", 0.02)
    metrics.gauge("recast_operator_queue_depth", "Depth.", lambda: 3)
    runner = await serve(port, liveness, metrics)

    async def get(path: str) -> tuple[int, str]:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    try:
        assert await get("/healthz") == (200, "ok")
        assert (await get("/readyz"))[0] == 503
        liveness.ready = True
        assert await get("/readyz") == (200, "ok")
        clock.now += 11
        assert (await get("/healthz"))[0] == 503
        text = (await get("/metrics"))[1]
    finally:
        await runner.cleanup()
    assert 'recast_operator_reconcile_seconds_count{kind="ExpertModel",result="Conflict"} 1.0' in text
    assert "recast_operator_queue_depth 3.0" in text
