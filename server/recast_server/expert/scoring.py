"""What a scoring request passes between its body and its answer, whatever form these have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recast_server.expert.compression import inflated
from recast_server.expert.edge import Exchange
from recast_server.expert.ranker import Ranker, Ranking
from recast_server.expert.schema import RankRequest
from recast_server.runtime.context import RequestContext


def no_lag() -> float:
    """Of a server that looks at what comes at once."""
    return 0.0


def always_room(_: float) -> None:
    """Of a server that nothing is refused by."""


@dataclass(frozen=True)
class Scoring:
    """A ranker and the rules of who may ask it."""

    ranker: Ranker
    slo_seconds: float
    """Requests of clients that name no deadline have this less a reserve."""
    require_room: Callable[[float], None] = always_room
    """Raises ``OverloadedError`` where no request with this deadline could be answered: what is to be refused need not
    be parsed first."""
    lag: Callable[[], float] = no_lag
    """How many seconds ago a request that is looked at now may have come."""

    async def receive(self, exchange: Exchange) -> tuple[bytes, RequestContext]:
        """The body, where there is room for its request. Raises what refuses it."""
        body = await exchange.body()
        context = exchange.context(self.slo_seconds, self.lag())
        self.require_room(context.deadline)
        return inflated(body, exchange.headers.get("content-encoding")), context

    async def rank(self, exchange: Exchange, asked: RankRequest, context: RequestContext) -> Ranking:
        """The ranking. Raises ``ClientDisconnect``, with the work cancelled, once the client is gone."""
        return await exchange.while_wanted(self.ranker.rank(asked, context))
