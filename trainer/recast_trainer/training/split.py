"""How a run divides its data in time: segments to learn from, and the frozen tail that the version never learns.

The tail is the newest fifth, at least two segments: an expert's last phase learns from its older half, and its
newer half is the held-out window that versions are measured on.
"""

from __future__ import annotations

from dataclasses import dataclass

from recast_api.run import RecastError

TAIL_SHARE = 5
MIN_SEGMENTS = 4


@dataclass(frozen=True)
class Split:
    """Segments ``[0, learn)`` are learned, ``[learn, held_out)`` and ``[held_out, end)`` are the tail's halves."""

    learn: int
    held_out: int
    end: int


def split(segments: int) -> Split:
    """Divide a number of segments. Raises ``DataTooShort`` where no tail could be held out."""
    if segments < MIN_SEGMENTS:
        raise RecastError(
            "DataTooShort",
            f"{segments} segments of data are too few to learn from and hold out; at least {MIN_SEGMENTS} are needed: "
            "widen spec.data.window or wait for more data",
        )
    tail = max(2, round(segments / TAIL_SHARE))
    return Split(segments - tail, segments - tail // 2, segments)
