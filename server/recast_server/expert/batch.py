"""``POST /v1/rank:batch``: several requests in one body, each admitted, answered or refused on its own.

One that is refused takes no other with it, and each counts as what it is: a verdict on a revision sees the same as if
they had come alone. They share the body's length limit, the deadline and the connection; who hangs up takes all back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError
from typing_extensions import TypedDict

from recast_server.expert import schema
from recast_server.expert.answers import RankAnswer, Refusal, rank_answer
from recast_server.expert.edge import Exchange, Identity, Part, Reply, encode_json, refusal_of_failure
from recast_server.expert.schema import RankRequest
from recast_server.expert.scoring import Scoring
from recast_server.runtime.context import RequestContext

PATH = "/v1/rank:batch"
REQUESTS = 32
_ALLOWED = {"requests": f"1 to {REQUESTS} objects as POST /v1/rank takes"}


class BatchRequest(BaseModel):
    """Several requests. Each is checked on its own, so that a wrong one is refused alone."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    requests: Annotated[list[SkipValidation[RankRequest]], Field(min_length=1, max_length=REQUESTS)]


class BatchedAnswer(TypedDict):
    """What became of one request: an answer with status 200, an error with any other."""

    status: Annotated[int, Field(description="As it would be, had the request come alone")]
    answer: NotRequired[RankAnswer]
    error: NotRequired[Refusal]


class BatchAnswer(TypedDict):
    """What became of all, in the order of the requests. The id of the n-th is the batch's with `.n`, counted from 0."""

    requestId: str
    answers: list[BatchedAnswer]


@dataclass(frozen=True)
class _Done:
    """One request's end."""

    body: bytes
    part: Part


def parse(body: bytes) -> Sequence[Any]:
    """The requests in a body, none of them checked. Raises :class:`RefusedError` over the batch itself."""
    try:
        return BatchRequest.model_validate_json(body).requests
    except ValidationError as error:
        raise schema.refusal_of(error, _ALLOWED, "an object with requests") from None


async def answer(exchange: Exchange, identity: Identity, scoring: Scoring) -> Reply:
    """The answer to a batch."""
    body, context = await scoring.receive(exchange)
    requests = parse(body)

    async def one(place: int, request: Any) -> _Done:
        own = RequestContext(f"{context.request_id}.{place}", context.deadline, context.traceparent)
        try:
            asked = schema.checked(request)
            ranking = await scoring.ranker.rank(asked, own)
            answered: BatchedAnswer = {"status": 200, "answer": rank_answer(identity, own.request_id, asked, ranking)}
            return _Done(encode_json(answered), Part(200, ranking.tae, ranking.history))
        except Exception as error:
            refusal = refusal_of_failure(error, own.request_id)
            refused: BatchedAnswer = {"status": refusal.status, "error": refusal.body(own.request_id)["error"]}
            return _Done(encode_json(refused), Part(refusal.status))

    async def every() -> list[_Done]:
        return await asyncio.gather(*(one(place, request) for place, request in enumerate(requests)))

    done = await exchange.while_wanted(every())
    answers = b",".join(each.body for each in done)
    head = b'{"requestId":%s,"answers":[' % encode_json(exchange.request_id)
    return Reply(200, head + answers + b"]}", parts=tuple(each.part for each in done))
