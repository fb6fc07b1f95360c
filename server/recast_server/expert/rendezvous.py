"""Which of a foundation's replicas a user is asked of. Pure.

Rendezvous hashing (Thaler and Ravishankar, 1998): every replica has a score for the user and the highest wins, so a
user keeps a replica, which can reuse what it computed for her; when a replica comes or goes only its own users move.
With bounded load (Mirrokni, Thorup and Zadimoghaddam, 2018): one that has too many calls in flight is passed over.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

LOAD_BOUND = 1.25
"""How many times the mean of calls in flight a replica may have and still be given one more."""
_MASK = 2**64 - 1


def seed(address: str) -> int:
    """What a replica's scores are made from; the same in every process."""
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest())


def choose(user: int, seeds: Sequence[int], in_flight: Sequence[int]) -> int:
    """The place of the replica to ask, among at least one.

    It has the highest score for the user of those whose calls in flight are at most :data:`LOAD_BOUND` times the mean,
    rounded up. There always is one, since the least loaded is at most at the mean.
    """
    bound = math.ceil(LOAD_BOUND * sum(in_flight) / len(in_flight))
    return max((place for place, calls in enumerate(in_flight) if calls <= bound), key=lambda p: _score(user, seeds[p]))


def _score(user: int, seed: int) -> int:
    """64 bits, mixed as SplitMix64 does (Steele, Lea and Flood, 2014)."""
    mixed = (user ^ seed) & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31
