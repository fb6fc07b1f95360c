"""Prometheus metrics of a server. Names come from :mod:`recast_api.server`, because the operator's analysis reads them.

Every label value that can occur exists at zero from the start: a rate over a series that appears at 1 misses its
first event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from recast_api import server as contract

# Seconds. The SLO's own edge is added, so that the share of slow requests is exact and not interpolated.
EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

PAIR_MISMATCH = "PAIR_MISMATCH"
"""A result that gRPC has no code for: an answer came, from a version that is not the pair's."""
RESULTS = (*(code.name for code in grpc.StatusCode), PAIR_MISMATCH)
"""How a TAE call can end. A proxy between the servers may answer with any of gRPC's codes."""


class FoundationCalls:
    """TAE calls that an expert made, and the replicas that it knows to make them to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            contract.FOUNDATION_CALLS_TOTAL, "TAE calls made, by gRPC status", ["code"], registry=registry
        )
        self._seconds = Histogram(
            contract.FOUNDATION_CALL_SECONDS, "Wall time of TAE calls made", buckets=EDGES, registry=registry
        )
        for code in RESULTS:
            self._total.labels(code)
        self._replicas = Gauge(
            contract.FOUNDATION_REPLICAS, "Replicas of the foundation that are known", ["state"], registry=registry
        )
        self._ejections = Counter(contract.FOUNDATION_EJECTIONS_TOTAL, "Replicas that were ejected", registry=registry)
        self.replicas(0, 0)

    def replicas(self, used: int, ejected: int) -> None:
        """So many are known now."""
        self._replicas.labels("used").set(used)
        self._replicas.labels("ejected").set(ejected)

    def ejected(self) -> None:
        """One was ejected."""
        self._ejections.inc()

    def not_made(self, code: str) -> None:
        """Counts a call that was not made, as if it had ended so."""
        self._total.labels(code).inc()

    def observe(self, code: str, seconds: float) -> None:
        """Counts one call."""
        self._total.labels(code).inc()
        self._seconds.observe(seconds)


class FoundationRequests:
    """TAE calls that a foundation answered; ``begin`` comes before each ``observe``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._in_flight = Gauge(contract.REQUESTS_IN_FLIGHT, "TAE calls without their answer yet", registry=registry)
        self._total = Counter(
            contract.FOUNDATION_REQUESTS_TOTAL, "TAE calls answered, by gRPC status", ["code"], registry=registry
        )
        self._seconds = Histogram(
            contract.FOUNDATION_SECONDS, "Wall time of TAE calls answered", buckets=EDGES, registry=registry
        )
        for code in grpc.StatusCode:
            self._total.labels(code.name)

    def begin(self) -> None:
        """A call came."""
        self._in_flight.inc()

    def observe(self, code: str, seconds: float) -> None:
        """Counts one call, which ends here."""
        self._in_flight.dec()
        self._total.labels(code).inc()
        self._seconds.observe(seconds)


class ScoringRequests:
    """Requests to an expert, each counted once, when its status is known.

    A client that hangs up before its answer is no answer of the server's, neither good nor bad: it has a counter of its
    own, which no verdict on a revision reads. Only one that had waited for longer than the SLO allows also counts as a
    slow request, with code 499: a revision that answers nobody in time must not look as if nobody had asked it.
    """

    def __init__(self, registry: CollectorRegistry, slo_seconds: float) -> None:
        self._slo_seconds = slo_seconds
        self._in_flight = Gauge(contract.REQUESTS_IN_FLIGHT, "Requests without their answer yet", registry=registry)
        self._total = Counter(contract.REQUESTS_TOTAL, "Requests by HTTP status", ["code"], registry=registry)
        self._other = Counter(
            contract.OTHER_REQUESTS_TOTAL, "What was no scoring request, by HTTP status", ["code"], registry=registry
        )
        self._slow = Counter(contract.SLOW_TOTAL, "Requests slower than the SLO", registry=registry)
        self._tae = Counter(contract.TAE_TOTAL, "Answered requests by source of TAE", ["state"], registry=registry)
        self._disconnects = Counter(
            contract.CLIENT_DISCONNECTS_TOTAL, "Requests whose client hung up before the answer", registry=registry
        )
        self._seconds = Histogram(
            contract.REQUEST_SECONDS,
            "Wall time of requests",
            buckets=sorted({*EDGES, slo_seconds}),
            registry=registry,
        )
        for code in contract.CODES:
            self._total.labels(code)
        for code in contract.OTHER_CODES:
            self._other.labels(code)
        for state in contract.TAE_STATES:
            self._tae.labels(state)

    def in_flight(self) -> AbstractContextManager[object]:
        """Counts one request while its answer is made."""
        return self._in_flight.track_inprogress()

    def other(self, status: int) -> None:
        """Counts what was no scoring request."""
        self._other.labels(str(status)).inc()

    def observe(self, status: int, seconds: float, tae: str | None) -> None:
        """Counts one request; ``tae`` is None where no scores were answered."""
        self._total.labels(str(status)).inc()
        self._seconds.observe(seconds)
        if seconds > self._slo_seconds:
            self._slow.inc()
        if tae is not None:
            self._tae.labels(tae).inc()

    def disconnected(self, waited_seconds: float | None) -> None:
        """Counts one client that hung up; None where it did before its request was complete."""
        self._disconnects.inc()
        if waited_seconds is not None and waited_seconds > self._slo_seconds:
            self.observe(contract.CLIENT_GONE, waited_seconds, None)


class _DroppedLines(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            contract.LOG_LINES_DROPPED_TOTAL, "Log lines that nobody read in time", value=self._dropped()
        )


def new_registry(dropped_lines: Callable[[], int]) -> CollectorRegistry:
    """A registry with the process's own figures: CPU, resident memory, open files, and log lines that were dropped."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_DroppedLines(dropped_lines))
    return registry
