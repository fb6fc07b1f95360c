"""Stock clients of the Open Inference Protocol, unmodified, against a real pair: their scores are those of /v1/rank."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from recast_server.expert.schema import BODY_BYTES

PATIENT = {"x-envoy-expected-rq-timeout-ms": "30000"}
"""However slow the machine is, the foundation's answer is waited for."""
NOW = 1_767_225_600_000
KNOWN = [1000 + 7 * n for n in range(16)]


@pytest.fixture
def client(pair: Any) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{pair.expert.port}") as client:
        yield client


def tensor(name: str, values: list[Any], *, binary: bool = True) -> tritonclient.http.InferInput:
    array = np.array(values, np.int64)
    made = tritonclient.http.InferInput(name, list(array.shape), "INT64")
    return made.set_data_from_numpy(array, binary_data=binary)


def inputs(*, binary: bool = True, **changes: list[Any]) -> list[tritonclient.http.InferInput]:
    given = {"user": [3], "candidates": [KNOWN], "time": [NOW], **changes}
    return [tensor(name, values, binary=binary) for name, values in given.items()]


def ranked(pair: Any) -> dict[str, Any]:
    body = {"user": 3, "candidates": KNOWN, "time": NOW}
    response = httpx.post(f"{pair.expert.url}/v1/rank", json=body, headers=PATIENT, timeout=60)
    return {entry["item"]: entry for entry in response.json()["items"]}


def assert_as_ranked(pair: Any, result: tritonclient.http.InferResult) -> None:
    by_item = ranked(pair)
    scores, probabilities = result.as_numpy("scores"), result.as_numpy("probabilities")
    assert (scores.dtype, scores.shape, probabilities.shape) == (np.float32, (1, 16), (1, 16, 2))
    assert scores[0].std() > 1e-3  # or the comparison would say nothing
    assert scores[0] == pytest.approx([by_item[item]["score"] for item in KNOWN], abs=1e-5)
    for column, task in enumerate(("click", "like")):
        wanted = [by_item[item]["scores"][task] for item in KNOWN]
        assert probabilities[0, :, column] == pytest.approx(wanted, abs=1e-5)


def test_it_finds_the_model(pair: Any, client: tritonclient.http.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("reels")
    assert client.is_model_ready("reels", "1")
    assert not client.is_model_ready("reels", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("reels")
    assert metadata["properties"]["tasks"] == "click,like"
    assert metadata["outputs"][1]["shape"] == [1, -1, 2]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_its_scores_are_those_of_rank(
    pair: Any, client: tritonclient.http.InferenceServerClient, *, binary: bool
) -> None:
    before = pair.expert.metric("recast_requests_total", code="200")
    result = client.infer("reels", inputs(binary=binary), request_id="seven", model_version="1", headers=dict(PATIENT))
    assert result.get_response()["id"] == "seven"
    assert_as_ranked(pair, result)
    assert pair.expert.metric("recast_requests_total", code="200") == before + 2


def test_it_gets_the_outputs_that_it_asks_for(pair: Any, client: tritonclient.http.InferenceServerClient) -> None:
    outputs = [
        tritonclient.http.InferRequestedOutput("probabilities", binary_data=False),
        tritonclient.http.InferRequestedOutput("scores"),
    ]
    assert_as_ranked(pair, client.infer("reels", inputs(), outputs=outputs, headers=dict(PATIENT)))
    only = client.infer("reels", inputs(), outputs=outputs[1:], headers=dict(PATIENT))
    assert only.as_numpy("probabilities") is None


def test_it_may_compress_both_ways(client: tritonclient.http.InferenceServerClient) -> None:
    asked, gzip = inputs(candidates=[KNOWN * 40]), "gzip"
    plain = client.infer("reels", asked, headers=dict(PATIENT))
    compressed = {"request_compression_algorithm": gzip, "response_compression_algorithm": gzip}
    packed = client.infer("reels", asked, headers=dict(PATIENT), **compressed)
    for name in ("scores", "probabilities"):
        assert packed.as_numpy(name) == pytest.approx(plain.as_numpy(name), abs=1e-5)


def test_it_is_told_what_is_wrong(pair: Any, client: tritonclient.http.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"\[422\] InvalidRequest: candidates: the input is INT64 \[1\]"):
        client.infer("reels", inputs(candidates=[5]))
    with pytest.raises(InferenceServerException, match=r"\[404\] NotFound.*models/reels"):
        client.infer("feed", inputs())


def test_ten_megabytes_are_refused_and_not_kept(pair: Any) -> None:
    before = pair.expert.metric("process_resident_memory_bytes")
    for fill in (b"[", b"0", b"\0", b" ", b"\xff"):
        with socket.create_connection(("127.0.0.1", pair.expert.port), timeout=30) as connection:
            head = "POST /v2/models/reels/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n"
            connection.sendall(f"{head}inference-header-content-length: 9999999\r\n\r\n".encode())
            connection.sendall(fill * 10_000_000)
            assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    assert pair.expert.metric("process_resident_memory_bytes") - before < 16 * BODY_BYTES


def test_the_grpc_client_gets_the_same(pair: Any) -> None:
    program = Path(__file__).parent / "stock_grpc_client.py"
    arguments = [f"127.0.0.1:{pair.expert.grpc_port}", "reels", "3", str(NOW), *map(str, KNOWN)]
    before = pair.expert.metric("recast_requests_total", code="200")
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["live"], told["ready"], told["id"]) == (True, [True, True, False], "seven")
    assert told["server"]["name"] == "recast"
    assert [output["name"] for output in told["outputs"]] == ["scores", "probabilities"]
    by_item = ranked(pair)
    (scores,), (probabilities,) = told["scores"], told["probabilities"]
    assert scores == pytest.approx([by_item[item]["score"] for item in KNOWN], abs=1e-5)
    for column, task in enumerate(("click", "like")):
        wanted = [by_item[item]["scores"][task] for item in KNOWN]
        assert [row[column] for row in probabilities] == pytest.approx(wanted, abs=1e-5)
    assert told["only"][1]
    assert told["only"][0][0] == pytest.approx(scores, abs=1e-5)
    (shape_code, shape_words), (model_code, model_words) = told["refused"]
    assert (shape_code, model_code) == ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")
    assert "candidates: the input is INT64 [16] (allowed: INT64 [1, -1]" in shape_words
    assert "reels, version 1" in model_words
    assert pair.expert.metric("recast_requests_total", code="200") == before + 3
