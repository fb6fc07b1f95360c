"""What stands in for embeddings that the foundation does not give in time: those that it gave the same user lately.

A ladder, each rung worth less than the one before:

==========  =======================================================================================================
``fresh``   the foundation's answer to this request
``cached``  every candidate was embedded for this user within the age that is allowed: the newest row of each
``pooled``  some were, or other candidates were: known rows, and the mean of the user's rows for all others
``absent``  nothing is known: the network's learned vector for that
==========  =======================================================================================================

Rows stay in memory, as many bytes as are allowed, the users that were not heard of for longest leaving first. They are
of one version, the pair's own: another version's rows are numbers without meaning.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recast_api import server as contract

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recast_server.expert.tae_client import ServedFoundation

    Ids = Sequence[int] | NDArray[np.int64]

ANSWERS = 4
"""Of a user that are kept, the newest."""
OVERHEAD_BYTES = 1536
"""What an answer costs beside its numbers, its user's own place included: measured with one answer a user."""


@dataclass(frozen=True)
class Rung:
    """What a request is ranked with: rows (M, D) for M candidates, None where there are none, and their source."""

    rows: NDArray[np.floating] | None
    source: str
    served: ServedFoundation | None = None
    """The version that made them, where they are fresh."""
    cursor_ms: int = 0
    """It has learned labels up to this instant; 0 where it does not say."""


ABSENT = Rung(None, contract.TAE_ABSENT)


@dataclass(frozen=True)
class _Answer:
    at: float
    items: NDArray[np.int64]
    rows: NDArray[np.floating]

    @property
    def bytes(self) -> int:
        return self.items.nbytes + self.rows.nbytes + OVERHEAD_BYTES


class TaeCache:
    """Rows by user and item. Times are seconds on one clock, which never goes back."""

    def __init__(self, capacity_bytes: int, max_age_seconds: float) -> None:
        """Nothing is kept, and every lookup is ``absent``, where either is 0."""
        self._capacity_bytes, self._max_age_seconds = capacity_bytes, max_age_seconds
        self._users: OrderedDict[int, deque[_Answer]] = OrderedDict()
        self.bytes = 0
        """Of all that is kept."""

    def remember(self, user: int, candidates: Ids, rows: NDArray[np.floating], now: float) -> None:
        """Keep what the foundation said just now. ``rows`` (M, D) belongs to the cache from here on."""
        if not self._max_age_seconds:
            return
        answer = _Answer(now, np.asarray(candidates, np.int64), rows)
        if answer.bytes > self._capacity_bytes:
            return
        kept = self._users.setdefault(user, deque())
        self._users.move_to_end(user)
        while kept and (len(kept) >= ANSWERS or now - kept[0].at > self._max_age_seconds):
            self.bytes -= kept.popleft().bytes
        kept.append(answer)
        self.bytes += answer.bytes
        while self.bytes > self._capacity_bytes:
            oldest, answers = next(iter(self._users.items()))
            self.bytes -= answers.popleft().bytes
            if not answers:
                del self._users[oldest]

    def recall(self, user: int, candidates: Ids, now: float) -> Rung:
        """The best rung that there is for these candidates."""
        young = [a for a in self._users.get(user, ()) if now - a.at <= self._max_age_seconds]
        if not young:
            return ABSENT
        items = np.concatenate([answer.items for answer in reversed(young)])  # newest first
        rows = np.concatenate([answer.rows for answer in reversed(young)])
        order = np.argsort(items, kind="stable")
        asked = np.asarray(candidates, np.int64)
        place = order[np.minimum(np.searchsorted(items[order], asked), len(order) - 1)]  # the newest of each item
        known = items[place] == asked
        if known.all():
            return Rung(rows[place], contract.TAE_CACHED)
        mean = rows.astype(np.float32).mean(axis=0).astype(rows.dtype)
        return Rung(np.where(known[:, None], rows[place], mean), contract.TAE_POOLED)
