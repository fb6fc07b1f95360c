"""The ranker of a normal server: embeddings from the foundation, or none, then the expert's network.

A request is admitted once, for both: one whose scores could not be there in time is refused before the foundation is
asked for embeddings that nobody would use. However slow the foundation is, the request keeps the time that its own
network takes, with all that waits for it: the hop ends before. No embedding in time is no error: what the foundation
said to the user's last requests stands in for it (:mod:`recast_server.expert.tae_cache`), or nothing, for which the
network has a learned vector. The answer says which, and a counter tells the operator.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from recast_api import server as contract
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.ranker import Basis, Ranking
from recast_server.expert.schema import RankRequest, inline_history, require_known_context
from recast_server.expert.tae_cache import ABSENT, Rung, TaeCache
from recast_server.expert.tae_client import TaeClient
from recast_server.histories.reader import HistoryReader
from recast_server.runtime import scheduler
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Query
from recast_server.runtime.scheduler import Scheduler, Ticket

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recast_model.context import Features
    from recast_model.snapshot import HistorySnapshot


@dataclass(frozen=True)
class Embedded:
    """A query with what the foundation says of its candidates."""

    query: Query
    tae: NDArray[np.floating] | None = None
    """(M, D), or None for the absent vector."""
    source: str = contract.TAE_FRESH
    """The rung of the ladder that they are from."""


class Engine(scheduler.Engine[Embedded, Ranking], Protocol):
    """A loaded expert."""

    @property
    def tae_dim(self) -> int:
        """How many numbers an embedding must have."""
        ...

    @property
    def history_length(self) -> int:
        """Events of its surface that it reads."""
        ...

    @property
    def histories(self) -> HistorySnapshot:
        """Users' histories that came with the version."""
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

    def __init__(
        self,
        engine: Engine,
        surface: str,
        client: TaeClient,
        scheduler: Scheduler,
        histories: HistoryReader,
        cache: TaeCache | None = None,
    ) -> None:
        self._engine, self._surface, self._client, self._scheduler = engine, surface, client, scheduler
        self._histories, self._cache = histories, cache or TaeCache(0, 0)

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """See ``Ranker``."""
        require_known_context(request, self._engine.context)
        asked = await self._histories.asked(self._query(request), context)
        with self._scheduler.admit(self._engine, Embedded(asked.expert), context.deadline) as ticket:
            # What a client tells of a user, or of another time, is no past that the next request has too.
            own = request.history is None and request.time is None
            tae = await self._tae(asked.foundation, context, ticket, self._cache if own else None)
            ranking = await ticket.run(Embedded(asked.expert, tae.rows, tae.source))
        if not ranking.finite:
            raise ArithmeticError("the expert's scores are not finite")
        basis = Basis(asked.foundation.time_ms, tae.rows, tae.served, tae.cursor_ms)
        if ranking.tae == contract.TAE_ABSENT:  # the network may have refused what there was
            basis = Basis(asked.foundation.time_ms, None)
        return replace(ranking, history=asked.seen, basis=basis)

    def _query(self, request: RankRequest) -> Query:
        time_ms = time.time_ns() // 1_000_000 if request.time is None else request.time
        history = inline_history(request)
        return Query(request.user, self._surface, time_ms, request.candidates, history, request.context)

    async def _tae(
        self, query: Query, context: RequestContext, ticket: Ticket[Embedded, Ranking], cache: TaeCache | None
    ) -> Rung:
        try:
            found = await self._client.tae(query, context, ticket.spare_seconds)
        except TaeUnavailableError:  # counted by the client, with its code
            return ABSENT if cache is None else cache.recall(query.user, query.candidates, time.monotonic())
        if cache is not None:
            cache.remember(query.user, query.candidates, found.rows, time.monotonic())
        return Rung(found.rows, contract.TAE_FRESH, found.served, found.cursor_ms)
