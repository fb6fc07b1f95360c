"""The Open Inference Protocol over REST: what goes in as tensors, what comes out, and what is refused in words."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recast_server.expert.schema import BODY_BYTES
from recast_server.runtime.health import Phase
from recast_server.runtime.scheduler import OverloadedError

INFER = "/v2/models/reels/infer"
LENGTH = "inference-header-content-length"
USER: dict[str, Any] = {"name": "user", "datatype": "INT64", "shape": [1], "data": [1]}
CANDIDATES: dict[str, Any] = {"name": "candidates", "datatype": "INT64", "shape": [1, 3], "data": [5, 9, 7]}
GOOD = {"inputs": [USER, CANDIDATES]}


def with_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [USER, {**CANDIDATES, **changes}]}


def and_input(name: str, datatype: str, data: list[Any], shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"inputs": [USER, CANDIDATES, {"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def binary(tensor: dict[str, Any], data: bytes) -> dict[str, Any]:
    declared = {key: value for key, value in tensor.items() if key != "data"}
    return {**declared, "parameters": {"binary_data_size": len(data)}}


async def infer(served: Any, body: object, tail: bytes | None = None, path: str = INFER) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {} if tail is None else {LENGTH: str(len(content))}
    response: httpx.Response = await served.client.post(path, content=content + (tail or b""), headers=headers)
    assert "x-request-id" in response.headers
    return response


async def test_scores_come_in_the_order_asked_with_the_model_that_gave_them(served: Any) -> None:
    response = await infer(served, {**GOOD, "id": "seven"})
    assert response.status_code == 200
    assert response.json() == {
        "model_name": "reels",
        "model_version": "7",
        "id": "seven",
        "parameters": {"tae": "fresh", "unknown_items": 0},
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [5.0, 9.0, 7.0]},
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 3, 1], "data": [5.0, 9.0, 7.0],
             "parameters": {"tasks": "click"}},
        ],
    }  # fmt: skip
    assert response.headers["x-recast-tae"] == "fresh"
    assert served.count("200") == 1


async def test_every_input_reaches_the_ranker(served: Any) -> None:
    context = [
        {"name": "context.device", "datatype": "BYTES", "shape": [1], "data": ["phone"]},
        {"name": "context.battery", "datatype": "FP64", "shape": [1], "data": [0.5]},
        {"name": "time", "datatype": "INT64", "shape": [1], "data": [1700000000000]},
    ]
    assert (await infer(served, {"inputs": [*context, CANDIDATES, USER]})).status_code == 200
    (asked,) = served.ranker.seen
    assert (asked.user, asked.candidates, asked.time) == (1, [5, 9, 7], 1700000000000)
    assert asked.context == {"device": "phone", "battery": 0.5}


@pytest.mark.parametrize("data", [[5, 9, 7], [[5, 9, 7]]], ids=["flat", "nested"])
async def test_data_may_be_nested_as_its_shape(served: Any, data: list[Any]) -> None:
    assert (await infer(served, with_input(data=data))).status_code == 200
    assert served.ranker.seen[0].candidates == [5, 9, 7]


async def test_binary_inputs_follow_the_json_in_their_order(served: Any) -> None:
    device = {"name": "context.device", "datatype": "BYTES", "shape": [1]}
    text, items = struct.pack("<I", 5) + b"phone", np.array([5, 9, 7], "<i8").tobytes()
    body = {"inputs": [USER, binary(device, text), binary(CANDIDATES, items)]}
    assert (await infer(served, body, text + items)).status_code == 200
    (asked,) = served.ranker.seen
    assert (asked.user, asked.candidates, asked.context) == (1, [5, 9, 7], {"device": "phone"})


async def test_outputs_are_binary_where_that_is_asked_for(served: Any) -> None:
    outputs = [{"name": "probabilities"}, {"name": "scores", "parameters": {"binary_data": False}}]
    response = await infer(served, {**GOOD, "outputs": outputs, "parameters": {"binary_data_output": True}})
    head = json.loads(response.content[: int(response.headers[LENGTH])])
    probabilities, scores = head["outputs"]
    assert probabilities["parameters"] == {"tasks": "click", "binary_data_size": 12}
    assert "data" not in probabilities
    assert scores["data"] == [5.0, 9.0, 7.0]
    tail = response.content[int(response.headers[LENGTH]) :]
    assert np.frombuffer(tail, "<f4").tolist() == [5.0, 9.0, 7.0]


async def test_only_the_outputs_asked_for_come(served: Any) -> None:
    response = await infer(served, {**GOOD, "outputs": [{"name": "scores"}]})
    assert [output["name"] for output in response.json()["outputs"]] == ["scores"]


REFUSED = [
    (b"", 400, "InvalidJson"),
    (b"[" * 100_000, 400, "InvalidJson"),
    (b"[]", 422, "inputs"),
    ({}, 422, "inputs"),
    ({"inputs": []}, 422, "inputs"),
    ({"inputs": [USER]}, 422, "candidates: the input is missing (allowed: INT64 [1, -1]"),
    ({"inputs": [CANDIDATES]}, 422, "user: the input is missing (allowed: INT64 [1])"),
    ({"inputs": [USER, USER, CANDIDATES]}, 422, "twice"),
    (with_input(datatype="INT32"), 422, "candidates: the input is INT32 [1, 3] (allowed: INT64 [1, -1]"),
    (with_input(shape=[3]), 422, "candidates: the input is INT64 [3]"),
    (with_input(shape=[2, 3]), 422, "INT64 [2, 3]"),
    (with_input(shape=[1, 0], data=[]), 422, "INT64 [1, 0]"),
    (with_input(shape=[1, -1]), 422, "INT64 [1, -1]"),
    (with_input(shape=[1, 10**12]), 422, "1000000000000 items"),
    (with_input(shape=[1, 2]), 422, "3 values where its shape needs 2"),
    (with_input(data=[[5, 9], [7]]), 422, "nested"),
    (with_input(data=[5, 9, "7"]), 422, "INT64"),
    (with_input(data=[5, 9, True]), 422, "INT64"),
    (with_input(data=[5, 9, 1.5]), 422, "INT64"),
    (with_input(data=[5, 9, -1]), 422, "candidates.2"),
    (with_input(data=[5, 9, 2**63]), 422, "INT64"),
    (with_input(data=[5, 9, 10**4000]), 422, "INT64"),
    (with_input(data=None), 422, "neither data nor binary_data_size"),
    (and_input("limit", "INT64", [1]), 422, "limit: this version knows no such input"),
    (and_input("context.height", "FP64", [1.0]), 422, "context.height"),
    (and_input("context.device", "FP64", [1.0]), 422, "BYTES [1]"),
    (and_input("context.battery", "FP64", [float("nan")]), 422, "context"),
    (and_input("context.battery", "FP64", [10**400]), 422, "context"),
    (and_input("context.device", "BYTES", ["x" * 201]), 422, "context"),
    (and_input("time", "INT64", [-1]), 422, "time"),
    ({**GOOD, "outputs": [{"name": "embedding"}]}, 422, "embedding"),
    ({**GOOD, "outputs": [{"name": "scores"}, {"name": "scores"}]}, 422, "twice"),
    ({**GOOD, "outputs": [{"name": "scores", "parameters": {"classification": 3}}]}, 422, "classification"),
    ({**GOOD, "outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}, 422, "binary_data"),
    ({**GOOD, "parameters": {"binary_data_output": "yes"}}, 422, "binary_data_output"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED, ids=range(len(REFUSED)))
async def test_what_is_not_as_the_metadata_says_is_refused_in_words(
    served: Any, body: object, status: int, words: str
) -> None:
    response = await infer(served, body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert words in response.json()["error"]
    assert served.count(str(status)) == 1
    assert served.ranker.seen == []


WRONG_BINARY = [
    ({LENGTH: "-1"}, 0, b"", LENGTH),
    ({LENGTH: "1e3"}, 0, b"", LENGTH),
    ({LENGTH: "9" * 30}, 0, b"", LENGTH),
    ({LENGTH: "999999999"}, 0, b"", LENGTH),
    ({}, 24, b"\0" * 23, "binary_data_size"),
    ({}, 24, b"\0" * 25, "1 bytes after the JSON belong to no input"),
    ({}, 16, b"\0" * 16, "16 bytes where its shape needs 24"),
    ({}, -8, b"", "binary_data_size"),
    ({}, 2**70, b"", "binary_data_size"),
    ({}, True, b"\0", "binary_data_size"),
    ({}, "24", b"\0" * 24, "binary_data_size"),
]


@pytest.mark.parametrize(("headers", "size", "tail", "words"), WRONG_BINARY, ids=range(len(WRONG_BINARY)))
async def test_lengths_that_do_not_add_up_are_refused(
    served: Any, headers: dict[str, str], size: Any, tail: bytes, words: str
) -> None:
    body = json.dumps(
        {"inputs": [USER, {**binary(CANDIDATES, b""), "parameters": {"binary_data_size": size}}]}
    ).encode()
    headers = headers or {LENGTH: str(len(body))}
    response = await served.client.post(INFER, content=body + tail, headers=headers)
    assert response.status_code == 422
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "ends before"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
        (b"\x01\0\0\0\xff", "UTF-8"),
        (b"\x01\0\0\0ab", "1 bytes after its 1 texts"),
    ],
)
async def test_a_text_that_lies_about_its_length_is_refused(served: Any, text: bytes, words: str) -> None:
    device = binary({"name": "context.device", "datatype": "BYTES", "shape": [1]}, text)
    response = await infer(served, {"inputs": [USER, CANDIDATES, device]}, text)
    assert response.status_code == 422
    assert words in response.json()["error"]


async def test_a_body_beyond_the_limit_is_refused(served: Any) -> None:
    response = await infer(served, b"{" + b" " * BODY_BYTES)
    assert response.status_code == 413
    assert "BodyTooLarge" in response.json()["error"]


async def test_metadata_names_inputs_outputs_and_tasks(served: Any) -> None:
    for path in ("/v2/models/reels", "/v2/models/reels/versions/7"):
        body = (await served.client.get(path)).json()
        assert (body["name"], body["versions"]) == ("reels", ["7"])
        assert [(i["name"], i["datatype"], i["shape"]) for i in body["inputs"]] == [
            ("user", "INT64", [1]), ("candidates", "INT64", [1, -1]), ("time", "INT64", [1]),
            ("context.device", "BYTES", [1]), ("context.battery", "FP64", [1]),
        ]  # fmt: skip
        assert [(o["name"], o["datatype"], o["shape"]) for o in body["outputs"]] == [
            ("scores", "FP32", [1, -1]), ("probabilities", "FP32", [1, -1, 1]),
        ]  # fmt: skip
        assert body["properties"]["tasks"] == "click"
    server = (await served.client.get("/v2")).json()
    assert (server["name"], server["extensions"]) == ("recast", ["binary_tensor_data"])


async def test_readiness_is_the_servers_and_liveness_stays_while_it_drains(served: Any) -> None:
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/reels/ready", "/v2/models/reels/versions/7/ready")
    assert [(await served.client.get(path)).status_code for path in paths] == [200] * 4
    served.health.phase = Phase.DRAINING
    assert [(await served.client.get(path)).status_code for path in paths] == [200, 503, 503, 503]
    assert served.count("200") == 0  # no verdict rests on them


@pytest.mark.parametrize("path", ["/v2/models/feed", "/v2/models/reels/versions/8", "/v2/repository/index", "/v2/"])
async def test_another_model_or_version_is_not_here_and_the_answer_says_what_is(served: Any, path: str) -> None:
    response = await served.client.get(path)
    assert response.status_code == 404
    assert "GET /v2/models/reels/versions/7" in response.json()["error"]
    assert "/v1/" not in response.json()["error"]


@pytest.mark.parametrize(
    ("failure", "status", "reason"), [(OverloadedError("full"), 503, "Overloaded"), (KeyError("x"), 500, "Internal")]
)
async def test_a_failing_ranker_is_told_in_the_protocols_form(
    served: Any, failure: Exception, status: int, reason: str
) -> None:
    served.ranker.failure = failure
    response = await infer(served, GOOD)
    assert response.status_code == status
    assert response.json()["error"].startswith(f"{reason}: ")
    assert served.count(str(status)) == 1


@pytest.mark.parametrize("form", [{}, {"parameters": {"binary_data_output": True}}], ids=["JSON", "binary"])
async def test_a_score_that_is_not_a_number_is_no_answer(served: Any, form: dict[str, Any]) -> None:
    served.ranker.scores = [0.5, float("nan"), 0.1]
    assert (await infer(served, {**GOOD, **form})).status_code == 500


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
sizes = st.integers(-1, 40) | st.sampled_from([2**31, 2**63, 2**80]) | values
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["user", "candidates", "time", "context.device", "context.battery"]) | values,
        "datatype": st.sampled_from(["INT64", "FP64", "BYTES", "FP32"]) | values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | st.just([1, 2**62]) | values,
    },
    optional={
        "data": st.lists(st.integers() | values, max_size=4) | values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": sizes}) | values,
    },
)
outputs = st.fixed_dictionaries({"name": st.just("scores") | values}, optional={"parameters": values})
requests = st.fixed_dictionaries(
    {"inputs": st.lists(st.sampled_from([USER, CANDIDATES]) | tensors, max_size=4) | values},
    optional={
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.just("scores") | values}, optional={"parameters": values})
        )
        | values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": st.booleans() | values}) | values,
        "id": st.text(max_size=8) | values,
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=requests.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
    tail=st.binary(max_size=40),
    length=st.none() | st.integers(-3, 300) | st.sampled_from(["", "x", "0x10", "1" * 40, "１"]),
    exact=st.booleans(),
)
async def test_no_body_and_no_header_makes_a_500(
    served: Any, head: bytes, tail: bytes, length: int | str | None, exact: bool
) -> None:
    headers = {LENGTH: str(len(head) if exact else length).encode()} if exact or length is not None else {}
    response = await served.client.post(INFER, content=head + tail, headers=headers)
    assert response.status_code in (200, 400, 422)
    if response.status_code != 200:
        assert response.json()["error"]
