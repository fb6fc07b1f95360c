"""What the log of answers tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from recast_api import server as contract
from recast_api.answer_log import TABLES


class AnswerLogMetrics:
    """Counters exist at zero from the start, also where no log is kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._logged = Counter(
            contract.ANSWERS_LOGGED_TOTAL, "Records of the log of answers on the disk", ["table"], registry=registry
        )
        self._dropped = Counter(
            contract.ANSWERS_DROPPED_TOTAL, "Records it lost", ["table", "cause"], registry=registry
        )
        self._bytes = Gauge(contract.ANSWERS_BYTES, "What it takes of the disk", registry=registry)
        self._unsynced = Gauge(
            contract.ANSWERS_UNSYNCED_SECONDS, "Age of its oldest record not on the disk", registry=registry
        )
        for table in TABLES:
            self._logged.labels(table)
            for cause in contract.ANSWERS_CAUSES:
                self._dropped.labels(table, cause)

    def watch(self, unsynced_seconds: Callable[[], float]) -> None:
        """Where the age of the oldest record is asked for."""
        self._unsynced.set_function(unsynced_seconds)

    def logged(self, table: str, records: int) -> None:
        """So many are on the disk."""
        self._logged.labels(table).inc(records)

    def dropped(self, table: str, cause: str, records: int) -> None:
        """So many are lost."""
        self._dropped.labels(table, cause).inc(records)

    def bytes(self, used: int) -> None:
        """What all files of the pod take."""
        self._bytes.set(used)
