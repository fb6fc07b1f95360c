"""A serving image that fails about a fifth of its requests, as a careless change to a ranker might.

The server itself is untouched: ``main(decorate=...)`` is the seam through which anybody adds rules of their own to
ranking. Which requests fail depends on their id alone, so that a run can be repeated.
"""

from __future__ import annotations

import hashlib
import sys

from recast_server.expert.ranker import Ranker, Ranking
from recast_server.expert.schema import RankRequest
from recast_server.main import main
from recast_server.runtime.context import RequestContext

FAILING_PERCENT = 20


class CarelessRanker:
    """Ranks as the ranker it wraps, except where it does not."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """The wrapped ranking. Raises KeyError for about :data:`FAILING_PERCENT` of all request ids."""
        if hashlib.sha256(context.request_id.encode()).digest()[0] * 100 < FAILING_PERCENT * 256:
            raise KeyError("boost")
        return await self._ranker.rank(request, context)


if __name__ == "__main__":
    sys.exit(main(decorate=CarelessRanker))
