"""What the operator tells Prometheus about itself. Every metric is made here; nobody else imports prometheus_client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The operator's own metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # half of all series, which nobody reads
        self.registry = CollectorRegistry()
        self._passes = Histogram(
            "recast_operator_reconcile_seconds",
            "Time at work of one pass over one model; its waits for Prometheus are not in it.",
            ["kind", "result"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._prometheus = Histogram(
            "recast_operator_prometheus_seconds",
            "Time that one pass waited for Prometheus.",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._status_writes = Counter(
            "recast_operator_status_writes_total", "Statuses written.", ["kind"], registry=self.registry
        )
        self._api_calls = Counter(
            "recast_operator_api_calls_total",
            "Requests to the apiserver.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._watch_events = Counter(
            "recast_operator_watch_events_total", "Events from watches.", ["kind"], registry=self.registry
        )
        self._missed = Counter(
            "recast_operator_watch_missed_total",
            "Objects that a periodic listing knew better than the watch.",
            ["kind"],
            registry=self.registry,
        )

        self._events_lost = Counter(
            "recast_operator_events_lost_total",
            "Events that were never posted: no room in the queue, refused, failed, or left over at the end.",
            ["reason"],
            registry=self.registry,
        )
        self._doubts_failed = Counter(
            "recast_operator_doubts_failed_total",
            "Objects whose last write has no known outcome, and that could not be read either.",
            ["kind"],
            registry=self.registry,
        )
        self._watches_ended = Counter(
            "recast_operator_watches_ended_total",
            "Watches that failed and were begun again.",
            ["kind"],
            registry=self.registry,
        )

    def event_lost(self, reason: str) -> None:
        """One event was dropped: ``overflow``, ``shutdown``, or the kind of error that refused it."""
        self._events_lost.labels(reason).inc()

    def doubt_failed(self, kind: str) -> None:
        """One object in doubt could not be read."""
        self._doubts_failed.labels(kind).inc()

    def watch_ended(self, kind: str) -> None:
        """One watch ended with an error."""
        self._watches_ended.labels(kind).inc()

    def pass_ended(self, kind: str, result: str, seconds: float) -> None:
        """One pass: ``Success``, or the kind of error that ended it."""
        self._passes.labels(kind, result).observe(seconds)

    def waited_for_prometheus(self, seconds: float) -> None:
        """One pass asked Prometheus."""
        self._prometheus.observe(seconds)

    def status_written(self, kind: str) -> None:
        """One status went to the apiserver."""
        self._status_writes.labels(kind).inc()

    def api_called(self, verb: str, resource: str, code: str) -> None:
        """One request was answered with ``code``, or ended in ``error``; ``resource`` is ``pods``, ``jobs/status``."""
        self._api_calls.labels(verb, resource, code).inc()

    def watch_event(self, kind: str) -> None:
        """One event was seen."""
        self._watch_events.labels(kind).inc()

    def watch_missed(self, kind: str, count: int) -> None:
        """A listing knew so many objects better than the watch."""
        self._missed.labels(kind).inc(count)

    def gauge(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, documentation, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
