"""The expert's HTTP application: its routes, behind the edge that every request passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp

from recast_server.expert import schema
from recast_server.expert.edge import Edge, Exchange, Identity, Reply, Route, encode_json
from recast_server.expert.open_inference import rest as open_inference
from recast_server.expert.open_inference.contract import Contract
from recast_server.expert.ranker import Ranker, Ranking
from recast_server.expert.schema import RankRequest, RefusedError
from recast_server.expert.scoring import Scoring, always_room, no_lag
from recast_server.runtime.health import Health
from recast_server.runtime.metrics import ScoringRequests

RANK = "/v1/rank"


def create_app(
    identity: Identity,
    ranker: Ranker,
    health: Health,
    metrics: ScoringRequests,
    max_connection_age_seconds: float,
    slo_seconds: float,
    require_room: Callable[[float], None] = always_room,
    lag: Callable[[], float] = no_lag,
) -> ASGIApp:
    """The application of the traffic port; the last three are those of :class:`Scoring`."""
    scoring = Scoring(ranker, slo_seconds, require_room, lag)

    async def rank(exchange: Exchange) -> Reply:
        body, context = await scoring.receive(exchange)
        asked = schema.parse(body)
        ranking = await scoring.rank(exchange, asked, context)
        return Reply(200, encode_json(_answer(identity, exchange.request_id, asked, ranking)), tae=ranking.tae)

    routes = {
        RANK: {"POST": Route(rank, scores=True)},
        **open_inference.routes(Contract(identity), scoring, health),
    }
    return Edge(routes, identity, health, metrics, max_connection_age_seconds, _refusal_body)


def _refusal_body(path: str, refusal: RefusedError, request_id: str) -> Mapping[str, object]:
    if path == open_inference.ROOT or path.startswith(f"{open_inference.ROOT}/"):
        return open_inference.refusal_body(refusal)
    return refusal.body(request_id)


def _answer(identity: Identity, request_id: str, asked: RankRequest, ranking: Ranking) -> dict[str, object]:
    order = sorted(range(len(ranking.scores)), key=ranking.scores.__getitem__, reverse=True)[: asked.limit]
    return {
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
            for row in order
        ],
        "unknownItems": ranking.unknown_items,
        "unknownContext": ranking.unknown_context,
    }
