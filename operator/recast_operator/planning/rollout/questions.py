"""What planning asks of a metrics store, in its own words: how many requests of a kind one revision had.

Which language the question is put in is an adapter's matter (:mod:`adapters.promql`). The answers come back in the
snapshot, by question.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from recast_api.resources import MetricName


class Count(StrEnum):
    """Requests to an expert's servers that can be counted."""

    REQUESTS = "requests"
    """All of them, whatever came of them."""
    ERRORS = "errors"
    """Answered with a fault of the server's."""
    SLOW = "slow"
    """That took longer than ``spec.serving.sloMilliseconds``."""
    TAE_ANSWERS = "TAE answers"
    """Answered with scores, from whatever embedding."""
    TAE_NOT_FRESH = "TAE answers that are not fresh"
    """Answered with scores, from another embedding than a fresh one of the foundation."""


BAD: dict[MetricName, Count] = {
    MetricName.ERROR_RATE: Count.ERRORS,
    MetricName.SLOW_SHARE: Count.SLOW,
    MetricName.FRESH_TAE_SHARE: Count.TAE_NOT_FRESH,
}
"""What counts against a canary, by metric."""
ALL: dict[MetricName, Count] = {
    MetricName.ERROR_RATE: Count.REQUESTS,
    MetricName.SLOW_SHARE: Count.REQUESTS,
    MetricName.FRESH_TAE_SHARE: Count.TAE_ANSWERS,
}
"""What the bad ones are a share of, by metric."""


@dataclass(frozen=True)
class Question:
    """How many requests of a kind the servers of one revision had, in the seconds up to the time of asking."""

    count: Count
    namespace: str
    model: str
    revision: str
    window_seconds: int


@dataclass(frozen=True)
class Answer:
    """A number, or why there is none."""

    count: float | None
    """None: nothing is known of such servers, or ``error`` says what went wrong."""
    error: str = ""
    """Why the question has no answer: connection refused, HTTP 500, not a number. Empty where it was answered."""
    query: str = ""
    """The question as it was put, so that a person can put it again."""


@dataclass(frozen=True)
class Track:
    """One revision over one window: what every question about it has in common."""

    namespace: str
    model: str
    revision: str
    window_seconds: int

    def ask(self, count: Count) -> Question:
        """One question about it."""
        return Question(count, self.namespace, self.model, self.revision, self.window_seconds)

    def bad(self, metric: MetricName) -> Question:
        """How many requests count against it."""
        return self.ask(BAD[metric])

    def all(self, metric: MetricName) -> Question:
        """How many requests the bad ones are a share of."""
        return self.ask(ALL[metric])
