"""The OpenAPI document is true: it has the routes there are, what they answer, and refuses what the server refuses."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_server.expert
from recast_api.resources.version import FoundationPin
from recast_model.context import ContextFeature
from recast_server.expert import openapi
from recast_server.expert.edge import Identity
from recast_server.expert.open_inference import rest as inference
from recast_server.expert.schema import RankRequest, RefusedError, parse, require_known_context
from recast_server.runtime.health import Phase
from recast_server.runtime.scheduler import OverloadedError

CONTEXT = (ContextFeature("device", "Categorical", ("phone",)), ContextFeature("battery", "Numeric"))
SOURCES = Path(recast_server.expert.__file__).parent


def closed(schema: Any) -> Any:
    """The schema with no room for members that it does not name: what is answered must be what is described."""
    if isinstance(schema, list):
        return [closed(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return made | ({"additionalProperties": False} if "properties" in made and made.get("type") == "object" else {})


def described(document: Any, path: str) -> tuple[str, Any]:
    """The path as the document has it, and what it says there."""
    for template, methods in document["paths"].items():
        values = {p["name"]: p["schema"]["enum"][0] for p in methods.get("parameters", [])}
        if template.format(**values) == path:
            return template, methods
    raise AssertionError(f"{path} is not in the document")


def check(document: Any, response: httpx.Response) -> None:
    """The answer is one that the document has."""
    _, methods = described(document, response.request.url.path)
    answer = methods[response.request.method.lower()]["responses"][str(response.status_code)]
    always = [name for name in answer["headers"] if document["components"]["headers"][name]["required"]]
    assert always
    assert all(name in response.headers for name in always)
    content = answer["content"][response.headers["content-type"]]
    body: Any = response.content
    if response.headers["content-type"] == "application/json":
        body = response.json()
        schema = closed({**content["schema"], "components": document["components"]})
        jsonschema.validate(body, schema, format_checker=jsonschema.FormatChecker())
    if response.status_code >= 400 and "error" in body:
        error = body["error"]
        reason = error["reason"] if isinstance(error, dict) else error.split(":")[0]
        assert reason in openapi.REFUSALS[response.status_code]
        assert reason in answer["description"]


async def document_of(served: Any) -> Any:
    return (await served.client.get("/openapi.json")).json()


async def test_every_route_is_described_and_nothing_else(served: Any) -> None:
    document = await document_of(served)
    missing = (await served.client.get("/")).json()["error"]["message"]
    routes = {tuple(route.split(" ")) for route in missing.split("; use ")[1].split(", ")}
    for method, path in routes:
        assert method.lower() in described(document, path)[1]
    found = {(m, p) for p, methods in document["paths"].items() for m in methods if m != "parameters"}
    assert len(found) == len(routes)


BATCH = json.dumps({"requests": [openapi.RANK_EXAMPLE, {"user": 1}]})
RANK, INFER = json.dumps(openapi.RANK_EXAMPLE), json.dumps(openapi.INFER_EXAMPLE)
BINARY = json.dumps({**openapi.INFER_EXAMPLE, "outputs": [], "parameters": {"binary_data_output": True}})
ASKED = [
    ("GET", "/openapi.json", "", 200),
    ("POST", "/v1/rank", RANK, 200),
    ("POST", "/v1/rank", "{", 400),
    ("POST", "/v1/rank", " " * 2**20, 413),
    ("POST", "/v1/rank", '{"history": [{"item": "x"}]}', 422),
    ("POST", "/v1/events", json.dumps(openapi.EVENTS_EXAMPLE), 404),
    ("POST", "/v1/impressions", json.dumps(openapi.IMPRESSIONS_EXAMPLE), 404),
    ("POST", "/v1/rank:batch", BATCH, 200),
    ("POST", "/v1/rank:batch", '{"requests": []}', 422),
    *(("GET", path, "", 200) for path in ("/v2", "/v2/health/live", "/v2/health/ready")),
    *(("GET", f"/v2/models/reels{rest}", "", 200) for rest in ("", "/ready", "/versions/7", "/versions/7/ready")),
    ("POST", "/v2/models/reels/infer", INFER, 200),
    ("POST", "/v2/models/reels/infer", BINARY, 200),
    ("POST", "/v2/models/reels/versions/7/infer", "{", 400),
    ("POST", "/v2/models/reels/infer", " " * 2**20, 413),
    ("POST", "/v2/models/reels/infer", "{}", 422),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED, ids=range(len(ASKED)))
async def test_an_answer_is_as_the_document_says(served: Any, method: str, path: str, body: str, status: int) -> None:
    response = await served.client.request(method, path, content=body)
    assert response.status_code == status
    check(await document_of(served), response)


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 400), ("br", 415)])
@pytest.mark.parametrize("path", ["/v1/rank", "/v1/rank:batch", "/v2/models/reels/infer"])
async def test_an_encoding_is_refused_as_the_document_says(served: Any, path: str, encoding: str, status: int) -> None:
    response = await served.client.post(path, content=b"{", headers={"content-encoding": encoding})
    assert response.status_code == status
    check(await document_of(served), response)


@pytest.mark.parametrize(
    ("failure", "status"), [(OverloadedError("full"), 503), (KeyError("x"), 500)], ids=lambda value: str(value)
)
@pytest.mark.parametrize(("path", "body"), [("/v1/rank", RANK), ("/v2/models/reels/infer", INFER)])
async def test_a_failure_is_as_the_document_says(
    served: Any, failure: Exception, status: int, path: str, body: str
) -> None:
    served.ranker.failure = failure
    response = await served.client.post(path, content=body)
    assert response.status_code == status
    check(await document_of(served), response)


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/reels/ready"])
async def test_what_is_not_ready_is_as_the_document_says(served: Any, path: str) -> None:
    document = await document_of(served)
    served.health.phase = Phase.DRAINING
    check(document, await served.client.get(path))


async def test_schemas_are_schemas_and_examples_are_examples(served: Any) -> None:
    document = await document_of(served)
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        if name in openapi.EXAMPLES:
            jsonschema.validate(openapi.EXAMPLES[name], closed({**schema, "components": document["components"]}))
    assert parse(RANK.encode()).candidates == [1004, 1011, 1018]
    assert inference.parse(INFER.encode(), None)[0].id == "seven"


def test_every_reason_that_the_edge_can_say_is_described() -> None:
    said = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RefusedError":
                said.add(ast.literal_eval(node.args[1]))
    assert said == {reason for reasons in openapi.REFUSALS.values() for reason in reasons}


PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest="sha256:" + "ab" * 32)
IDENTITY = Identity("reels", "reels", "0123456789", 7, PIN, ("click",), CONTEXT)
DOCUMENT = openapi.document(IDENTITY)
VALIDATOR = jsonschema.Draft202012Validator(
    {"$ref": "#/components/schemas/RankRequest", "components": DOCUMENT["components"]},
    format_checker=jsonschema.FormatChecker(),
)
numbers = st.integers(-1, 3) | st.sampled_from([2**63 - 1, 2**63, 0.5, "1", None, True, 1e300])
times = numbers | st.sampled_from([253402300799999, 253402300800000, "2026-05-01T12:00:00Z"])
one_wrong = st.fixed_dictionaries({"user": st.just(1), "candidates": st.just([1])}, optional={"time": times})
near = one_wrong | st.fixed_dictionaries(
    {"user": numbers, "candidates": st.lists(numbers, max_size=3) | numbers},
    optional={
        "time": times,
        "limit": numbers | st.sampled_from([2048, 2049]),
        "context": st.dictionaries(st.sampled_from(["device", "battery", "height"]), numbers | st.just("x" * 201)),
        "history": st.lists(
            st.fixed_dictionaries(
                {"item": numbers, "surface": st.text(max_size=2) | st.just("x" * 41), "time": numbers},
                optional={
                    "actions": st.lists(st.text(max_size=2), max_size=17),
                    "availableAt": numbers,
                    "other": numbers,
                },
            ),
            max_size=2,
        )
        | numbers,
        "other": numbers,
    },
)


def accepted(body: object) -> RankRequest | None:
    try:
        request = parse(json.dumps(body).encode())
        require_known_context(request, CONTEXT)
    except RefusedError:
        return None
    return request


@settings(max_examples=500, deadline=None)
@given(body=near | st.just(openapi.RANK_EXAMPLE))
def test_the_schema_refuses_what_the_server_refuses_and_no_more(body: dict[str, Any]) -> None:
    if body.get("time") == "1" or any("1" in (event.get("time"), event.get("availableAt")) for event in _events(body)):
        return  # a format says nothing to a validator that does not know it
    assert VALIDATOR.is_valid(body) == (accepted(body) is not None)


def _events(body: dict[str, Any]) -> list[dict[str, Any]]:
    history = body.get("history")
    return history if isinstance(history, list) else []
