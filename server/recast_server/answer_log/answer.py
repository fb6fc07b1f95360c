"""What of an answer is kept: the candidates that were returned, in their order, and a sample of the others.

The sample is drawn by a hash of the request's id and the item, each with the same probability, its *propensity*: so
that a request that is sent again keeps the same ones, whichever pod answers it, and whoever learns from them can weight
each by one over its propensity. Nothing of the request's body is kept but ids: no context, no history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recast_api.answer_log import NOT_PRESENTED
from recast_server.expert.ranker import Ranking, presented
from recast_server.expert.schema import RankRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERHEAD_BYTES = 512
"""What an answer costs in memory beside its arrays, at most."""
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer; arrays have a row for each of the K candidates that are kept."""

    request_id: str
    time_ms: int
    """The request's own time, up to which its history was read."""
    answered_ms: int
    """When it was answered, by this machine's clock."""
    user: int
    rung: str
    """One of ``recast_api.server.TAE_STATES``."""
    foundation_version: int | None
    """Of the version that made the embeddings; None unless the rung is fresh."""
    foundation_digest: str | None
    foundation_cursor_ms: int | None
    """It had learned labels up to this instant; None where it does not say."""
    candidates: int
    """How many were scored."""
    items: NDArray[np.int64]  # (K,) raw ids
    positions: NDArray[np.int32]  # (K,) place in the answer from 0, or NOT_PRESENTED
    propensities: NDArray[np.float32]  # (K,) probability that the row is in the log: 1 of what was returned
    scores: NDArray[np.float64]  # (K,)
    probabilities: NDArray[np.float32]  # (K, T)
    tae: NDArray[np.float16] | None  # (K, D), what the network read

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        arrays = (self.items, self.positions, self.propensities, self.scores, self.probabilities, self.tae)
        return OVERHEAD_BYTES + sum(array.nbytes for array in arrays if array is not None)

    @classmethod
    def of(
        cls,
        request: RankRequest,
        request_id: str,
        ranking: Ranking,
        tasks: Sequence[str],
        share: float,
        answered_ms: int,
    ) -> Answer:
        """What is kept of a ranking. ``share`` of the candidates that are not returned are."""
        basis = ranking.basis
        asked_at = answered_ms if request.time is None else request.time
        top = np.array(presented(ranking.scores, request.limit), np.int64)
        items = np.array(request.candidates, np.int64)
        rest = np.ones(len(items), np.bool_)
        rest[top] = False
        others = np.flatnonzero(rest & sampled(request_id, items, share))
        kept = np.concatenate([top, others])
        tae = None
        # Only what is of the log's own type is what the network read, bit for bit.
        if basis is not None and basis.tae is not None and basis.tae.dtype == np.float16:
            tae = basis.tae[kept]
        served = basis.foundation if basis is not None else None
        return cls(
            request_id=request_id,
            time_ms=asked_at if basis is None else basis.time_ms,
            answered_ms=answered_ms,
            user=request.user,
            rung=ranking.tae,
            foundation_version=None if served is None else served.version,
            foundation_digest=None if served is None else served.digest,
            foundation_cursor_ms=(basis.cursor_ms or None) if basis is not None else None,
            candidates=len(items),
            items=items[kept],
            positions=np.append(np.arange(len(top)), np.full(len(others), NOT_PRESENTED)).astype(np.int32),
            propensities=np.append(np.ones(len(top)), np.full(len(others), share)).astype(np.float32),
            scores=np.array(ranking.scores, np.float64)[kept],
            probabilities=_probabilities(ranking, tasks, kept.tolist()),
            tae=tae,
        )


def sampled(request_id: str, items: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """(M,) which items of a request are in its sample: each with probability ``share``, the same ones each time."""
    if share >= 1:
        return np.ones(len(items), np.bool_)
    seed = np.frombuffer(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), np.uint64)
    with np.errstate(over="ignore"):
        mixed = seed + items.view(np.uint64) * _GOLDEN  # splitmix64 (Steele, Lea and Flood, 2014)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        mixed = mixed ^ (mixed >> np.uint64(31))
    drawn: NDArray[np.bool_] = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share
    return drawn


def _probabilities(ranking: Ranking, tasks: Sequence[str], kept: Sequence[int]) -> NDArray[np.float32]:
    """(K, T); NaN for a task that whoever wrapped the ranker left out."""
    found = np.full((len(kept), len(tasks)), np.nan, np.float32)
    for column, task in enumerate(tasks):
        if (values := ranking.probabilities.get(task)) is not None:
            found[:, column] = [values[row] for row in kept]
    return found
