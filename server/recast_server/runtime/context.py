"""What is known of a request from the edge to the model thread: who asks, and until when an answer is worth something.

Cancellation is the task's own: whoever gives up cancels the task that works for it, and everything beneath, the call to
the foundation included, ends with it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_SECONDS = 60.0
"""Of a client's own deadline. Nothing interactive waits longer, and what waits holds memory."""
RESERVE = 0.1
"""Share of the SLO that is kept for the way back: an answer that is ready just in time comes late."""
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
"""W3C Trace Context, version 00."""
_MILLISECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True)
class RequestContext:
    """``deadline`` is absolute, in seconds on the clock of :func:`time.monotonic`."""

    request_id: str
    deadline: float
    traceparent: str | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - time.monotonic()

    @property
    def trace_id(self) -> str | None:
        """The trace that the request is part of, for logs."""
        return self.traceparent.split("-")[1] if self.traceparent else None


def deadline(begin: float, asked_milliseconds: str | None, slo_seconds: float) -> float:
    """When a request that came at ``begin`` (seconds) is no longer waited for.

    ``asked_milliseconds`` is what its client says in the header :data:`recast_api.names.HEADER_TIMEOUT`, which counts
    where it is a whole number above 0. Others have the SLO less :data:`RESERVE`.
    """
    if asked_milliseconds is not None and _MILLISECONDS.fullmatch(asked_milliseconds) and int(asked_milliseconds):
        return begin + min(int(asked_milliseconds) / 1000, LONGEST_SECONDS)
    return begin + (1 - RESERVE) * slo_seconds


def traceparent(headers: Mapping[str, str]) -> str | None:
    """The W3C trace context of a request; None without one, or where it cannot be read."""
    text = headers.get("traceparent", "")
    return text if _TRACEPARENT.fullmatch(text) else None


def deadline_of_call(remaining: float | None, longest: float) -> float:
    """The deadline of a gRPC call that has so many seconds left; ``longest`` for one that came without a deadline.

    A call that has none left has none: only one that never had a deadline gets the longest.
    """
    return time.monotonic() + (longest if remaining is None else min(remaining, longest))
