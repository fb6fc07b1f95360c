"""A foundation and its expert, as real processes: what they answer is what the networks say."""

from __future__ import annotations

import json
import socket
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from server_processes import until

from recast_model.artifact import load_expert, load_foundation
from recast_model.batch import RequestBatch
from recast_model.features import Request, collate
from recast_model.history import History
from recast_model.inference import embed, score
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.columns import pack_ids
from recast_server.proto.foundation_pb2_grpc import FoundationStub

NOW = 1_767_225_600_000
KNOWN = [1000 + 7 * n for n in range(16)]
HEADERS = ("x-recast-revision", "x-recast-version", "x-recast-tae", "x-request-id")
HISTORY = [
    {"item": 1007, "surface": "reels", "time": NOW - 5000, "actions": ["like"]},
    {"item": 1000, "surface": "feed", "time": NOW - 9000, "actions": ["click", "like"]},
    {"item": 1014, "surface": "reels", "time": NOW + 9000, "actions": ["click"]},
    {"item": 1014, "surface": "shop", "time": NOW - 9000, "actions": ["buy"]},
]


def rank(pair: Any, **request: Any) -> httpx.Response:
    return httpx.post(f"{pair.expert.url}/v1/rank", json={"user": 3, "candidates": KNOWN, "time": NOW, **request})


def expected(pair: Any, request: Request, *, fresh: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """TAE (M, D) float16 and probabilities (M, T) straight from the networks."""
    world = pair.world
    foundation = load_foundation(world.foundation.folder, world.foundation.manifest).model
    expert = load_expert(world.expert.folder, world.expert.manifest).model
    tae = embed(foundation, RequestBatch.from_arrays(collate([request], foundation.config.history_length)))
    batch = RequestBatch.from_arrays(collate([request], expert.config.history_length, surface_only=True))
    return tae[0], torch.sigmoid(score(expert, batch, tae, torch.tensor([fresh])))[0]


def stored(pair: Any, user: int, candidates: list[int]) -> Request:
    loaded = load_foundation(pair.world.foundation.folder, pair.world.foundation.manifest)
    dense = loaded.items.index(np.array(candidates, np.int64))
    return Request(user, 1, NOW, dense, loaded.history.lookup(user))


def assert_same(body: dict[str, Any], candidates: list[int], probabilities: torch.Tensor) -> None:
    by_item = {entry["item"]: entry for entry in body["items"]}
    for row, item in enumerate(candidates):
        click, like = probabilities[row].tolist()
        assert by_item[item]["scores"]["click"] == pytest.approx(click, abs=1e-5)
        assert by_item[item]["scores"]["like"] == pytest.approx(like, abs=1e-5)
        assert by_item[item]["score"] == pytest.approx(click + 0.5 * like, abs=2e-5)
    scores = [entry["score"] for entry in body["items"]]
    assert scores == sorted(scores, reverse=True)


def test_scores_over_the_wire_are_those_of_the_networks(pair: Any) -> None:
    body = rank(pair).json()
    assert (body["tae"], body["unknownItems"]) == ("fresh", [])
    _, probabilities = expected(pair, stored(pair, 3, KNOWN))
    assert float(probabilities.std()) > 1e-3  # or the comparison would say nothing
    assert_same(body, KNOWN, probabilities)


def test_embeddings_over_the_wire_are_those_of_the_log_pass_to_the_last_place(pair: Any) -> None:
    tae, _ = expected(pair, stored(pair, 3, KNOWN))
    with grpc.insecure_channel(f"127.0.0.1:{pair.foundation.port}") as channel:
        request = wire.TaeRequest(user=3, surface="reels", time_milliseconds=NOW, candidate_ids=pack_ids(KNOWN))
        reply = FoundationStub(channel).Tae(request, timeout=10)
    assert (reply.rows, reply.dim, reply.scheme) == (16, 16, wire.FLOAT16)
    served = np.frombuffer(reply.data, np.float16).reshape(16, 16)
    np.testing.assert_allclose(served, tae.numpy(), rtol=2**-10, atol=2**-13)
    assert (served == tae.numpy()).mean() > 0.97
    assert reply.version.digest == pair.world.foundation.manifest.digest
    assert reply.cursor_milliseconds == NOW, "what the version has learned, by its watermark"


def test_an_inline_history_stands_in_for_the_stored_one_without_its_future_and_its_strangers(pair: Any) -> None:
    body = rank(pair, history=HISTORY).json()
    times = np.array([NOW - 9000, NOW - 5000])
    events = History(np.array([1, 2]), np.array([0, 1]), np.array([0b11, 0b10]), times, times)
    _, probabilities = expected(pair, Request(3, 1, NOW, stored(pair, 3, KNOWN).candidates, events))
    assert_same(body, KNOWN, probabilities)


def test_an_unknown_user_is_scored_with_an_empty_history(pair: Any) -> None:
    response = rank(pair, user=2**62)
    assert response.status_code == 200
    _, probabilities = expected(pair, Request(2**62, 1, NOW, stored(pair, 3, KNOWN).candidates, History.empty()))
    assert_same(response.json(), KNOWN, probabilities)


def test_unknown_items_are_scored_by_the_unknown_row_and_listed(pair: Any) -> None:
    body = rank(pair, candidates=[1000, 5, 1007, 6, 5]).json()
    assert body["unknownItems"] == [5, 6]
    assert len({entry["score"] for entry in body["items"] if entry["item"] in (5, 6)}) == 1
    assert len(body["items"]) == 5


def test_other_candidates_change_no_score(pair: Any) -> None:
    alone = rank(pair, candidates=[1000]).json()["items"][0]["score"]
    among = next(entry["score"] for entry in rank(pair).json()["items"] if entry["item"] == 1000)
    assert alone == pytest.approx(among, abs=1e-5)


def test_the_largest_request_is_answered(pair: Any) -> None:
    body = rank(pair, candidates=list(range(2048)), limit=10).json()
    assert len(body["items"]) == 10


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nhost: x\r\nbig: " + b"a" * 70_000 + b"\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
    ],
    ids=["TLS", "endless header", "path that is no text", "length that is no number"],
)
def test_bytes_that_are_no_request_get_400_with_all_headers(pair: Any, raw: bytes) -> None:
    before = pair.expert.metric("recast_other_requests_total", code="400")
    with socket.create_connection(("127.0.0.1", pair.expert.port), timeout=30) as connection:
        connection.sendall(raw)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert all(name.encode() in head for name in HEADERS)
    assert json.loads(body)["error"]["reason"] == "InvalidHttp"
    assert pair.expert.metric("recast_other_requests_total", code="400") == before + 1


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary(max_size=64)
    | st.fixed_dictionaries(
        {"user": values, "candidates": st.lists(st.integers(0, 2**63), min_size=1, max_size=4) | values},
        optional={"time": values, "limit": values, "history": values, "other": values},
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_makes_a_500(pair: Any, body: bytes) -> None:
    response = httpx.post(f"{pair.expert.url}/v1/rank", content=body)
    assert response.status_code in (200, 400, 422)
    assert all(name in response.headers for name in HEADERS)


def test_both_admin_ports_tell_health_and_figures(pair: Any) -> None:
    for process in (pair.foundation, pair.expert):
        for probe in ("startup", "ready", "live"):
            assert httpx.get(f"{process.admin}/healthz/{probe}").status_code == 200
    before = pair.expert.metric("recast_requests_total", code="200")
    fresh = pair.expert.metric("recast_tae_total", state="fresh")
    rank(pair)
    assert pair.expert.metric("recast_requests_total", code="200") == before + 1
    assert pair.expert.metric("recast_tae_total", state="fresh") == fresh + 1
    assert pair.expert.metric("recast_requests_total", code="503") == 0
    assert pair.expert.metric("recast_request_duration_seconds_bucket", le="0.2") > 0
    assert pair.foundation.metric("recast_foundation_requests_total", code="OK") > 0


def test_the_log_holds_request_ids_and_no_bodies(pair: Any) -> None:
    response = rank(pair, user=987654321)
    until(lambda: response.headers["x-request-id"] in pair.expert.text)  # a log that no request waits for
    assert "987654321" not in pair.expert.text + pair.foundation.text
