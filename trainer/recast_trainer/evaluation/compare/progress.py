"""A line for each training, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

MINUTE = 60.0


class Progress:
    """``work`` is what all trainings together cost, in any one unit; ``say`` takes a line."""

    def __init__(
        self, runs: int, work: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runs, self._left, self._say, self._clock = runs, work, say, clock
        self._begun = self._last = clock()
        self._done, self._worked = 0, 0.0

    def finished(self, what: str, work: float) -> None:
        """One more training is over, which cost so much."""
        now = self._clock()
        self._done, self._worked, self._left = self._done + 1, self._worked + work, self._left - work
        took, self._last = now - self._last, now
        left = (now - self._begun) / self._worked * max(0.0, self._left)
        self._say(f"[{self._done:{len(str(self._runs))}}/{self._runs}] {what}, {took:.0f} s; {remaining(left)}")

    def less(self, work: float) -> None:
        """So much less is to be done than was thought."""
        self._left -= work


def remaining(seconds: float) -> str:
    """A time that is left, for people."""
    return f"about {seconds:.0f} s left" if seconds < 2 * MINUTE else f"about {seconds / MINUTE:.0f} min left"
