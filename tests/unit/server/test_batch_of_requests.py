"""Several requests in one body: each is answered or refused as if it had come alone, and counts as what it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from real_edge import post as on_the_wire
from real_edge import real_edge, until

from recast_server.expert import openapi
from recast_server.expert.batch import REQUESTS
from recast_server.expert.ranker import Ranking
from recast_server.runtime.scheduler import OverloadedError

GOOD = {"user": 1, "candidates": [5, 9, 7]}


async def post(served: Any, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response: httpx.Response = await served.client.post("/v1/rank:batch", content=content)
    return response


async def test_answers_come_in_the_order_of_their_requests(served: Any) -> None:
    response = await post(served, {"requests": [{**GOOD, "limit": 1}, openapi.RANK_EXAMPLE]})
    first, second = response.json()["answers"]
    assert (response.status_code, first["status"], second["status"]) == (200, 200, 200)
    assert [entry["item"] for entry in first["answer"]["items"]] == [9]
    assert [entry["item"] for entry in second["answer"]["items"]] == [1018, 1011]
    own = response.json()["requestId"]
    assert [each["answer"]["requestId"] for each in (first, second)] == [f"{own}.0", f"{own}.1"]
    assert own == response.headers["x-request-id"]


async def test_an_answer_is_that_of_the_request_alone(served: Any) -> None:
    alone = (await served.client.post("/v1/rank", content=json.dumps(openapi.RANK_EXAMPLE))).json()
    (batched,) = (await post(served, {"requests": [openapi.RANK_EXAMPLE]})).json()["answers"]
    assert {**batched["answer"], "requestId": None} == {**alone, "requestId": None}
    first, second = served.ranker.seen
    assert first == second


async def test_one_that_is_refused_takes_no_other_with_it(served: Any) -> None:
    wrong = [{"user": "x", "candidates": [1]}, 7, None, [], {**GOOD, "surprise": 1}]
    response = await post(served, {"requests": [GOOD, *wrong, GOOD]})
    answers = response.json()["answers"]
    assert [each["status"] for each in answers] == [200, 422, 422, 422, 422, 422, 200]
    assert answers[1]["error"]["fields"][0]["field"] == "user"
    assert all(each["error"]["reason"] == "InvalidRequest" for each in answers[1:-1])
    assert (served.count("200"), served.count("422")) == (2, 5)
    other = served.registry.get_sample_value("recast_other_requests_total", {"code": "200"})
    assert other == 1  # the batch itself


async def test_each_is_admitted_and_fails_on_its_own(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    plain = served.ranker.rank

    async def rank(asked: Any, context: Any) -> Ranking:
        if asked.user == 2:
            raise OverloadedError("full")
        if asked.user == 3:
            raise KeyError("boost")
        if asked.user == 4:
            return Ranking([float("nan")] * 3, {}, [], "fresh")
        ranking: Ranking = await plain(asked, context)
        return ranking

    served.ranker.rank = rank
    response = await post(served, {"requests": [{**GOOD, "user": user} for user in (1, 2, 3, 4)]})
    assert [each["status"] for each in response.json()["answers"]] == [200, 503, 500, 500]
    assert "boost" not in response.text
    assert [served.count(code) for code in ("200", "503", "500")] == [1, 1, 2]
    assert served.registry.get_sample_value("recast_tae_total", {"state": "fresh"}) == 1
    failed = [r.fields["requestId"] for r in caplog.records if r.levelname == "ERROR"]  # type: ignore[attr-defined]
    assert failed == [f"{response.json()['requestId']}.{place}" for place in (2, 3)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        ({}, 422),
        ({"requests": []}, 422),
        ({"requests": [GOOD] * (REQUESTS + 1)}, 422),
        ({"requests": [GOOD], "more": 1}, 422),
        (b" " * 2**20, 413),
    ],
)
async def test_a_batch_that_is_none_is_refused_as_one(served: Any, body: object, status: int) -> None:
    response = await post(served, body)
    assert response.status_code == status
    assert served.count(str(status)) == 1
    assert served.ranker.seen == []


async def test_they_have_one_deadline_and_run_at_once() -> None:
    body = json.dumps({"requests": [GOOD] * 3}).encode()
    async with real_edge() as edge:
        edge.ranker.gate.clear()
        asked = asyncio.ensure_future(edge.ask(on_the_wire(body, path=b"/v1/rank:batch")))
        await until(lambda: edge.ranker.begun == 3)
        edge.ranker.gate.set()
        assert (await asked).startswith(b"HTTP/1.1 200")
        assert edge.answered() == {"200": 3}


async def test_who_hangs_up_takes_all_of_them_back() -> None:
    body = json.dumps({"requests": [GOOD] * 3}).encode()
    async with real_edge() as edge:
        edge.ranker.gate.clear()
        _, writer = await edge.connect()
        writer.write(on_the_wire(body, path=b"/v1/rank:batch"))
        await until(lambda: edge.ranker.begun == 3)
        writer.close()
        await until(lambda: edge.ranker.cancelled == 3)
        await until(lambda: edge.value("recast_client_disconnects_total") == 1)
        assert edge.answered() == {}
