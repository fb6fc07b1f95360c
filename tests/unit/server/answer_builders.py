"""A log of answers on a disk that does as it is told."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from recast_api.answer_log import ANSWERS, IMPRESSIONS, Writer
from recast_server.answer_log.answer import Answer
from recast_server.answer_log.files import Appended, Files, LocalFiles
from recast_server.answer_log.log import AnswerLog
from recast_server.answer_log.metrics import AnswerLogMetrics
from recast_server.answer_log.store import Limits, Store
from recast_server.answer_log.tables import Table, answers_table, impressions_table

DIM, TASKS = 4, ["click", "like"]
DIGEST = "sha256:" + "ab" * 32


def a_writer(name: str = "pod-a.1") -> Writer:
    return Writer(
        id=name, model="reels", revision="r1", version=7, digest=DIGEST, surface="reels", tasks=TASKS, share="0.5"
    )


def tables(writer: Writer) -> dict[str, Table]:
    return {ANSWERS: answers_table(writer, DIM), IMPRESSIONS: impressions_table(writer)}


def an_answer(number: int, rows: int = 3, **changes: object) -> Answer:
    """Every number of it can be told from another answer's."""
    random = np.random.default_rng(number)
    values: dict[str, object] = {
        "request_id": f"request-{number}", "time_ms": 1000 + number, "answered_ms": 2000 + number, "user": number,
        "rung": "fresh", "foundation_version": 3, "foundation_digest": DIGEST, "foundation_cursor_ms": 999,
        "candidates": rows + 1, "items": np.arange(rows) + 10 * number, "positions": np.arange(rows, dtype=np.int32),
        "propensities": np.ones(rows, np.float32), "scores": random.random(rows),
        "probabilities": random.random((rows, len(TASKS))).astype(np.float32),
        "tae": random.normal(size=(rows, DIM)).astype(np.float16),
    }  # fmt: skip
    return Answer(**(values | changes))  # type: ignore[arg-type]


@dataclass
class Disk:
    """:class:`Files` that fail and wait on command."""

    inner: Files = field(default_factory=LocalFiles)
    fails: Callable[[str, str], OSError | None] = lambda operation, name: None
    """Asked before each operation on a file of that name; what it gives is raised."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Syncs wait for it."""
    torn: bool = False
    """Whether a write that fails leaves half of its bytes."""
    done: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def check(self, operation: str, path: Path) -> None:
        self.done.append((operation, path.name))
        if error := self.fails(operation, path.name):
            raise error

    def append_to(self, path: Path) -> Appended:
        self.check("create", path)
        return _Appended(self, path, self.inner.append_to(path))

    def is_held(self, path: Path) -> bool:
        return self.inner.is_held(path)

    def names(self, folder: Path) -> list[str]:
        return self.inner.names(folder)

    def size(self, path: Path) -> int:
        return self.inner.size(path)

    def read(self, path: Path) -> bytes:
        self.check("read", path)
        return self.inner.read(path)

    def write_whole(self, path: Path, data: bytes) -> None:
        self.check("write", path)
        self.inner.write_whole(path, data)

    def make_folder(self, path: Path) -> None:
        self.check("folder", path)
        self.inner.make_folder(path)

    def remove(self, path: Path) -> None:
        self.check("remove", path)
        self.inner.remove(path)


@dataclass
class _Appended:
    disk: Disk
    path: Path
    inner: Appended

    def write(self, data: bytes) -> None:
        try:
            self.disk.check("write", self.path)
        except OSError:
            if self.disk.torn:
                self.inner.write(data[: len(data) // 2])
            raise
        self.inner.write(data)

    def sync(self) -> None:
        self.disk.gate.wait(60)
        self.disk.check("sync", self.path)
        self.inner.sync()

    def truncate(self, size: int) -> None:
        self.disk.check("truncate", self.path)
        self.inner.truncate(size)

    def close(self) -> None:
        self.inner.close()


def full(*_: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def a_store(
    root: Path,
    writer: Writer | None = None,
    disk: Files | None = None,
    max_bytes: int = 1 << 20,
    roll_bytes: int = 1 << 17,
    lost: Callable[[str, int], None] = lambda table, records: None,
) -> Store:
    """One that is open, and whose segments last an hour."""
    writer = writer or a_writer()
    limits = Limits(max_bytes, roll_bytes, 3600.0)
    store = Store(root, writer.id.split(".")[0], writer, limits, disk or LocalFiles(), lost)
    store.open()
    return store


@dataclass
class Running:
    """A log with its thread."""

    log: AnswerLog
    disk: Disk
    registry: CollectorRegistry
    root: Path

    def value(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, f"no metric {name} {labels}"
        return value

    def logged(self, table: str = ANSWERS) -> float:
        return self.value("recast_answers_logged_total", table=table)

    def dropped(self, table: str = ANSWERS) -> dict[str, float]:
        causes = ("buffer", "full", "failed", "oldest")
        found = {cause: self.value("recast_answers_dropped_total", table=table, cause=cause) for cause in causes}
        return {cause: count for cause, count in found.items() if count}


def a_log(
    root: Path,
    disk: Disk | None = None,
    *,
    window_seconds: float = 0.01,
    buffer_bytes: int = 1 << 20,
    name: str = "pod-a.1",
) -> Running:
    writer, disk, registry = a_writer(name), disk or Disk(), CollectorRegistry()
    metrics = AnswerLogMetrics(registry)
    store = Store(
        root, "pod-a", writer, Limits(1 << 20, 1 << 17, 3600.0), disk,
        lambda table, records: metrics.dropped(table, "oldest", records),
    )  # fmt: skip
    log = AnswerLog(store, tables(writer), metrics, window_seconds=window_seconds, buffer_bytes=buffer_bytes)
    return Running(log, disk, registry, root)
