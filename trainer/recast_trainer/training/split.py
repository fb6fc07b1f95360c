"""How a run divides its data in time: segments to learn from, and the tail that is measured on before it is learned.

An expert's last phase learns from the tail's older half, and its newer half is the held-out window that experts'
versions are measured on. ``spec.data.tail`` says how long it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recast_api.run import RecastError
from recast_trainer.data.segments import Segment

TAIL_SHARE = 5
MIN_TAIL, MAX_TAIL = 2, 24
"""Segments of a tail whose length nobody chose. A day of hours, or most of a month of days, are rows enough to measure
on: a longer tail makes what is measured older, and its rows are learned at the end's low rate."""
MIN_SEGMENTS = 4


@dataclass(frozen=True)
class Split:
    """Learned first are segments ``[0, learn)``; the halves of the tail are ``[learn, held_out)`` and what is left."""

    learn: int
    held_out: int
    end: int


def split(segments: Sequence[Segment], tail_ms: int | None = None) -> Split:
    """Divide the segments, the newest ``tail_ms`` of event time for the tail; None: a fifth of them, up to a limit.

    A segment that the duration cuts is no part of the tail; the newest two always are, even after a gap in the data.
    Raises ``DataTooShort`` where too little would be left, and ``TailTooShort`` for less than two segments' time.
    """
    count = len(segments)
    if count < MIN_SEGMENTS:
        raise RecastError(
            "DataTooShort",
            f"{count} segments of data are too few to learn from and hold out; at least {MIN_SEGMENTS} are needed: "
            "widen spec.data.window or wait for more data",
        )
    tail = min(round(count / TAIL_SHARE), MAX_TAIL) if tail_ms is None else _lasting(segments, tail_ms)
    tail = max(MIN_TAIL, tail)
    learn = count - tail
    if learn < MIN_SEGMENTS - MIN_TAIL:
        raise RecastError(
            "DataTooShort",
            f"spec.data.tail takes {tail} of {count} segments and leaves {learn} to learn from first; at least "
            f"{MIN_SEGMENTS - MIN_TAIL} are needed: shorten it, widen spec.data.window or wait for more data",
        )
    return Split(learn, count - tail // 2, count)


def _lasting(segments: Sequence[Segment], tail_ms: int) -> int:
    """Segments that lie whole within the newest so many milliseconds."""
    newest = segments[-1]
    least = MIN_TAIL * (newest.end - newest.start)
    if tail_ms < least:
        raise RecastError(
            "TailTooShort",
            f"spec.data.tail is {tail_ms // 1000} s; a segment of the data lasts {least // MIN_TAIL // 1000} s and two "
            f"are needed: give {least // 1000}s or more",
        )
    return sum(segment.start >= newest.end - tail_ms for segment in segments)
