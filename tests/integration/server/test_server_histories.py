"""Real servers over a real store: an answer knows what its user has just done, and no store breaks one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_process import RedisProcess
from server_processes import Process, until
from server_world import World

from recast_api import names
from recast_api.server import ServedHistories, ServedRedis

USER, CANDIDATES = 77, [1000, 1007, 1014, 1021]
PASSWORD = "a-password-that-nobody-may-see"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path, ("--requirepass", PASSWORD), tcp=True).start()
    yield process
    process.thaw()
    process.kill()


@pytest.fixture
def expert(world: World, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setenv(names.HISTORIES_PASSWORD_ENV, PASSWORD)
    foundation = world.start(world.foundation_config(world.foundation)).wait_serving()
    histories = ServedHistories(store="Redis", redis=ServedRedis(host="127.0.0.1", port=redis.port))
    return world.start(world.expert_config(foundation.port, histories=histories)).wait_serving()


def rank(expert: Process) -> httpx.Response:
    answer = httpx.post(f"{expert.url}/v1/rank", json={"user": USER, "candidates": CANDIDATES})
    assert answer.status_code == 200, answer.text
    return answer


def act(expert: Process, number: int) -> httpx.Response:
    event: dict[str, Any] = {"item": 1000 + 7 * number, "surface": "reels", "actions": ["click"]}
    body = {"user": USER, "events": [{**event, "time": int(time.time() * 1000) - 2}], "idempotencyKey": f"k{number}"}
    return httpx.post(f"{expert.url}/v1/events", json=body)


def scores(answer: httpx.Response) -> dict[int, float]:
    return {each["item"]: each["score"] for each in answer.json()["items"]}


def test_an_answer_knows_what_its_user_has_just_done_and_no_state_of_the_store_breaks_one(
    expert: Process, redis: RedisProcess
) -> None:
    before = rank(expert)
    assert before.headers[names.HEADER_HISTORY] == "artifact"
    for number in range(5):
        assert act(expert, number).json()["sequence"] == number + 1
    after = rank(expert)
    assert (after.headers[names.HEADER_HISTORY], after.headers[names.HEADER_HISTORY_STATE]) == ("store", "fresh")
    assert float(after.headers[names.HEADER_HISTORY_AGE]) < 60
    assert after.headers[names.HEADER_TAE] == "fresh"
    assert scores(after) != scores(before)

    redis.freeze()  # connected, and silent
    frozen = [rank(expert) for _ in range(20)]
    assert {answer.headers[names.HEADER_HISTORY] for answer in frozen} == {"artifact"}
    assert {answer.headers[names.HEADER_HISTORY_STATE] for answer in frozen} == {"stale"}
    assert expert.metric("recast_history_fallbacks_total", reason="late") >= 1
    assert expert.metric("recast_history_fallbacks_total", reason="open") >= 1
    redis.thaw()
    until(lambda: rank(expert).headers[names.HEADER_HISTORY] == "store")
    assert scores(rank(expert)).keys() == scores(after).keys()

    redis.kill()
    for _ in range(20):
        assert rank(expert).headers[names.HEADER_HISTORY] == "artifact"
    refused = act(expert, 9)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "HistoryStoreUnavailable")
    assert expert.metric("recast_requests_total", code="500") == expert.metric("recast_requests_total", code="503") == 0
    redis.start()
    assert act(expert, 10).json()["sequence"] == 1  # it kept nothing on its disk
    until(lambda: rank(expert).headers[names.HEADER_HISTORY] == "store")
    assert expert.terminate() == 0
    assert PASSWORD not in expert.text
