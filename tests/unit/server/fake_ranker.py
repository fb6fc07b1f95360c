"""A ranker that needs no model, and who answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from recast_api.resources.version import FoundationPin
from recast_model.context import ContextFeature
from recast_server.expert.edge import Identity
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RankRequest
from recast_server.runtime.context import RequestContext

DIGEST = "sha256:" + "ab" * 32
PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest=DIGEST)
CONTEXT = (ContextFeature("device", "Categorical", ("phone",)), ContextFeature("battery", "Numeric"))
IDENTITY = Identity("reels", "reels", "0123456789", 7, PIN, ("click",), CONTEXT)


@dataclass
class FakeRanker:
    """Scores a candidate by its id, or by ``scores``; ``failure`` is raised instead where there is one."""

    failure: Exception | None = None
    scores: list[float] | None = None
    seen: list[RankRequest] = field(default_factory=list)
    contexts: list[RequestContext] = field(default_factory=list)

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        self.seen.append(request)
        self.contexts.append(context)
        if self.failure:
            raise self.failure
        scores = self.scores or [float(item % 1000) for item in request.candidates]
        return Ranking(scores, {"click": scores}, [], "fresh")
