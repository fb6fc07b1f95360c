"""How long the event loop needs before it looks at what came for it: a request, or the model's answer to one.

What waits there is in no queue that could be counted. A timer knows: it is as late as everything else.
"""

from __future__ import annotations

import asyncio
import time

PERIOD_SECONDS = 0.01
RESOLUTION_SECONDS = 0.001
"""Of the loop's timers: less than this is no lag."""
DECAY = 0.8
"""Of what was seen last, for each period since: a loop that was late once may be late again."""


LATE_SHARE, LATE_SECONDS = 0.25, 0.002
"""A timer is on time up to so much of its time and so many seconds more."""


def fired_late(waited_seconds: float, given_seconds: float) -> bool:
    """Whether a timeout came so late that it tells of our own loop: what was waited for may well be there. Pure."""
    return waited_seconds > (1 + LATE_SHARE) * given_seconds + LATE_SECONDS


class LoopLag:
    """Measures while it is started, on the event loop that started it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """The lag expected now."""
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._due = time.monotonic() + PERIOD_SECONDS
        self._timer = asyncio.get_running_loop().call_later(PERIOD_SECONDS, self._tick)

    def stop(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        late = max(0.0, time.monotonic() - self._due - RESOLUTION_SECONDS)
        self.seconds = late if late > self.seconds else max(late, DECAY * self.seconds)
        self.start()
