"""A ranker whose answers are logged: outermost, so that what is logged is what was returned, whoever has wrapped it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from recast_server.answer_log.answer import Answer
from recast_server.expert.ranker import Ranker, Ranking
from recast_server.expert.schema import RankRequest
from recast_server.runtime.context import RequestContext

_log = logging.getLogger("recast.answers")


class LoggedRanker:
    """A :class:`recast_server.expert.ranker.Ranker`. ``take`` puts an answer into the log, and never waits."""

    def __init__(self, ranker: Ranker, take: Callable[[Answer], object], tasks: Sequence[str], share: float) -> None:
        self._ranker, self._take, self._tasks, self._share = ranker, take, tasks, share

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """See ``Ranker``."""
        ranking = await self._ranker.rank(request, context)
        try:
            answered_ms = time.time_ns() // 1_000_000
            self._take(Answer.of(request, context.request_id, ranking, self._tasks, self._share, answered_ms))
        except Exception:  # such as a wrapped ranker's scores of other candidates: no reason to fail a request
            _log.exception("an answer could not be logged", extra={"fields": {"requestId": context.request_id}})
        return ranking
