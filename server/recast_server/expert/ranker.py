"""The seam between HTTP and the model: a :class:`Ranker` scores a checked request. The application knows no more.

Wrap it to add rules of your own, for instance to pin or to filter items: ``main(decorate=...)`` in
:mod:`recast_server.main`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from recast_server.expert.schema import RankRequest
from recast_server.histories.reader import Seen
from recast_server.runtime.context import RequestContext


@dataclass(frozen=True)
class Ranking:
    """Scores in the order of the request's candidates."""

    scores: list[float]
    probabilities: dict[str, list[float]]
    """Per task, the probability of each candidate."""
    unknown_items: list[int]
    tae: str
    """One of ``recast_api.server.TAE_STATES``."""
    unknown_context: list[str] = field(default_factory=list)
    """Features of the request's context whose value the version does not list."""
    history: Seen | None = None
    """Which history of the user it rests on."""

    @property
    def finite(self) -> bool:
        """Whether every score is a number to rank by."""
        return all(map(math.isfinite, self.scores))


class Ranker(Protocol):
    """Scores candidates."""

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """The ranking. Raises ``OverloadedError`` or ``ExpiredError`` under overload: the edge answers 503."""
        ...
