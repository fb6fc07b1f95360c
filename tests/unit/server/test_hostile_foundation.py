"""What an expert answers while its foundation lies, errs, stalls or sends nonsense: always scores, never nonsense.

The foundation is a gRPC server in this process (:mod:`hostile_foundation`).
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hostile_foundation import CANDIDATES, PIN, Answer, Expert, code, expert_before_a_script, filled, raw, reply, silent
from real_edge import until
from server_builders import NOW, TAE_DIM, LandedPair, a_context, land_pair

from recast_server.expert import replicas
from recast_server.expert.handshake import handshake
from recast_server.expert.model_ranker import Embedded
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.schema import RankRequest
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.inputs import Query

F16, F32 = np.float16, np.float32
DESCRIBED = raw(
    wire.Description(
        version=wire.Version(model=PIN.name, number=PIN.version, lineage=PIN.lineage, digest=PIN.digest), dim=TAE_DIM
    ).SerializeToString()
)
QUERY = Query(1, "reels", NOW, CANDIDATES)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
async def expert(pair: LandedPair) -> AsyncIterator[Expert]:
    async with expert_before_a_script(pair) as made:
        yield made


def scores(response: httpx.Response) -> dict[int, float]:
    assert response.status_code == 200
    return {entry["item"]: entry["score"] for entry in response.json()["items"]}


async def test_the_right_answer_is_used_and_counted_once(expert: Expert) -> None:
    response = await expert.rank()
    assert response.json()["tae"] == response.headers["x-recast-tae"] == "fresh"
    assert expert.counted() == {"OK": 1}
    expert.script["Tae"] = code(grpc.StatusCode.UNAVAILABLE)
    assert scores(await expert.rank()) != scores(response)


async def test_a_later_version_of_the_pinned_lineage_is_the_pair_too(expert: Expert) -> None:
    expert.script["Tae"] = reply(version=wire.Version(model="home-fm", number=4, lineage=3, digest="sha256:of v4"))
    assert (await expert.rank()).json()["tae"] == "fresh"
    expert.script["Tae"] = reply(version=wire.Version(model="home-fm", number=2, lineage=3, digest=PIN.digest))
    assert (await expert.rank()).json()["tae"] == "absent"


WRONG: dict[str, tuple[Answer, str]] = {
    "a row too few": (reply(rows=2, data=bytes(2 * TAE_DIM * 2)), "INTERNAL"),
    "a row too many": (reply(rows=4, data=bytes(4 * TAE_DIM * 2)), "INTERNAL"),
    "no rows": (reply(rows=0, data=b""), "INTERNAL"),
    "rows of another width": (reply(dim=2 * TAE_DIM, data=bytes(3 * 2 * TAE_DIM * 2)), "INTERNAL"),
    "rows without width": (reply(dim=0, data=b""), "INTERNAL"),
    "a width that its bytes are not": (reply(dim=TAE_DIM // 2), "INTERNAL"),
    "rows and width exchanged": (reply(rows=TAE_DIM, dim=3), "INTERNAL"),
    "a negative shape": (reply(rows=-3, dim=-TAE_DIM), "INTERNAL"),
    "a byte too few": (reply(data=bytes(3 * TAE_DIM * 2 - 1)), "INTERNAL"),
    "a byte too many": (reply(data=bytes(3 * TAE_DIM * 2 + 1)), "INTERNAL"),
    "no bytes": (reply(data=b""), "INTERNAL"),
    "no scheme": (reply(scheme=0), "INTERNAL"),
    "a scheme from the future": (reply(scheme=17), "INTERNAL"),
    "bytes of another scheme": (reply(scheme=wire.FLOAT32), "INTERNAL"),
    "half NaN": (reply(data=filled(np.nan, F16)), "INTERNAL"),
    "half infinity": (reply(data=filled(np.inf, F16)), "INTERNAL"),
    "half negative infinity": (reply(data=filled(-np.inf, F16)), "INTERNAL"),
    "single NaN": (reply(data=filled(np.nan, F32), scheme=wire.FLOAT32), "INTERNAL"),
    "single infinity": (reply(data=filled(np.inf, F32), scheme=wire.FLOAT32), "INTERNAL"),
    "another digest": (reply(version=wire.Version(model="home-fm", number=3, lineage=3)), "PAIR_MISMATCH"),
    "another lineage": (
        reply(version=wire.Version(model="home-fm", number=3, lineage=4, digest=PIN.digest)), "PAIR_MISMATCH"
    ),
    "another model": (reply(version=wire.Version(model="fm", number=3, lineage=3, digest=PIN.digest)), "PAIR_MISMATCH"),
    "no version": (reply(version=None), "PAIR_MISMATCH"),
    "an empty message": (raw(b""), "PAIR_MISMATCH"),
    "bytes that are no message": (raw(b"\xff\xff garbage"), "INTERNAL"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_an_answer_that_is_not_what_was_asked_for_is_never_ranked_by(expert: Expert, name: str) -> None:
    expert.script["Tae"] = code(grpc.StatusCode.UNAVAILABLE)
    without = scores(await expert.rank())
    expert.script["Tae"], counted = WRONG[name]
    response = await expert.rank()
    assert scores(response) == without
    assert response.json()["tae"] == response.headers["x-recast-tae"] == "absent"
    assert expert.counted() == {"UNAVAILABLE": 1, counted: 1}
    assert expert.registry.get_sample_value("recast_tae_total", {"state": "absent"}) == 2


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK], ids=lambda s: s.name)
async def test_every_code_is_an_answer_without_embeddings_and_counted_by_its_name(
    expert: Expert, status: grpc.StatusCode
) -> None:
    expert.script["Tae"] = code(status)
    response = await expert.rank()
    assert response.json()["tae"] == "absent"
    assert len(scores(response)) == len(CANDIDATES)
    assert expert.counted() == {status.name: 1}
    with pytest.raises(TaeUnavailableError, match="scripted") as raised:
        await expert.client.tae(QUERY, a_context(), 30.0)
    assert raised.value.code == status.name


async def test_a_foundation_that_never_answers_costs_no_more_than_the_deadline(
    expert: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert.script["Tae"] = silent
    monkeypatch.setattr(expert.client, "_deadline_seconds", 0.05)
    response = await asyncio.wait_for(expert.rank(), 30)
    assert response.json()["tae"] == "absent"
    assert expert.counted() == {"DEADLINE_EXCEEDED": 1}


async def test_a_call_whose_caller_gave_up_is_counted_as_cancelled(expert: Expert) -> None:
    begun = asyncio.Event()

    async def begins(request: bytes, context: Any) -> bytes:
        begun.set()
        return await silent(request, context)

    expert.script["Tae"] = begins
    call = asyncio.create_task(expert.client.tae(QUERY, a_context(), 30.0))
    await asyncio.wait_for(begun.wait(), 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert expert.counted() == {"CANCELLED": 1}


async def test_an_answer_beyond_the_limit_of_bytes_is_not_read(pair: LandedPair, expert: Expert) -> None:
    size = replicas.REPLY_BYTES
    assert size >= 2048 * 4096 * 4  # the most candidates, the widest embedding, float32
    expert.script["Tae"] = raw(bytes(size + 1))
    assert (await expert.rank()).json()["tae"] == "absent"
    assert expert.counted() == {"RESOURCE_EXHAUSTED": 1}


@pytest.mark.filterwarnings("error")
async def test_finite_embeddings_on_which_the_network_overflows_are_treated_as_absent(expert: Expert) -> None:
    expert.script["Tae"] = code(grpc.StatusCode.UNAVAILABLE)
    without = scores(await expert.rank())
    huge = np.full((len(CANDIDATES), TAE_DIM), 3e38, np.float32)
    huge[:, ::2] *= -1
    (overflown,) = expert.engine._rank([Embedded(QUERY, huge)])
    assert not overflown.finite
    expert.script["Tae"] = reply(data=huge.tobytes(), scheme=wire.FLOAT32)
    response = await expert.rank()
    assert scores(response) == without
    assert response.json()["tae"] == "absent"


async def test_an_expert_whose_own_scores_are_not_finite_answers_500_and_ranks_nothing(
    expert: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert.engine, "_weights", np.array([np.nan, 1.0]))
    with pytest.raises(ArithmeticError, match="the expert's scores are not finite"):
        await expert.ranker.rank(RankRequest(user=1, candidates=CANDIDATES), a_context())
    response = await expert.rank()
    assert response.status_code == 500
    assert response.json()["error"]["reason"] == "Internal"
    assert expert.registry.get_sample_value("recast_tae_total", {"state": "fresh"}) == 0


@pytest.mark.parametrize("nonsense", [raw(b"\xff\xff garbage"), code(grpc.StatusCode.PERMISSION_DENIED)])
async def test_a_foundation_that_cannot_say_what_it_is_leaves_the_expert_degraded_but_alive(
    expert: Expert, nonsense: Answer
) -> None:
    expert.script["Describe"] = nonsense
    assert not await handshake(expert.client, PIN, TAE_DIM, patience_seconds=0.3)


async def test_the_handshake_asks_again_until_the_foundation_is_there(expert: Expert) -> None:
    asked: list[int] = []

    async def comes_up(request: bytes, context: Any) -> bytes:
        asked.append(1)
        return await (DESCRIBED if len(asked) > 1 else code(grpc.StatusCode.UNAVAILABLE))(request, context)

    expert.script["Describe"] = comes_up
    assert await handshake(expert.client, PIN, TAE_DIM)
    assert len(asked) == 2


async def test_a_request_is_embedded_and_scored_as_of_its_own_time_or_else_of_now(
    expert: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    good = reply()

    async def noted(request: bytes, context: Any) -> bytes:
        asked.append(wire.TaeRequest.FromString(request).time_milliseconds)
        return await good(request, context)

    expert.script["Tae"] = noted
    scored: list[int] = []
    run = expert.engine.run
    monkeypatch.setattr(
        expert.engine, "run", lambda asked: (scored.extend(one.query.time_ms for one in asked), run(asked))[1]
    )
    before = time.time_ns() // 1_000_000
    await expert.rank()
    await expert.http.post("/v1/rank", json={"user": 1, "candidates": CANDIDATES})
    assert asked == scored
    assert asked[0] == NOW
    assert before <= asked[1] <= time.time_ns() // 1_000_000


async def test_the_mismatch_is_logged_once_per_version_and_not_once_per_request(
    expert: Expert, caplog: pytest.LogCaptureFixture
) -> None:
    expert.script["Describe"] = DESCRIBED
    used = functools.partial(expert.registry.get_sample_value, "recast_foundation_replicas", {"state": "used"})
    for digest in ("sha256:" + "cd" * 32, "sha256:" + "ef" * 32):
        version = wire.Version(model="home-fm", number=4, lineage=4, digest=digest)
        expert.script["Tae"] = reply(version=version)
        for _ in range(2):
            await expert.rank()
            await until(lambda: used() == 1)  # it is ejected, and says to a probe that it is the pair's
    told = [record.message for record in caplog.records if record.name == "recast.tae"]
    assert len(told) == 2
    assert PIN.digest in told[0]
    assert "cd" * 32 in told[0]
    assert expert.counted() == {"PAIR_MISMATCH": 4}
