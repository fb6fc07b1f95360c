"""Which histories answers rested on, how old they were, and what a store did."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from recast_api import server as contract

AGE_EDGES = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0, 30 * 86400.0)
READ_EDGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)


class HistoryMetrics:
    """Histories of an expert's requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            contract.HISTORIES_TOTAL, "Requests by source and state of their history", ["source", "state"],
            registry=registry,
        )  # fmt: skip
        self._fallbacks = Counter(
            contract.HISTORY_FALLBACKS_TOTAL, "Histories that a store did not give, by reason", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._age = Histogram(
            contract.HISTORY_AGE_SECONDS, "Age of histories that clients did not send", buckets=AGE_EDGES,
            registry=registry,
        )  # fmt: skip
        self._read = Histogram(
            contract.HISTORY_READ_SECONDS, "Wall time of reads of a store", buckets=READ_EDGES, registry=registry
        )
        for source in (contract.HISTORY_INLINE, contract.HISTORY_STORE, contract.HISTORY_ARTIFACT):
            for state in (contract.HISTORY_FRESH, contract.HISTORY_STALE):
                self._answers.labels(source, state)
        for reason in contract.HISTORY_FALLBACKS:
            self._fallbacks.labels(reason)

    def answered(self, source: str, state: str, age_seconds: float | None) -> None:
        """Counts one request."""
        self._answers.labels(source, state).inc()
        if age_seconds is not None:
            self._age.observe(age_seconds)

    def fallback(self, reason: str) -> None:
        """Counts one history that a store did not give, or that was stale."""
        self._fallbacks.labels(reason).inc()

    def read(self, seconds: float) -> None:
        """Counts one read of a store."""
        self._read.observe(seconds)
