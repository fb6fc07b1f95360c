"""Which of the waiting work runs next, and which is not worth running any more. Pure.

Work is taken in the order it came. What cannot end in time is dropped before it costs anything: under overload that is
most of the work, and to compute it would make what comes after it late too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from recast_server.runtime.cost import CostModel


@dataclass(frozen=True)
class Work:
    """A request that waits for an engine, and what is known of it before it runs."""

    engine: Any
    """Captured when the request came: a batch never mixes engines."""
    request: Any
    units: float
    shape: Hashable
    """Requests of one shape run together; others would be padded to the largest."""
    deadline: float  # on time.monotonic's clock

    def joins(self, other: Work) -> bool:
        """Whether it may be in one batch with another."""
        return self.engine is other.engine and self.shape == other.shape


@dataclass(frozen=True)
class Selection:
    """Places in the queue: what runs now, and what is too late. The rest waits on."""

    batch: list[int]
    late: list[int]


def select(waiting: Sequence[Work], cost: CostModel, now: float) -> Selection:
    """The next batch.

    Where nothing can end in time, but something has time left, that which has most runs all the same: an answer that
    comes late may still be awaited, and an estimate that is never tried could never be corrected.
    """
    alone = [cost.batch(1, work.units) for work in waiting]
    timely = [place for place, work in enumerate(waiting) if now + alone[place] < work.deadline]
    if not timely:
        left = [place for place, work in enumerate(waiting) if work.deadline > now]
        timely = sorted(left, key=lambda place: waiting[place].deadline)[-1:]
        return Selection(timely, [place for place in range(len(waiting)) if place not in timely])
    kept = set(timely)
    late = [place for place in range(len(waiting)) if place not in kept]
    first, *others = timely
    batch, units, earliest = [first], waiting[first].units, waiting[first].deadline
    for place in others:
        if cost.is_full(len(batch), units):
            break
        work = waiting[place]
        ends = now + cost.batch(len(batch) + 1, units + work.units)
        if work.joins(waiting[first]) and ends < min(earliest, work.deadline):
            batch.append(place)
            units, earliest = units + work.units, min(earliest, work.deadline)
    return Selection(batch, late)
