"""When a replica of the foundation is taken out, and when it comes back. Pure: time and chance are passed in.

A replica is ejected after :data:`FAILURES` calls in a row that were no answer, or one answer of a version that is not
the pair's. From then on no request is sent to it; it is probed in the background until it says which version it is.
Whoever was ejected without reason is back after one round trip, since the first probe is due at once: it tells a
process that is frozen from one that is merely slow. A further ejection before any call was answered, and every probe
that fails, doubles the time to the next probe, up to :data:`LONGEST_SECONDS`.

What is no answer (:func:`evidence`):

- the code says so: UNAVAILABLE, INTERNAL, and whatever else a foundation that works does not say;
- or the deadline passed in silence, on a call that had twice the time that this replica's answers take of late. A
  shorter one says nothing about the replica, so overload never ejects one; nor does one that
  our own event loop noticed late.

RESOURCE_EXHAUSTED is an answer: an overloaded replica is not ejected for saying so. A call that we gave up ourselves
says nothing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Self

from recast_server.runtime.loop_lag import fired_late
from recast_server.runtime.metrics import PAIR_MISMATCH

FAILURES = 3
FIRST_SECONDS = 0.25
LONGEST_SECONDS = 4.0
JITTER = 0.25
"""Share by which a wait is lengthened at most, so that the experts of a foundation do not probe in step."""
USUAL_TIMES = 2.0
"""A deadline shorter than so many times what answers take of late passes by chance where a replica is busy."""
EARLY_SECONDS = 0.002
"""By how much a timer of our own may fire too early: loops count whole milliseconds."""
_ANSWERS = frozenset({"OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"})


class Evidence(enum.Enum):
    """What the end of a call says of the replica that was asked."""

    ANSWER = enum.auto()
    NO_ANSWER = enum.auto()
    WRONG_VERSION = enum.auto()
    NONE = enum.auto()


def evidence(code: str, waited_seconds: float, given_seconds: float, usual_seconds: float) -> Evidence:
    """What a call says that ended with the code, after so long, of so long that it was given.

    ``usual_seconds`` is what this replica's answers take of late; 0 where it gave none yet.
    """
    if code in _ANSWERS:
        return Evidence.ANSWER
    if code == PAIR_MISMATCH:
        return Evidence.WRONG_VERSION
    if code == "CANCELLED":
        return Evidence.NONE
    if code != "DEADLINE_EXCEEDED":
        return Evidence.NO_ANSWER
    if waited_seconds < given_seconds - EARLY_SECONDS:
        return Evidence.ANSWER  # said by the replica itself, which dropped the call
    if fired_late(waited_seconds, given_seconds):
        return Evidence.NONE
    return Evidence.NO_ANSWER if given_seconds >= USUAL_TIMES * usual_seconds else Evidence.NONE


@dataclass(frozen=True)
class Breaker:
    """One replica's. Times are seconds on one clock; a new one is closed: it lets calls through."""

    failures: int = 0
    """Calls in a row that were no answer."""
    setbacks: int = 0
    """Ejections and failed probes since a call was last answered."""
    probe_at: float | None = None
    """When to probe next; None while closed."""
    since: float = -math.inf
    """Since when it is open, or closed. Calls that began before say nothing of now."""

    @property
    def closed(self) -> bool:
        """Whether requests may be sent."""
        return self.probe_at is None

    def after_call(self, said: Evidence, begun: float, now: float, chance: float) -> Self:
        """Once a call has ended that began at ``begun``; ``chance`` is from [0, 1)."""
        if not self.closed or begun < self.since or said is Evidence.NONE:
            return self
        if said is Evidence.ANSWER:
            return replace(self, failures=0, setbacks=0)
        failures = self.failures + 1
        if said is Evidence.WRONG_VERSION or failures >= FAILURES:
            return self._open(now, chance)
        return replace(self, failures=failures)

    def after_probe(self, right: bool, now: float, chance: float) -> Self:
        """Once a probe has ended; ``right``: the replica answered and is the pair's."""
        return replace(self, failures=0, probe_at=None, since=now) if right else self._open(now, chance)

    def _open(self, now: float, chance: float) -> Self:
        wait = 0.0
        if self.setbacks:
            doublings = min(self.setbacks - 1, 16)  # far beyond the longest, and no number that overflows
            wait = min(FIRST_SECONDS * 2**doublings, LONGEST_SECONDS) * (1 + JITTER * chance)
        since = now if self.closed else self.since
        return replace(self, failures=0, setbacks=self.setbacks + 1, probe_at=now + wait, since=since)
