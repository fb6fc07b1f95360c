"""Context of a request at the servers: what is refused, what is unknown, and that both networks read what was sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import torch
from hostile_foundation import CANDIDATES, Expert, expert_before_a_script
from server_builders import HISTORIES, ITEMS, LIMIT, NOW, TAE_DIM, LandedPair, land_pair

from recast_model.batch import RequestBatch
from recast_model.context import Context, ContextFeature
from recast_model.features import Request, collate
from recast_server.expert.engine import ExpertEngine
from recast_server.expert.model_ranker import Embedded
from recast_server.expert.schema import RankRequest, RefusedError, parse, require_known_context
from recast_server.foundation.engine import FoundationEngine
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.inputs import Query

FEATURES = (
    ContextFeature("device", "Categorical", ("phone", "tv")),
    ContextFeature("battery", "Numeric"),
    ContextFeature("app", "Categorical", ("old",)),
)
GIVEN = {"battery": 0.4, "device": "tv"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"), FEATURES)


@pytest.fixture(scope="module")
def engine(pair: LandedPair) -> ExpertEngine:
    return ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served())


def body(context: object) -> bytes:
    return json.dumps({"user": 1, "candidates": [105], "context": context}).encode()


@pytest.mark.parametrize(
    ("context", "field"),
    [
        (["device"], "context"),
        ("device", "context"),
        ({"device": True}, "context.device"),
        ({"device": ["tv"]}, "context.device"),
        ({"device": {"tv": 1}}, "context.device"),
        ({"device": "x" * 201}, "context.device"),
        ({"battery": float("nan")}, "context.battery"),
        ({"battery": float("inf")}, "context.battery"),
        ({"battery": 10**400}, "context.battery"),
        ({"battery": 1e39}, "context.battery"),
        ({f"f{place}": 1 for place in range(65)}, "context"),
        ({"": 1}, "context"),
        ({"x" * 41: 1}, "context"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_context_is_refused_by_field(context: object, field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(body(context))
    assert caught.value.status == 422
    assert caught.value.fields[0]["field"].startswith(field)
    assert "64 features by name" in caught.value.fields[0]["allowed"]


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ({"devise": "tv"}, "context.devise: this version knows no such feature (allowed: only device, battery, app)"),
        ({"devise": None}, "context.devise: this version knows no such feature"),
        ({"device": 3}, "context.device: must be a text (allowed: a text or null)"),
        ({"battery": "full"}, "context.battery: must be a number (allowed: a number or null)"),
    ],
)
def test_what_the_version_does_not_know_is_refused_with_what_it_does(context: Any, problem: str) -> None:
    asked = parse(body(context))
    with pytest.raises(RefusedError) as caught:
        require_known_context(asked, FEATURES)
    assert (caught.value.status, caught.value.reason) == (422, "InvalidRequest")
    assert problem in caught.value.message
    with pytest.raises(RefusedError, match="this version knows no context"):
        require_known_context(parse(body(GIVEN)), ())


@pytest.mark.parametrize("context", [{}, GIVEN, {"device": "watch", "app": None}, {"battery": 3}, {"device": ""}])
def test_what_it_knows_is_taken(context: Any) -> None:
    asked = parse(body(context))
    require_known_context(asked, FEATURES)
    assert asked.context == context
    require_known_context(RankRequest(user=1, candidates=[1]), ())


def expected(pair: LandedPair, context: dict[str, Any], tae: np.ndarray | None) -> list[float]:
    own = HISTORIES.lookup(1).take(np.array([1, 2, 4, 5]))  # those on reels
    request = Request(1, 1, NOW, ITEMS.index(np.array([105])), own, Context.given(FEATURES, context))
    vectors = torch.zeros(1, 1, TAE_DIM) if tae is None else torch.from_numpy(tae).float()[None]
    with torch.no_grad():
        found = pair.expert(
            RequestBatch.from_arrays(collate([request], LIMIT)), vectors, torch.tensor([tae is not None])
        )
    probabilities: list[float] = torch.sigmoid(found).double()[0, :, 0].tolist()
    return probabilities


@pytest.mark.parametrize("tae", [None, np.ones((1, TAE_DIM), np.float16)], ids=["absent", "fresh"])
def test_an_experts_scores_read_the_context_that_was_sent(
    pair: LandedPair, engine: ExpertEngine, tae: np.ndarray | None
) -> None:
    seen = set()
    for context in ({}, GIVEN, {"device": "phone"}, {"battery": -3}, {"battery": 0.4}):
        (found,) = engine.run([Embedded(Query(1, "reels", NOW, [105], context=context), tae)])
        assert found.probabilities["click"] == expected(pair, context, tae)
        assert found.unknown_context == []
        seen.add(found.probabilities["click"][0])
    assert len(seen) == 5


def test_a_value_that_is_not_listed_is_unknown_and_told(engine: ExpertEngine) -> None:
    def ranked(context: dict[str, Any]) -> Any:
        (found,) = engine.run([Embedded(Query(1, "reels", NOW, [105], context=context))])
        return found

    found = ranked({"app": "new", "battery": 0.4, "device": "watch"})
    assert found.unknown_context == ["device", "app"]
    assert found.scores == ranked({"battery": 0.4}).scores
    assert ranked({"device": None}).unknown_context == []


def test_the_foundation_reads_the_context_and_passes_over_what_it_does_not_know(pair: LandedPair) -> None:
    foundation = FoundationEngine(pair.foundation_folder, pair.foundation_manifest)

    def tae(context: dict[str, Any]) -> bytes:
        (rows,) = foundation.run([Query(1, "reels", NOW, [105, 100], context=context)])
        return rows.tobytes()

    window = HISTORIES.lookup(1).take(slice(2, None))
    request = Request(1, 1, NOW, ITEMS.index(np.array([105, 100])), window, Context.given(FEATURES, GIVEN))
    with torch.no_grad():
        same = pair.foundation.tae(RequestBatch.from_arrays(collate([request], LIMIT)))[0].half().numpy()
    assert tae(GIVEN) == same.tobytes() != tae({})
    assert tae({**GIVEN, "weather": "rain", "app": "new"}) == same.tobytes()
    for unknown in ({"device": 3.0}, {"battery": "full"}, {"battery": float("nan")}, {"battery": float("inf")}):
        assert tae(unknown) == tae({})


@pytest.fixture
async def expert(pair: LandedPair) -> AsyncIterator[Expert]:
    async with expert_before_a_script(pair) as made:
        yield made


async def test_context_goes_along_to_the_foundation_by_name(expert: Expert) -> None:
    asked: list[wire.TaeRequest] = []
    answer = expert.script["Tae"]

    async def noted(request: bytes, context: Any) -> bytes:
        asked.append(wire.TaeRequest.FromString(request))
        return await answer(request, context)

    expert.script["Tae"] = noted
    sent = {"user": 1, "candidates": CANDIDATES, "time": NOW, "context": {"battery": 3, "app": None, "device": "watch"}}
    response = await expert.http.post("/v1/rank", json=sent)
    assert response.json()["unknownContext"] == ["device"]
    assert response.json()["tae"] == "fresh"
    assert [(each.name, each.WhichOneof("value")) for each in asked[0].context] == [
        ("battery", "number"), ("device", "text"),
    ]  # fmt: skip
    assert (asked[0].context[0].number, asked[0].context[1].text) == (3.0, "watch")
    plain = await expert.rank()
    assert plain.json()["unknownContext"] == []
    assert not asked[1].context


async def test_a_feature_that_the_version_does_not_know_costs_no_call(expert: Expert) -> None:
    sent = {"user": 1, "candidates": CANDIDATES, "context": {"devise": "tv"}}
    response = await expert.http.post("/v1/rank", json=sent)
    assert response.status_code == 422
    assert response.json()["error"]["fields"] == [
        {
            "field": "context.devise", "problem": "this version knows no such feature",
            "allowed": "only device, battery, app",
        }
    ]  # fmt: skip
    assert expert.counted() == {}
