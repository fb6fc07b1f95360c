"""One JSON object per line on standard error: ``{"time", "level", "event", ...}``.

Fields are passed as ``extra={"fields": {...}}``. Neither request bodies nor configuration are ever logged; identifiers
of requests are.

Who reads standard error may be slow, or stand still; a pipe then holds 64 KiB and the next write waits. So nobody who
logs ever writes: lines go into a bounded buffer, a thread of its own writes them, and what finds no room is dropped
and counted.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

STANDARD_ERROR = 2
BUFFER_BYTES = 4 * 1024 * 1024
"""Of lines that wait to be written: about 20,000 requests."""
GATHER_SECONDS = 0.02
"""How long the writer waits for company once there is a line: else it would wake for each, beside the requests."""
CLOSE_SECONDS = 2.0
"""How long the end of a process waits for who reads its last lines."""


_ENCODER = json.JSONEncoder(default=str)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


class LogWriter(logging.Handler):
    """Writes lines to a file descriptor from a thread of its own; whoever logs never waits for it."""

    def __init__(self, descriptor: int, buffer_bytes: int | None = None) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.dropped = 0
        """Lines that found no room, ever."""
        self._descriptor = descriptor
        self._buffer_bytes = BUFFER_BYTES if buffer_bytes is None else buffer_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0  # those being written included
        self._told = 0  # of the dropped ones, how many the log itself has told of
        self._closing = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record, or drops it; see ``logging.Handler``."""
        try:
            text = self.format(record)
        except Exception as error:  # a record that cannot be written must fail no request
            text = json.dumps({"level": "error", "event": f"a record of {record.name} cannot be written: {error!r}"})
        self.line(text)

    def line(self, text: str) -> None:
        """Takes a line that is formatted already, or drops it."""
        data = text.encode("utf-8", "replace") + b"\n"
        with self._changed:
            if self._closing or self._waiting_bytes + len(data) > self._buffer_bytes:
                self.dropped += 1
                return
            self._lines.append(data)
            self._waiting_bytes += len(data)
            if len(self._lines) == 1:  # else it knows
                self._changed.notify()

    def close(self) -> None:
        """Writes what waits, as long as the reader takes it within ``CLOSE_SECONDS``; later lines are dropped."""
        self._hurry.set()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _work(self) -> None:
        while batch := self._next():
            written = self._write(b"".join(batch))
            with self._changed:
                self._waiting_bytes = sum(map(len, self._lines))
                if not written:  # nobody reads any more, so nobody needs to be told either
                    self.dropped += len(batch)
                    self._told = self.dropped

    def _next(self) -> list[bytes]:
        """What there is to write, once there is something; nothing at the end."""
        with self._changed:
            while not self._lines and self.dropped == self._told and not self._closing:
                self._changed.wait()
        self._hurry.wait(GATHER_SECONDS)
        with self._changed:
            batch, self._lines = self._lines, []
            lost, self._told = self.dropped - self._told, self.dropped
        return [*batch, self._loss(lost)] if lost else batch

    def _loss(self, count: int) -> bytes:
        record = logging.LogRecord("recast.logs", logging.WARNING, __file__, 0, "log lines were dropped", (), None)
        record.fields = {"dropped": count}
        return self.format(record).encode() + b"\n"

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True


@contextmanager
def configured(descriptor: int = STANDARD_ERROR) -> Iterator[LogWriter]:
    """Sends every logger's records to standard error as JSON; libraries only from warnings up.

    At its end, what waits is written as far as anyone reads it.
    """
    writer = LogWriter(descriptor)
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)
    logging.getLogger("recast").setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield writer
    finally:
        logging.captureWarnings(False)
        writer.close()
