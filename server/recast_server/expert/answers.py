"""What an expert answers, as types: what is built is checked against them, and the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from recast_server.expert.edge import Identity
from recast_server.expert.ranker import Ranking, presented
from recast_server.expert.schema import RankRequest


class FoundationAnswer(TypedDict):
    """The foundation version whose embeddings the expert was trained to read."""

    name: str
    version: int
    lineage: int


class ItemAnswer(TypedDict):
    """A candidate with its scores."""

    item: int
    score: Annotated[float, Field(description="What items are ranked by: the weighted sum of scores")]
    scores: Annotated[dict[str, float], Field(description="By task, the probability of it")]


class HistoryAnswer(TypedDict):
    """Which history of the user an answer rests on."""

    source: Annotated[str, Field(description="`inline`: the request brought it; `store`; `artifact`: of the version")]
    state: Annotated[str, Field(description="`fresh`, or `stale` where it is older than the expert allows")]
    ageSeconds: NotRequired[Annotated[float, Field(description="Not there where the request brought it")]]


class RankAnswer(TypedDict):
    """A ranking, and the pair that made it."""

    requestId: str
    model: str
    revision: str
    version: int
    foundation: FoundationAnswer
    surface: str
    tae: Annotated[
        str, Field(description="Where the foundation's embeddings came from: `fresh`, `cached`, `pooled` or `absent`")
    ]
    history: NotRequired[HistoryAnswer]
    items: Annotated[list[ItemAnswer], Field(description="Best first, as many as `limit`")]
    unknownItems: Annotated[list[int], Field(description="Candidates that the version never saw")]
    unknownContext: Annotated[
        list[str], Field(description="Features of the request's context whose value the version does not list")
    ]


class FieldProblem(TypedDict):
    """A field of a body that is wrong."""

    field: Annotated[str, Field(description="Its path, such as `history.0.time`")]
    problem: str
    allowed: str


class Refusal(TypedDict):
    """Why a request was refused."""

    reason: Annotated[str, Field(description="A word that does not change; docs/reasons.md has a paragraph on each")]
    message: str
    requestId: Annotated[str, Field(description="Under which the server's log has the request")]
    fields: NotRequired[list[FieldProblem]]


class RefusalAnswer(TypedDict):
    """The body of a refusal."""

    error: Refusal


def rank_answer(identity: Identity, request_id: str, asked: RankRequest, ranking: Ranking) -> RankAnswer:
    """The answer to a request."""
    answer: RankAnswer = {
        "requestId": request_id,
        "model": identity.model,
        "revision": identity.revision,
        "version": identity.version,
        "foundation": {
            "name": identity.foundation.name,
            "version": identity.foundation.version,
            "lineage": identity.foundation.lineage,
        },
        "surface": identity.surface,
        "tae": ranking.tae,
        "items": [
            {
                "item": asked.candidates[row],
                "score": ranking.scores[row],
                "scores": {task: values[row] for task, values in ranking.probabilities.items()},
            }
            for row in presented(ranking.scores, asked.limit)
        ],
        "unknownItems": ranking.unknown_items,
        "unknownContext": ranking.unknown_context,
    }
    if (seen := ranking.history) is not None:
        answer["history"] = {"source": seen.source, "state": seen.state}
        if seen.age_seconds is not None:
            answer["history"]["ageSeconds"] = round(seen.age_seconds, 3)
    return answer
