"""How long the foundation will take for one request more. Pure.

What it took for each of those that were asked of it at the same time, times those that are: it answers them one after
another, whatever made it slow. So the estimate falls by itself when fewer are asked, and none refuses for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.05


@dataclass
class HopEstimate:
    """Calls that are under way, and what each of them cost of late."""

    under_way: int = 0
    seconds_each: float = 0.0

    @property
    def seconds(self) -> float:
        """What one more should take."""
        return (self.under_way + 1) * self.seconds_each

    def begin(self) -> int:
        """A call leaves; returns how many are under way with it."""
        self.under_way += 1
        return self.under_way

    def end(self, beside: int, seconds: float) -> None:
        """A call that left as one of ``beside`` took so long, however it ended."""
        self.under_way -= 1
        self.seconds_each += SMOOTHING * (seconds / beside - self.seconds_each)
