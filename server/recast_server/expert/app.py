"""The expert's HTTP application: its routes, behind the edge that every request passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp

from recast_server.expert import batch, openapi, schema
from recast_server.expert.answers import rank_answer
from recast_server.expert.edge import Edge, Exchange, Identity, Reply, Route, encode_json
from recast_server.expert.open_inference import rest as open_inference
from recast_server.expert.open_inference.contract import Contract
from recast_server.expert.ranker import Ranker
from recast_server.expert.schema import RefusedError
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
    more: Mapping[str, Mapping[str, Route]] | None = None,
) -> ASGIApp:
    """The application of the traffic port. ``require_room`` and ``lag`` are those of :class:`Scoring`; ``more`` routes
    come beside those that score.
    """
    scoring = Scoring(ranker, slo_seconds, require_room, lag)

    async def rank(exchange: Exchange) -> Reply:
        body, context = await scoring.receive(exchange)
        asked = schema.parse(body)
        ranking = await scoring.rank(exchange, asked, context)
        body = encode_json(rank_answer(identity, exchange.request_id, asked, ranking))
        return Reply(200, body, tae=ranking.tae, history=ranking.history)

    async def rank_batch(exchange: Exchange) -> Reply:
        return await batch.answer(exchange, identity, scoring)

    described = encode_json(openapi.document(identity))

    async def document(_: Exchange) -> Reply:
        return Reply(200, described)

    routes = {
        RANK: {"POST": Route(rank, scores=True)},
        batch.PATH: {"POST": Route(rank_batch, scores=True)},
        openapi.PATH: {"GET": Route(document)},
        **open_inference.routes(Contract(identity), scoring, health),
        **(more or {}),
    }
    return Edge(routes, identity, health, metrics, max_connection_age_seconds, _refusal_body)


def _refusal_body(path: str, refusal: RefusedError, request_id: str) -> Mapping[str, object]:
    if path == open_inference.ROOT or path.startswith(f"{open_inference.ROOT}/"):
        return open_inference.refusal_body(refusal)
    return refusal.body(request_id)
