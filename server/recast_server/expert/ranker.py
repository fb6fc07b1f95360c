"""The seam between HTTP and the model: a :class:`Ranker` scores a checked request. The application knows no more.

Wrap it to add rules of your own, for instance to pin or to filter items: ``main(decorate=...)`` in
:mod:`recast_server.main`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from recast_server.expert.schema import RankRequest
from recast_server.histories.reader import Seen
from recast_server.runtime.context import RequestContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recast_server.expert.tae_client import ServedFoundation


@dataclass(frozen=True, eq=False)
class Basis:
    """What scores rest on, for the log of answers."""

    time_ms: int
    """The request's time."""
    tae: NDArray[np.floating] | None
    """(M, D), the rows that the network read; None for the absent vector."""
    foundation: ServedFoundation | None = None
    """The version that made them for this request; None where they are of an earlier one, or there are none."""
    cursor_ms: int = 0
    """That version has learned labels up to this instant; 0 where it does not say."""


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
    basis: Basis | None = field(default=None, compare=False, repr=False)
    """None where whoever wraps the ranker makes rankings of its own: the log then has no embeddings for them."""

    @property
    def finite(self) -> bool:
        """Whether every score is a number to rank by."""
        return all(map(math.isfinite, self.scores))


def presented(scores: Sequence[float], limit: int | None) -> list[int]:
    """Which candidates are returned, the best first: the first ``limit``, or all. Equals keep the order asked."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:limit]


class Ranker(Protocol):
    """Scores candidates."""

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        """The ranking. Raises ``OverloadedError`` or ``ExpiredError`` under overload: the edge answers 503."""
        ...
