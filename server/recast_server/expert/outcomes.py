"""What became of requests, counted and logged once each, when it is known: the same for every port and interface."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from recast_api.server import CLIENT_GONE
from recast_server.histories.reader import Seen
from recast_server.runtime.metrics import ScoringRequests

TAE_NONE = "none"
"""Where an answer's embeddings came from, of one without scores."""
REFUSALS_SECONDS = 1.0
"""Refusals under overload are logged together, one line for each so many seconds."""
_log = logging.getLogger("recast.expert")


@dataclass(frozen=True)
class Outcome:
    """Of one request."""

    request_id: str
    trace_id: str | None
    status: int
    """The HTTP status, or what would be it."""
    seconds: float
    complete: bool = True
    """Whether all of it had come."""
    tae: str | None = None
    """Where its scores' embeddings came from; None without scores."""
    history: Seen | None = None
    """Which history of the user they rest on."""


class Outcomes:
    """Where they go."""

    def __init__(self, metrics: ScoringRequests) -> None:
        self._metrics = metrics
        self._refusals = 0  # that the log does not have yet

    def scored(self, outcome: Outcome) -> None:
        """Of a request that a revision is judged by."""
        status = outcome.status
        if status == CLIENT_GONE:
            self._metrics.disconnected(outcome.seconds if outcome.complete else None)
        else:
            self._metrics.observe(status, outcome.seconds, outcome.tae if status == 200 else None)
        if status == 503:
            self._count_refusal()
        else:
            self._log(outcome)

    def other(self, outcome: Outcome) -> None:
        """Of any other."""
        self._metrics.other(outcome.status)
        self._log(outcome)

    def _log(self, outcome: Outcome) -> None:
        milliseconds = round(outcome.seconds * 1000, 2)
        fields: dict[str, object] = {"requestId": outcome.request_id, "code": outcome.status, "ms": milliseconds}
        if outcome.trace_id is not None:
            fields["traceId"] = outcome.trace_id
        if outcome.history is not None:
            fields["history"] = outcome.history.body
        _log.info("request", extra={"fields": {**fields, "tae": outcome.tae or TAE_NONE}})

    def _count_refusal(self) -> None:
        def tell() -> None:
            _log.warning("requests refused: overloaded", extra={"fields": {"code": 503, "requests": self._refusals}})
            self._refusals = 0

        self._refusals += 1
        if self._refusals == 1:
            asyncio.get_running_loop().call_later(REFUSALS_SECONDS, tell)
