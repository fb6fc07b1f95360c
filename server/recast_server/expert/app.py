"""The expert's HTTP application: its routes, behind the edge that every request passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp

from recast_server.expert import schema
from recast_server.expert.edge import Edge, Exchange, Identity, Reply, Route, encode_json
from recast_server.expert.ranker import Ranker, Ranking
from recast_server.expert.schema import RankRequest
from recast_server.runtime.health import Health
from recast_server.runtime.metrics import ScoringRequests

RANK = "/v1/rank"


def _no_lag() -> float:
    return 0.0


def _always_room(_: float) -> None:
    return None


def create_app(
    identity: Identity,
    ranker: Ranker,
    health: Health,
    metrics: ScoringRequests,
    max_connection_age_seconds: float,
    slo_seconds: float,
    require_room: Callable[[float], None] = _always_room,
    lag: Callable[[], float] = _no_lag,
    more: Mapping[str, Mapping[str, Route]] | None = None,
) -> ASGIApp:
    """The application of the traffic port. Requests of clients that name no deadline have the SLO less a reserve.

    ``require_room`` raises ``OverloadedError`` where no request with this deadline could be answered: what is to be
    refused need not be parsed first. ``lag`` is how many seconds ago a request that is looked at now may have come.
    ``more`` routes come beside those that score.
    """

    async def rank(exchange: Exchange) -> Reply:
        body = await exchange.body()
        context = exchange.context(slo_seconds, lag())
        require_room(context.deadline)
        asked = schema.parse(body)
        work = ranker.rank(asked, context)
        ranking = await (work if exchange.connection is None else exchange.connection.while_it_stands(work))
        body = encode_json(_answer(identity, exchange.request_id, asked, ranking))
        return Reply(200, body, tae=ranking.tae, history=ranking.history)

    routes = {RANK: {"POST": Route(rank, scores=True)}, **(more or {})}
    return Edge(routes, identity, health, metrics, max_connection_age_seconds)


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
        **({} if ranking.history is None else {"history": ranking.history.body}),
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
