"""gzip on both ways: what clients ask for, and what hostile ones send."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_server.expert.compression import ENOUGH_BYTES, deflated, inflated
from recast_server.expert.schema import BODY_BYTES, RefusedError

GOOD = json.dumps({"user": 1, "candidates": [5, 9, 7]}).encode()
LONG = json.dumps({"user": 1, "candidates": list(range(100))}).encode()
INFER = json.dumps(
    {
        "inputs": [
            {"name": "user", "datatype": "INT64", "shape": [1], "data": [1]},
            {"name": "candidates", "datatype": "INT64", "shape": [1, 3], "parameters": {"binary_data_size": 24}},
        ]
    }
).encode()


async def test_a_body_in_gzip_is_read(served: Any) -> None:
    response = await served.client.post(
        "/v1/rank", content=gzip.compress(GOOD, mtime=0), headers={"content-encoding": "gzip"}
    )
    assert response.status_code == 200
    assert served.ranker.seen[0].candidates == [5, 9, 7]


async def test_binary_tensors_in_gzip_are_read(served: Any) -> None:
    body = gzip.compress(INFER + b"\5\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0", mtime=0)
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(INFER))}
    assert (await served.client.post("/v2/models/reels/infer", content=body, headers=headers)).status_code == 200
    assert served.ranker.seen[0].candidates == [5, 9, 7]


@pytest.mark.parametrize(
    ("body", "encoding", "status", "reason"),
    [
        (GOOD, "br", 415, "UnsupportedEncoding"),
        (GOOD, "gzip, gzip", 415, "UnsupportedEncoding"),
        (zlib.compress(GOOD), "deflate", 415, "UnsupportedEncoding"),
        (GOOD, "gzip", 400, "InvalidEncoding"),
        (zlib.compress(GOOD), "gzip", 400, "InvalidEncoding"),
        (gzip.compress(GOOD, mtime=0)[:-1], "gzip", 400, "InvalidEncoding"),
        (gzip.compress(GOOD, mtime=0) + b"more", "gzip", 400, "InvalidEncoding"),
        (b"", "gzip", 400, "InvalidEncoding"),
        (gzip.compress(b" " * (BODY_BYTES + 1), mtime=0), "gzip", 413, "BodyTooLarge"),
        (gzip.compress(b"{", mtime=0), "gzip", 400, "InvalidJson"),
    ],
)
async def test_what_cannot_be_inflated_is_refused_with_a_reason(
    served: Any, body: bytes, encoding: str, status: int, reason: str
) -> None:
    response = await served.client.post("/v1/rank", content=body, headers={"content-encoding": encoding})
    assert (response.status_code, response.json()["error"]["reason"]) == (status, reason)
    assert served.count(str(status)) == 1


def test_a_bomb_is_inflated_no_further_than_a_body_may_be_long() -> None:
    bomb = gzip.compress(bytes(200 * 2**20))
    assert len(bomb) < BODY_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="inflated"):
            inflated(bomb, "gzip")
        assert tracemalloc.get_traced_memory()[1] < 4 * BODY_BYTES
    finally:
        tracemalloc.stop()


def test_a_body_of_exactly_the_limit_is_inflated() -> None:
    assert len(inflated(gzip.compress(b" " * BODY_BYTES, mtime=0), "gzip")) == BODY_BYTES


@pytest.mark.parametrize("accepted", ["gzip", "deflate, gzip;q=0.5", "GZIP", "br;q=1.0, gzip;q=0.001"])
async def test_a_long_answer_is_short_for_who_asks_for_it(served: Any, accepted: str) -> None:
    plain = await served.client.post("/v1/rank", content=LONG, headers={"accept-encoding": "identity"})
    short = await served.client.post("/v1/rank", content=LONG, headers={"accept-encoding": accepted})
    assert "content-encoding" not in plain.headers
    assert (short.headers["content-encoding"], short.headers["vary"]) == ("gzip", "accept-encoding")
    assert int(short.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert short.json()["items"] == plain.json()["items"]


@pytest.mark.parametrize("accepted", [None, "", "identity", "br", "gzip;q=0", "gzip; q=0.0", "gzipped"])
def test_who_does_not_ask_gets_it_as_it_is(accepted: str | None) -> None:
    assert deflated(b" " * ENOUGH_BYTES, accepted) is None


def test_a_short_answer_and_one_that_gains_nothing_stay_as_they_are() -> None:
    assert deflated(b" " * (ENOUGH_BYTES - 1), "gzip") is None
    assert deflated(random.Random(0).randbytes(2 * ENOUGH_BYTES), "gzip") is None
    assert deflated(b" " * ENOUGH_BYTES, "gzip") is not None


@given(body=st.binary(max_size=60) | st.binary(max_size=60).map(gzip.compress), cut=st.integers(0, 80))
def test_whatever_is_said_to_be_gzip_is_a_body_or_a_refusal(body: bytes, cut: int) -> None:
    try:
        whole = inflated(body[:cut], "gzip")
    except RefusedError as error:
        refusal = error
    else:
        assert len(whole) <= 60
        return
    assert refusal.status == 400
