"""Takes records from whoever answers and has them on the disk within a declared window. Nobody who answers waits.

Records lie in a buffer that is bounded in bytes; a thread writes and syncs what is there once a window. What finds no
room, and what the disk does not take, is dropped and counted by its cause: a log of answers must never cost an answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from recast_api import server as contract
from recast_server.answer_log.metrics import AnswerLogMetrics
from recast_server.answer_log.store import FULL, Store
from recast_server.answer_log.tables import Record, Table

SAID_SECONDS = 60.0
"""How often a log that cannot write says so."""
_log = logging.getLogger("recast.answers")


class AnswerLog:
    """Has a thread of its own until :meth:`close`."""

    def __init__(
        self,
        store: Store,
        tables: Mapping[str, Table],
        metrics: AnswerLogMetrics,
        *,
        window_seconds: float,
        buffer_bytes: int,
    ) -> None:
        self._store, self._tables, self._metrics = store, tables, metrics
        self._window, self._buffer_bytes = window_seconds, buffer_bytes
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, str, Record]] = []  # each with when it came
        self._waiting_bytes = 0  # those being written included
        self._writing: float | None = None  # when the oldest of those being written came
        self._closing = False
        self._wake = threading.Event()
        self._opened = False
        self._said = -SAID_SECONDS
        metrics.watch(self.unsynced_seconds)
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def take(self, table: str, record: Record) -> bool:
        """Takes a record; False where there is no room for it, which is counted."""
        size = record.bytes
        with self._lock:
            if self._closing or self._waiting_bytes + size > self._buffer_bytes:
                self._metrics.dropped(table, contract.ANSWERS_BUFFER, 1)
                return False
            self._waiting.append((time.monotonic(), table, record))
            self._waiting_bytes += size
            if self._waiting_bytes > self._buffer_bytes // 2:
                self._wake.set()
        return True

    def unsynced_seconds(self) -> float:
        """How long the oldest record waits that is not on the disk; 0 where there is none."""
        with self._lock:
            came = self._writing if self._writing is not None or not self._waiting else self._waiting[0][0]
        return 0.0 if came is None else time.monotonic() - came

    def close(self, seconds: float) -> bool:
        """Writes what waits and makes segments of all journals; whether that was done within so many seconds."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.error("the log of answers could not be written in time", extra={"fields": {"records": self._left()}})
            return False
        return True

    def _left(self) -> int:
        with self._lock:
            return len(self._waiting)

    def _work(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(self._window)
            with self._lock:
                closing = self._closing
                self._wake.clear()
                records, self._waiting = self._waiting, []
                taken, self._writing = self._waiting_bytes, records[0][0] if records else None
            self._write(records)
            with self._lock:
                self._waiting_bytes -= taken
                self._writing = None
            try:
                if self._opened:
                    self._store.tidy(time.monotonic(), everything=closing)
            except Exception:
                _log.exception("a segment of the log of answers could not be made")
            self._metrics.bytes(self._store.used_bytes)

    def _write(self, records: list[tuple[float, str, Record]]) -> None:
        by_table: dict[str, list[Any]] = defaultdict(list)
        for _, table, record in records:
            by_table[table].append(record)
        if not self._opened:
            self._open()
        for name, some in by_table.items():
            try:
                if not self._opened:
                    raise OSError("its folder cannot be opened")
                self._store.append(self._tables[name], some, time.monotonic())
                self._metrics.logged(name, len(some))
            except Exception as error:
                full = isinstance(error, OSError) and error.errno in FULL
                self._metrics.dropped(name, contract.ANSWERS_FULL if full else contract.ANSWERS_FAILED, len(some))
                self._say(error)

    def _open(self) -> None:
        try:
            self._store.open()
            self._opened = True
        except Exception as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._said >= SAID_SECONDS:
            self._said = now
            expected = isinstance(error, OSError)
            fields = {"error": str(error)}
            _log.error("answers are not logged", exc_info=None if expected else error, extra={"fields": fields})
