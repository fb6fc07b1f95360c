"""The ranker of a normal server: embeddings from the foundation, or none, then the expert's network.

No embedding in time is no error: the network was trained to do without (its learned absent vector), the answer says
``tae: absent`` and a counter tells the operator. Embeddings so large that the network overflows on them are treated
alike: no score that is not finite is ever ranked.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RankRequest
from recast_server.expert.tae_client import TaeClient, TaeUnavailableError
from recast_server.runtime.model_thread import ModelThread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("recast.ranker")
LONGEST_SECONDS = 5.0
"""A request that waited this long for the model is answered 503: its client has given up."""


class Engine(Protocol):
    """A loaded expert. ``rank`` is called on the model thread only."""

    @property
    def tae_dim(self) -> int:
        """How many numbers an embedding must have."""
        ...

    def rank(self, request: RankRequest, time_ms: int, tae: NDArray[np.floating] | None) -> Ranking:
        """Scores; ``tae`` is (M, D), or None for the absent vector."""
        ...


class ModelRanker:
    """A :class:`recast_server.expert.ranker.Ranker`."""

    def __init__(self, engine: Engine, client: TaeClient, model_thread: ModelThread) -> None:
        self._engine, self._client, self._model_thread = engine, client, model_thread

    async def rank(self, request: RankRequest, request_id: str) -> Ranking:
        """See ``Ranker``."""
        time_ms = time.time_ns() // 1_000_000 if request.time is None else request.time
        tae: NDArray[np.floating] | None
        try:
            tae = await self._client.tae(request.user, request.candidates, time_ms, request.history)
        except TaeUnavailableError:
            tae = None  # counted by the client, with its code
        return await self._model_thread.run(
            lambda: self._ranking(request, time_ms, tae), timeout_seconds=LONGEST_SECONDS
        )

    def _ranking(self, request: RankRequest, time_ms: int, tae: NDArray[np.floating] | None) -> Ranking:
        ranking = self._engine.rank(request, time_ms, tae)
        if tae is not None and not ranking.finite:
            _log.error("the foundation's embeddings give scores that are not finite; ranked without them")
            ranking = self._engine.rank(request, time_ms, None)
        if not ranking.finite:
            raise ArithmeticError("the expert's scores are not finite")
        return ranking
