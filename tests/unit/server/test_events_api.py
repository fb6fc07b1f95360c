"""``POST /v1/events``: what comes in, what is refused, and that an answer changes when its user has just acted."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_ranker import IDENTITY, FakeRanker
from prometheus_client import CollectorRegistry
from server_builders import (
    HISTORIES,
    ITEMS,
    SURFACES,
    TAE_DIM,
    TASKS,
    LandedPair,
    a_context,
    a_reader,
    a_scheduler,
    land_pair,
)

from recast_server.expert.app import create_app
from recast_server.expert.engine import ExpertEngine
from recast_server.expert.events_api import PATH, events_route
from recast_server.expert.model_ranker import ModelRanker
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.schema import HistoryEvent, RankRequest
from recast_server.expert.tae_client import Embeddings, ServedFoundation
from recast_server.foundation.engine import FoundationEngine
from recast_server.histories.artifact import ArtifactStore
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.opening import Unopened
from recast_server.histories.store import HistoryStore, Read
from recast_server.runtime.context import RequestContext
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.inputs import Query
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler

EVENT = {"item": 7, "surface": "reels", "time": "2026-01-01T00:00:00Z", "actions": ["click"]}
BODY = {"user": 1, "events": [EVENT], "idempotencyKey": "k1"}


@dataclass
class Events:
    client: httpx.AsyncClient
    registry: CollectorRegistry

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/v1/events", content=content, headers=named)


def served(store: HistoryStore | None) -> Events:
    registry = CollectorRegistry()
    health = Health(Scheduler(1, QueueMetrics(CollectorRegistry())))
    health.phase = Phase.SERVING
    metrics = ScoringRequests(registry, 0.2)
    app = create_app(IDENTITY, FakeRanker(), health, metrics, 30.0, 0.2, more={PATH: events_route(store)})
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    return Events(httpx.AsyncClient(transport=transport, base_url="http://expert"), registry)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(tmp_path / "histories", 16 << 20)
    yield store
    await store.close()


async def test_events_are_in_the_store_when_the_answer_says_so(store: EmbeddedStore) -> None:
    events = served(store)
    answer = await events.post({**BODY, "events": [EVENT, {**EVENT, "item": 8, "availableAt": 1_767_225_660_000}]})
    assert answer.status_code == 200
    assert {**answer.json(), "requestId": ""} == {
        "requestId": "", "user": 1, "sequence": 1, "total": 2, "repeated": False,
    }  # fmt: skip
    assert answer.headers["x-recast-revision"] == IDENTITY.revision
    found = await store.read(1)
    assert isinstance(found, Read)
    kept = found.history.events
    assert (kept.item.tolist(), kept.surfaces, kept.tasks) == ([7, 8], ("reels",), ("click",))
    assert (kept.available_ms - kept.time_ms).tolist() == [0, 60_000]
    assert events.registry.get_sample_value("recast_other_requests_total", {"code": "200"}) == 1
    assert events.registry.get_sample_value("recast_requests_total", {"code": "200"}) == 0


async def test_a_call_that_is_sent_again_adds_nothing(store: EmbeddedStore) -> None:
    events = served(store)
    body = {name: value for name, value in BODY.items() if name != "idempotencyKey"}
    answers = [await events.post(body, Idempotency_Key="k1"), await events.post(BODY), await events.post(BODY)]
    assert [(a.json()["sequence"], a.json()["repeated"]) for a in answers] == [(1, False), (1, True), (1, True)]
    other = await events.post({**BODY, "events": [{**EVENT, "item": 9}]})
    assert (other.status_code, other.json()["error"]["reason"]) == (409, "IdempotencyKeyReused")


def _now(plus_seconds: int) -> int:
    return int(time.time() * 1000) + plus_seconds * 1000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**BODY, "user": -1}, "user"),
        ({**BODY, "events": []}, "events"),
        ({**BODY, "events": [EVENT] * 1025}, "events"),
        ({**BODY, "events": [EVENT, {**EVENT, "item": "7"}]}, "events.1.item"),
        ({**BODY, "events": [{**EVENT, "time": _now(600)}]}, "events.0.time"),
        ({**BODY, "events": [{**EVENT, "availableAt": _now(600)}]}, "events.0.availableAt"),
        ({**BODY, "events": [{**EVENT, "availableAt": 5}]}, "events.0.availableAt"),
        ({**BODY, "events": [{**EVENT, "actions": [f"a{e}-{n}" for n in range(16)]} for e in range(5)]}, "events"),
        ({**BODY, "idempotencyKey": ""}, "idempotencyKey"),
        ({**BODY, "idempotencyKey": "two words"}, "idempotencyKey"),
        ({"user": 1, "events": [EVENT]}, "idempotencyKey"),
        ({**BODY, "more": 1}, "more"),
        ([], "(body)"),
    ],
)
async def test_what_is_wrong_is_named_by_its_path_and_nothing_is_kept(
    store: EmbeddedStore, body: Any, field: str
) -> None:
    answer = await served(store).post(body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["fields"][0]["field"] == field
    found = await store.read(1)
    assert isinstance(found, Read)
    assert found.history.sequence == 0


async def test_keys_in_body_and_header_must_agree(store: EmbeddedStore) -> None:
    assert (await served(store).post(BODY, Idempotency_Key="other")).status_code == 422
    assert (await served(store).post(BODY, Idempotency_Key="x" * 129)).status_code == 422
    assert (await served(store).post(BODY, Idempotency_Key="k1")).status_code == 200


async def test_what_is_no_json_or_too_long_is_said(store: EmbeddedStore) -> None:
    events = served(store)
    assert (await events.post(b"{")).json()["error"]["reason"] == "InvalidJson"
    large = await events.post(b" " * (512 * 1024 + 1))
    assert (large.status_code, large.json()["error"]["reason"]) == (413, "BodyTooLarge")
    other = await events.client.get("/v1/events")
    assert (other.status_code, other.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("own", [None, ArtifactStore(HISTORIES, ITEMS, SURFACES, TASKS)])
async def test_where_histories_come_with_the_version_nothing_can_be_added(own: HistoryStore | None) -> None:
    answer = await served(own).post(BODY)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "NoHistoryStore")


async def test_a_store_that_is_down_or_full_asks_to_send_again(store: EmbeddedStore, tmp_path: Path) -> None:
    small = EmbeddedStore(tmp_path / "small", 1 << 15)
    many = {**BODY, "events": [{**EVENT, "item": 2**40 * n} for n in range(1000)]}
    bodies = [{**many, "idempotencyKey": f"k{n}"} for n in range(40)]
    full = [await served(small).post(body) for body in bodies][-1]
    down = await served(Unopened("no volume at /secret-path")).post(BODY)
    for answer in (full, down):
        assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "HistoryStoreUnavailable")
        assert answer.headers["retry-after"] == "1"
        assert "secret" not in answer.text
    await small.close()


async def test_a_store_that_fails_as_none_should_is_a_503_too(store: EmbeddedStore) -> None:
    class Broken(Unopened):
        async def append(self, append: Any, now_ms: int) -> Any:
            raise KeyError("a bug")

    assert (await served(Broken("")).post(BODY)).status_code == 503


# An answer changes when its user has just acted


@dataclass
class InProcess:
    """The foundation's engine, asked without a wire."""

    engine: FoundationEngine

    async def tae(self, query: Query, context: RequestContext, within_seconds: float) -> Any:
        if within_seconds <= 0:
            raise TaeUnavailableError("DEADLINE_EXCEEDED", "late")
        served = ServedFoundation("home-fm", 3, 2, "", TAE_DIM)
        return Embeddings(self.engine.run([query])[0], served)

    async def describe(self, timeout_seconds: float) -> Any:
        raise NotImplementedError

    async def close(self) -> None: ...


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"))


async def ranked(pair: LandedPair, store: HistoryStore, request: RankRequest) -> Any:
    expert = ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served())
    foundation = FoundationEngine(pair.foundation_folder, pair.foundation_manifest)
    scheduler = a_scheduler()
    try:
        ranker = ModelRanker(expert, "reels", InProcess(foundation), scheduler, a_reader(store))
        return await ranker.rank(request, a_context())
    finally:
        scheduler.close()


async def test_an_answer_changes_when_its_user_has_just_acted_and_is_that_of_the_same_history_inline(
    pair: LandedPair, store: EmbeddedStore
) -> None:
    now = _now(0)
    request = RankRequest(user=3, candidates=[100, 105, 110], time=now)
    before = await ranked(pair, store, request)
    acted = [
        {"item": 100 + n, "surface": SURFACES[n % 2], "time": now - 1000 * (20 - n), "actions": [TASKS[n % 3]]}
        for n in range(20)
    ]
    for n in range(0, 20, 5):
        body = {"user": 3, "events": acted[n : n + 5], "idempotencyKey": f"k{n}"}
        assert (await served(store).post(body)).status_code == 200
    after = await ranked(pair, store, request)
    assert (before.history.source, before.history.state) == ("artifact", "stale")
    assert (after.history.source, after.history.state) == ("store", "fresh")
    assert after.history.age_seconds == pytest.approx(1.0)
    assert before.scores != after.scores
    inline = [HistoryEvent.model_validate_json(json.dumps(event)) for event in acted]
    alike = await ranked(pair, store, request.model_copy(update={"history": inline}))
    assert alike.history.source == "inline"
    np.testing.assert_array_equal(alike.scores, after.scores)


async def test_headers_body_and_log_say_which_history_it_was(store: EmbeddedStore) -> None:
    class Ranked(FakeRanker):
        async def rank(self, request: RankRequest, context: RequestContext) -> Any:
            asked = await a_reader(store).asked(Query(5, "reels", _now(0), [1]), context)
            ranking = await super().rank(request, context)
            return type(ranking)(**{**ranking.__dict__, "history": asked.seen})

    health = Health(Scheduler(1, QueueMetrics(CollectorRegistry())))
    health.phase = Phase.SERVING
    app = create_app(IDENTITY, Ranked(), health, ScoringRequests(CollectorRegistry(), 0.2), 30.0, 0.2)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://expert") as client:
        answer = await client.post("/v1/rank", json={"user": 5, "candidates": [1]})
        refused = await client.post("/v1/rank", json={"user": 5})
    assert (answer.headers["x-recast-history"], answer.headers["x-recast-history-state"]) == ("artifact", "stale")
    told = answer.json()["history"]
    assert (told["source"], told["state"]) == ("artifact", "stale")
    assert told["ageSeconds"] > 3600
    assert float(answer.headers["x-recast-history-age"]) == pytest.approx(told["ageSeconds"])
    assert "x-recast-history" not in refused.headers
