"""The OpenAPI 3.1 document of an expert's server, for the version that it serves.

Schemas are generated from what checks requests (:mod:`schema`, :mod:`open_inference.rest`) and from the types that
answers are built as, so that nothing is described twice. Only what these cannot say is written here: summaries, which
statuses an operation has, headers, examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from recast_api import __version__, names
from recast_model.context import LARGEST, VALUE_LENGTH, ContextFeature
from recast_server.expert import batch, events_api, impressions_api
from recast_server.expert.answers import RankAnswer, RefusalAnswer
from recast_server.expert.edge import Identity
from recast_server.expert.events_api import EventsAnswer, EventsRequest
from recast_server.expert.impressions_api import ImpressionsAnswer, ImpressionsRequest
from recast_server.expert.open_inference import rest as inference
from recast_server.expert.schema import RankRequest

PATH = "/openapi.json"
Object = dict[str, Any]

REFUSALS: dict[int, dict[str, str]] = {
    400: {
        "InvalidJson": "the body is no JSON",
        "InvalidEncoding": "the body is no gzip, as its `content-encoding` says",
        "BodyTimeout": "the body did not come in time",
        "InvalidHttp": "what came is no HTTP request",
    },
    404: {
        "NotFound": "there is no such path, model or version here",
        "NoAnswerLog": "this expert keeps no log of its answers",
        "NoHistoryStore": "this expert's histories come with its version",
    },
    405: {"MethodNotAllowed": "the path has another method"},
    409: {"IdempotencyKeyReused": "the key was used for other events"},
    413: {"BodyTooLarge": "the body is longer than it may be"},
    415: {"UnsupportedEncoding": "the body has a `content-encoding` other than gzip"},
    422: {"InvalidRequest": "the body is not as its schema says, or names what this version does not know"},
    500: {"Internal": "the server failed on the request; its log says why, under the request's id"},
    503: {
        "HistoryStoreUnavailable": "the events were not taken: send them again under the same key",
        "LogFull": "the log has no room for the report: send it again later",
        "Overloaded": "the answer would come too late: ask again after `retry-after` seconds",
        "Stopping": "the server ends",
        "TooManyConnections": "the server has as many connections as it may",
    },
}
"""By status and reason, when a request is refused."""
_SCORING = (400, 413, 415, 422, 500, 503)
_MODELS: tuple[Any, ...] = (
    RankRequest,
    RankAnswer,
    EventsRequest,
    EventsAnswer,
    ImpressionsRequest,
    ImpressionsAnswer,
    RefusalAnswer,
    batch.BatchRequest,
    batch.BatchAnswer,
    inference.InferRequest,
    inference.InferAnswer,
    inference.InferRefusal,
    inference.ModelMetadata,
    inference.ModelReady,
    inference.ServerLive,
    inference.ServerMetadata,
    inference.ServerReady,
)
_REQUEST_HEADERS = {
    names.HEADER_TIMEOUT: "How long the client waits, in milliseconds, up to a minute. Without it: nine tenths of the"
    " expert's SLO. What cannot be answered by then is refused at once with 503",
    names.HEADER_REQUEST_ID: "Named in the answer and in the logs; one is made where there is none, or none that is up"
    " to 64 letters, digits, dots, colons, dashes and underscores",
    "traceparent": "The W3C trace that the request is part of",
}
_LENGTH_HEADER: Object = {
    "name": names.HEADER_INFERENCE_LENGTH,
    "in": "header",
    "description": "Bytes of JSON at the body's begin, where binary tensors follow it",
    "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
_ANSWER_HEADERS = {
    names.HEADER_REVISION: "The revision that answered",
    names.HEADER_VERSION: "The expert's version",
    names.HEADER_TAE: "Where the foundation's embeddings came from: `fresh`, `cached`, `pooled`, `absent`, or `none`"
    " without scores",
    names.HEADER_REQUEST_ID: "The request's id",
}
_SCORE_HEADERS = {
    names.HEADER_HISTORY: "Which history of the user scores rest on: `inline`, `store` or `artifact`",
    names.HEADER_HISTORY_STATE: "`stale` where that is older than the expert allows, else `fresh`",
    names.HEADER_HISTORY_AGE: "Its age in seconds; not there where the request brought it",
}
"""Of an answer with scores of one request, where it says what these rest on."""
RANK_EXAMPLE: Object = {
    "user": 17,
    "candidates": [1004, 1011, 1018],
    "limit": 2,
    "time": "2026-05-01T12:00:00Z",
    "history": [{"item": 1007, "surface": "reels", "time": 1777636000000, "actions": ["click"]}],
}
EVENTS_EXAMPLE: Object = {
    "user": 17,
    "events": [{"item": 1011, "surface": "reels", "time": "2026-05-01T12:00:03Z", "actions": ["click"]}],
    "idempotencyKey": "session-91-3",
}
EVENTS_ANSWER_EXAMPLE: Object = {
    "requestId": "0af7651916cd43dd8448eb211c80319c",
    "user": 17,
    "sequence": 3,
    "total": 12,
    "repeated": False,
}
IMPRESSIONS_EXAMPLE: Object = {
    "requestId": "0af7651916cd43dd8448eb211c80319c",
    "items": [{"item": 1011, "position": 0}, {"item": 1018, "position": 1, "time": "2026-05-01T12:00:04Z"}],
}
IMPRESSIONS_ANSWER_EXAMPLE: Object = {"requestId": "0af7651916cd43dd8448eb211c80319c", "items": 2}
RANK_ANSWER_EXAMPLE: Object = {
    "requestId": "0af7651916cd43dd8448eb211c80319c",
    "model": "reels",
    "revision": "0123456789",
    "version": 7,
    "foundation": {"name": "home-fm", "version": 3, "lineage": 2},
    "surface": "reels",
    "tae": "fresh",
    "history": {"source": "store", "state": "fresh", "ageSeconds": 1.25},
    "items": [
        {"item": 1011, "score": 0.41, "scores": {"click": 0.31, "like": 0.2}},
        {"item": 1018, "score": 0.28, "scores": {"click": 0.22, "like": 0.12}},
    ],
    "unknownItems": [],
    "unknownContext": [],
}
REFUSAL_EXAMPLE: Object = {
    "error": {
        "reason": "InvalidRequest",
        "message": "candidates: Field required (allowed: 1 to 2048 item ids)",
        "requestId": "0af7651916cd43dd8448eb211c80319c",
        "fields": [{"field": "candidates", "problem": "Field required", "allowed": "1 to 2048 item ids"}],
    }
}
INFER_EXAMPLE: Object = {
    "id": "seven",
    "inputs": [
        {"name": "user", "datatype": "INT64", "shape": [1], "data": [17]},
        {"name": "candidates", "datatype": "INT64", "shape": [1, 3], "data": [1004, 1011, 1018]},
    ],
    "outputs": [{"name": "scores"}],
}
INFER_ANSWER_EXAMPLE: Object = {
    "model_name": "reels",
    "model_version": "7",
    "id": "seven",
    "parameters": {"tae": "fresh", "unknown_items": 0},
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.25, 0.41, 0.28]}],
}
INFER_REFUSAL_EXAMPLE: Object = {"error": "InvalidRequest: user: the input is missing (allowed: INT64 [1])"}
BATCH_EXAMPLE: Object = {"requests": [RANK_EXAMPLE, {"user": 18, "candidates": [1004]}]}
BATCH_ANSWER_EXAMPLE: Object = {
    "requestId": "4bf92f3577b34da6a3ce929d0e0e4736",
    "answers": [
        {"status": 200, "answer": {**RANK_ANSWER_EXAMPLE, "requestId": "4bf92f3577b34da6a3ce929d0e0e4736.0"}},
        {
            "status": 503,
            "error": {
                "reason": "Overloaded",
                "message": "this server has more requests than it can serve in time",
                "requestId": "4bf92f3577b34da6a3ce929d0e0e4736.1",
            },
        },
    ],
}
EXAMPLES: dict[str, Object] = {
    "BatchRequest": BATCH_EXAMPLE,
    "BatchAnswer": BATCH_ANSWER_EXAMPLE,
    "EventsRequest": EVENTS_EXAMPLE,
    "EventsAnswer": EVENTS_ANSWER_EXAMPLE,
    "ImpressionsRequest": IMPRESSIONS_EXAMPLE,
    "ImpressionsAnswer": IMPRESSIONS_ANSWER_EXAMPLE,
    "RankRequest": RANK_EXAMPLE,
    "RankAnswer": RANK_ANSWER_EXAMPLE,
    "RefusalAnswer": REFUSAL_EXAMPLE,
    "InferRequest": INFER_EXAMPLE,
    "InferAnswer": INFER_ANSWER_EXAMPLE,
    "InferRefusal": INFER_REFUSAL_EXAMPLE,
}
"""By schema."""


@dataclass(frozen=True)
class _Operation:
    """One method on one path; schemas by name."""

    summary: str
    answer: str | None
    refusal: str
    request: str | None = None
    refused: Sequence[int] = ()
    unready: bool = False
    """Whether the same answer comes with 503 where what is asked for is not so."""
    binary: bool = False
    """Whether request and answer have the binary form as well."""
    status: int = 200
    """Where it is done as asked."""


def _operations() -> dict[str, dict[str, _Operation]]:
    def infer(summary: str, answer: str, **more: Any) -> _Operation:
        return _Operation(summary, answer, "InferRefusal", **more)

    found = {
        "/v1/rank": {
            "post": _Operation(
                "Rank candidates for a user", "RankAnswer", "RefusalAnswer", request="RankRequest", refused=_SCORING
            )
        },
        batch.PATH: {
            "post": _Operation(
                "Rank candidates in several requests, each on its own",
                "BatchAnswer",
                "RefusalAnswer",
                request="BatchRequest",
                refused=_SCORING,
            )
        },
        events_api.PATH: {
            "post": _Operation(
                "Add what a user did, where the expert reads histories from a store",
                "EventsAnswer",
                "RefusalAnswer",
                request="EventsRequest",
                refused=(400, 404, 409, 413, 415, 422, 503),
            )
        },
        impressions_api.PATH: {
            "post": _Operation(
                "Tell what of an answer was shown, where the expert keeps a log of its answers",
                "ImpressionsAnswer",
                "RefusalAnswer",
                request="ImpressionsRequest",
                refused=(400, 404, 413, 415, 422, 503),
                status=202,
            )
        },
        PATH: {"get": _Operation("This document", None, "RefusalAnswer")},
        inference.ROOT: {"get": infer("The server", "ServerMetadata")},
        f"{inference.ROOT}/health/live": {"get": infer("Liveness", "ServerLive", unready=True)},
        f"{inference.ROOT}/health/ready": {"get": infer("Readiness", "ServerReady", unready=True)},
    }
    for path in (f"{inference.ROOT}/models/{{model}}", f"{inference.ROOT}/models/{{model}}/versions/{{version}}"):
        found[path] = {"get": infer("The model: its inputs, outputs and tasks", "ModelMetadata", refused=(404,))}
        found[f"{path}/ready"] = {"get": infer("The model's readiness", "ModelReady", unready=True, refused=(404,))}
        found[f"{path}/infer"] = {
            "post": infer(
                "Scores of a user's candidates, as tensors",
                "InferAnswer",
                request="InferRequest",
                refused=(*_SCORING, 404),
                binary=True,
            )
        }
    return found


def document(identity: Identity) -> Object:
    """The document of a server that serves this."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Recast expert {identity.model}",
            "version": __version__,
            "description": f"Version {identity.version} on surface {identity.surface}, revision {identity.revision}."
            " `/v1` is its own interface; `/v2` is the Open Inference Protocol, which stock clients speak, one user a"
            " request.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            path: {
                **({"parameters": _path_parameters(path, identity)} if "{" in path else {}),
                **{method: _described(path, method, operation) for method, operation in methods.items()},
            }
            for path, methods in _operations().items()
        },
        "components": {
            "schemas": _schemas(identity),
            "headers": {
                name: {"description": text, "required": name in _ANSWER_HEADERS, "schema": {"type": "string"}}
                for name, text in (_ANSWER_HEADERS | _SCORE_HEADERS).items()
            },
        },
    }


def _described(path: str, method: str, operation: _Operation) -> Object:
    words = path.replace("{", "").replace("}", "").replace(".", "/").strip("/").split("/")
    described: Object = {
        "operationId": "_".join([method, *words]).replace(":", "_"),
        "summary": operation.summary,
        "responses": {str(operation.status): _answer("As asked", operation.answer, binary=operation.binary)},
    }
    if operation.unready:
        described["responses"]["503"] = _answer("It is not so", operation.answer)
    for status in sorted(operation.refused):
        when = "; ".join(f"{reason}: {text}" for reason, text in REFUSALS[status].items())
        described["responses"][str(status)] = _answer(when, operation.refusal)
    if operation.request is not None:
        content: Object = {"application/json": _media(operation.request)}
        if operation.binary:
            content["application/octet-stream"] = {"schema": {"description": inference.__doc__}}
        described["requestBody"] = {"required": True, "content": content}
        described["parameters"] = [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in _REQUEST_HEADERS.items()
        ]
        if operation.binary:
            described["parameters"].append(_LENGTH_HEADER)
    return described


def _answer(description: str, schema: str | None, *, binary: bool = False) -> Object:
    content: Object = {"application/json": _media(schema) if schema else {"schema": {"type": "object"}}}
    if binary:
        content["application/octet-stream"] = {"schema": {"description": inference.__doc__}}
    named = _ANSWER_HEADERS | (_SCORE_HEADERS if schema in ("RankAnswer", "InferAnswer") else {})
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in named}
    return {"description": description, "headers": headers, "content": content}


def _media(schema: str) -> Object:
    example = {"example": EXAMPLES[schema]} if schema in EXAMPLES else {}
    return {"schema": {"$ref": f"#/components/schemas/{schema}"}, **example}


def _path_parameters(path: str, identity: Identity) -> list[Object]:
    here = {"model": identity.model, "version": str(identity.version)}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}
        for name, value in here.items()
        if f"{{{name}}}" in path
    ]


def _schemas(identity: Identity) -> Object:
    """Every schema by name. The context of a request is the features that this version knows, and no others."""
    adapters: list[Any] = [(model.__name__, "validation", TypeAdapter[Any](model)) for model in _MODELS]
    _, generated = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    schemas: Object = generated["$defs"]
    schemas["RankRequest"]["properties"]["context"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {feature.name: _feature(feature) for feature in identity.context},
    }
    return schemas


def _feature(feature: ContextFeature) -> Object:
    known: Object = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    if feature.categorical:
        known = {"type": "string", "maxLength": VALUE_LENGTH, "examples": list(feature.values[:8])}
    return {"anyOf": [known, {"type": "null"}]}
