"""Prometheus metrics of the queue before the model; the same on both servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recast_api import server as contract
from recast_server.runtime.metrics import EDGES

Refusal = Literal["full", "late"]
Drop = Literal["late", "abandoned"]


class QueueMetrics:
    """Depth, wait, batches, and what never ran."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._depth = Gauge(contract.QUEUE_REQUESTS, "Requests admitted and not answered", registry=registry)
        self._wait = Histogram(
            contract.QUEUE_WAIT_SECONDS, "Wait of requests for the model", buckets=EDGES, registry=registry
        )
        self._requests = Histogram(
            contract.BATCH_REQUESTS, "Requests of a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=registry
        )
        self._seconds = Histogram(contract.BATCH_SECONDS, "Wall time of batches", buckets=EDGES, registry=registry)
        self._refused = Counter(contract.QUEUE_REFUSED_TOTAL, "Requests not admitted", ["reason"], registry=registry)
        self._dropped = Counter(
            contract.QUEUE_DROPPED_TOTAL, "Requests admitted that never ran", ["reason"], registry=registry
        )
        for refusal in ("full", "late"):
            self._refused.labels(refusal)
        for drop in ("late", "abandoned"):
            self._dropped.labels(drop)

    def waiting(self, requests: int) -> None:
        """So many are admitted now."""
        self._depth.set(requests)

    def refused(self, reason: Refusal) -> None:
        """One was not admitted."""
        self._refused.labels(reason).inc()

    def dropped(self, reason: Drop, requests: int) -> None:
        """So many will never run."""
        self._dropped.labels(reason).inc(requests)

    def ran(self, requests: int, seconds: float, waits: Sequence[float]) -> None:
        """A batch ran, after its requests had waited so many seconds."""
        self._requests.observe(requests)
        self._seconds.observe(seconds)
        for wait in waits:
            self._wait.observe(wait)
