"""Prometheus metrics of the keys and values that a foundation keeps."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recast_api import server as contract
from recast_server.foundation.kv_cache import CAUSES, KvCache, Lease

IDLE_EDGES = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200)
"""Seconds, up to beyond the time after which what is unused goes."""


class ReuseMetrics:
    """Events by whether they were computed, what is kept, how long it had waited, and why it went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            contract.KV_REQUESTS_TOTAL, "Requests by what was kept of their history", ["kept"], registry=registry
        )
        self._events = Counter(
            contract.KV_EVENTS_TOTAL, "Events of requests' histories, by source", ["source"], registry=registry
        )
        self._idle = Histogram(
            contract.KV_IDLE_SECONDS,
            "Time since the last use, of what was reused",
            buckets=IDLE_EDGES,
            registry=registry,
        )
        self._users = Gauge(contract.KV_USERS, "Users of whom keys and values are kept", registry=registry)
        self._used = Gauge(contract.KV_USED_RATIO, "Share of the room that is taken", registry=registry)
        self._evicted = Counter(
            contract.KV_EVICTED_TOTAL, "Users whose keys and values were given up", ["cause"], registry=registry
        )
        for kept in ("all", "part", "none"):
            self._requests.labels(kept)
        for source in ("kept", "computed"):
            self._events.labels(source)
        for cause in CAUSES:
            self._evicted.labels(cause)

    def answered(self, leases: Sequence[Lease], cache: KvCache) -> None:
        """These were answered, by a cache that is now so."""
        for lease in leases:
            self._requests.labels("none" if not lease.known else "part" if lease.writes else "all").inc()
            self._events.labels("kept").inc(lease.known)
            self._events.labels("computed").inc(lease.window.shape[1] - lease.known)
            if lease.idle_seconds is not None:
                self._idle.observe(lease.idle_seconds)
        self._users.set(len(cache))
        self._used.set(cache.used_ratio)
        for cause, count in cache.take_evicted().items():
            self._evicted.labels(cause).inc(count)
