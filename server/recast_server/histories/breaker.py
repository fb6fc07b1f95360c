"""When a store that fails is left alone, so that a dead one costs a request nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 5
"""In a row, after which it is left alone."""
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class Breaker:
    """Times are in seconds on one clock."""

    failures: int = 0
    """In a row."""
    closed_from: float = 0.0
    """Until then nobody asks."""

    def allows(self, now: float) -> bool:
        """Whether to ask now."""
        return now >= self.closed_from

    def asking(self, now: float) -> Breaker:
        """While one asks a store that failed, no other does."""
        return Breaker(self.failures, now + self._pause) if self.failures >= FAILURES else self

    def after(self, answered: bool, now: float) -> Breaker:
        """Once it has answered, or failed."""
        if answered:
            return Breaker()
        failed = Breaker(self.failures + 1, self.closed_from)
        return Breaker(failed.failures, now + failed._pause) if failed.failures >= FAILURES else failed

    @property
    def _pause(self) -> float:
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.failures - FAILURES, 10))
