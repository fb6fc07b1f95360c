"""How many items a server knows by their content alone, from how old a file, and what came of reading it."""

from __future__ import annotations

import math
import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from recast_api import server as contract


class ItemMetrics:
    """Items beside the version's own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reads = Counter(
            contract.ITEMS_READS_TOTAL, "Reads of the file of new items, by result", ["result"], registry=registry
        )
        self._new = Gauge(contract.ITEMS_NEW, "Items known by their content alone", registry=registry)
        self._ignored = Gauge(contract.ITEMS_IGNORED, "Items of the file that the version knows", registry=registry)
        self._age = Gauge(
            contract.ITEMS_FILE_AGE_SECONDS, "Time since the file that is used changed", registry=registry
        )
        self._modified: float | None = None
        self._age.set_function(self._age_seconds)
        for result in contract.ITEMS_RESULTS:
            self._reads.labels(result)

    def read(self, result: str) -> None:
        """Counts one read."""
        self._reads.labels(result).inc()

    def using(self, new: int, ignored: int, modified: float) -> None:
        """A file that changed at this time is used, in seconds since 1970."""
        self._new.set(new)
        self._ignored.set(ignored)
        self._modified = modified

    def _age_seconds(self) -> float:
        return math.nan if self._modified is None else max(0.0, time.time() - self._modified)
