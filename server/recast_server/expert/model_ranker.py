"""The ranker of a normal server: embeddings from the foundation, or none, then the expert's network.

A request is admitted once, for both: one whose scores could not be there in time is refused before the foundation is
asked for embeddings that nobody would use. However slow the foundation is, the request keeps the time that its own
network takes, with all that waits for it: the hop ends before. No embedding in time is no error: the network was
trained to do without (its learned absent vector), the answer says ``tae: absent`` and a counter tells the operator.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RankRequest, require_known_context
from recast_server.expert.tae_client import TaeClient, TaeUnavailableError
from recast_server.runtime import scheduler
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Event, Query
from recast_server.runtime.scheduler import Scheduler, Ticket

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recast_model.context import Features


@dataclass(frozen=True)
class Embedded:
    """A query with what the foundation says of its candidates."""

    query: Query
    tae: NDArray[np.floating] | None = None
    """(M, D), or None for the absent vector."""


class Engine(scheduler.Engine[Embedded, Ranking], Protocol):
    """A loaded expert."""

    @property
    def tae_dim(self) -> int:
        """How many numbers an embedding must have."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the version gives probabilities of."""
        ...

    @property
    def context(self) -> Features:
        """Features of a request's context that the version knows."""
        ...


class ModelRanker:
    """A :class:`recast_server.expert.ranker.Ranker`."""

    def __init__(self, engine: Engine, surface: str, client: TaeClient, scheduler: Scheduler) -> None:
        self._engine, self._surface, self._client, self._scheduler = engine, surface, client, scheduler

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """See ``Ranker``."""
        require_known_context(request, self._engine.context)
        asked = Embedded(self._query(request))
        with self._scheduler.admit(self._engine, asked, context.deadline) as ticket:
            tae = await self._tae(asked.query, context, ticket)
            ranking = await ticket.run(Embedded(asked.query, tae))
        if not ranking.finite:
            raise ArithmeticError("the expert's scores are not finite")
        return ranking

    def _query(self, request: RankRequest) -> Query:
        time_ms = time.time_ns() // 1_000_000 if request.time is None else request.time
        history = None
        if request.history is not None:
            history = [Event(e.item, e.surface, e.time, e.actions, e.available_at) for e in request.history]
        return Query(request.user, self._surface, time_ms, request.candidates, history, request.context)

    async def _tae(
        self, query: Query, context: RequestContext, ticket: Ticket[Embedded, Ranking]
    ) -> NDArray[np.floating] | None:
        try:
            return await self._client.tae(query, context, ticket.spare_seconds)
        except TaeUnavailableError:
            return None  # counted by the client, with its code
