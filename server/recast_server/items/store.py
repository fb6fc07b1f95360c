"""Items that are younger than the version, from a file that is read again whenever it changes.

Read in a thread of its own and checked there; what was read goes behind the version's items on the model thread,
between two batches, so that none sees two tables. A file that cannot be used changes nothing: what was read last stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from recast_api import server as contract
from recast_api.run import RecastError
from recast_api.server import ServedItems
from recast_server.items.metrics import ItemMetrics
from recast_server.runtime.scheduler import OverloadedError, Scheduler

if TYPE_CHECKING:
    from recast_model.items import ItemTable
    from recast_model.items_file import ReadItems

MAX_BYTES = 32 << 20
"""Of ids and content of new items, at most."""
PEAK_BYTES = 4 * MAX_BYTES
"""Of memory while a file is read: those in use, those that are read, a sorted copy, and buffers."""
FIRST_READ_SECONDS = 10.0
"""How long a server that starts waits for its first read: a volume that hangs must not keep it from answering."""
NICENESS = 10
"""Of the thread that reads: below the event loop's and the model's."""
_log = logging.getLogger("recast.items")
T = TypeVar("T")


class Extendable(Protocol):
    """A loaded version, to which items can be added."""

    @property
    def items(self) -> ItemTable:
        """The version's own."""
        ...

    def extend(self, new: ItemTable) -> None:
        """Know these too, by their content, in place of any that were added before. Runs on the model thread."""
        ...


@dataclass(frozen=True)
class _Mark:
    """What says whether a file has changed."""

    modified_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Mark:
        return cls(found.st_mtime_ns, found.st_size, found.st_ino)


@dataclass(frozen=True)
class _Looked:
    """What is at the path now, and was not there when it was last looked at."""

    mark: _Mark
    content: ReadItems | RecastError


class ItemStore:
    """Keeps what ``engine`` knows of new items as the file says."""

    def __init__(self, served: ServedItems, engine: Extendable, scheduler: Scheduler, metrics: ItemMetrics) -> None:
        self._path, self._every = Path(served.path), served.every_seconds
        self._engine, self._scheduler, self._metrics = engine, scheduler, metrics
        self._mark: _Mark | None = None
        self._used: ItemTable | None = None
        self._said = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the file now, if it is there, and from now on whenever it changes."""
        if not self._engine.items.content.shape[1]:
            _log.warning("this version tells items by their ids alone: the file of new items is not read")
            return
        first = asyncio.create_task(self.poll())
        self._task = asyncio.create_task(self._keep_on(first))
        await asyncio.wait({first}, timeout=FIRST_READ_SECONDS)

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def poll(self) -> None:
        """Look at the file once. Whatever is wrong is logged, once for as long as it lasts, and counted."""
        try:
            looked = await _in_thread(self._look)
            if looked is None:
                return
            if isinstance(looked.content, RecastError):
                self._say(contract.ITEMS_REFUSED, str(looked.content))
            else:
                await self._use(looked.content, looked.mark)
            self._mark = looked.mark
        except FileNotFoundError:
            self._say(contract.ITEMS_MISSING, f"{self._path} is not there")
        except OverloadedError:
            pass  # this server ends
        except Exception as error:  # the next look may find a disk that answers
            self._say(contract.ITEMS_FAILED, f"{self._path}: {type(error).__name__}: {error}")

    async def _keep_on(self, first: asyncio.Task[None]) -> None:
        await first
        while True:
            await asyncio.sleep(self._every)
            await self.poll()

    def _look(self) -> _Looked | None:
        """None where nothing has changed. Raises ``OSError`` where the file cannot be read."""
        from recast_model.items_file import read_items  # imports PyArrow, which others need not load

        own = self._engine.items
        with self._path.open("rb") as file:
            mark = _Mark.of(os.fstat(file.fileno()))
            if mark == self._mark:
                return None
            content: ReadItems | RecastError
            try:
                content = read_items(file, own.content.shape[1], besides=own, max_bytes=MAX_BYTES)
            except RecastError as error:
                content = error
            if mark != _Mark.of(os.fstat(file.fileno())):
                content = RecastError(
                    "CorruptItems",
                    f"{self._path} changed while it was read: write it under another name, and rename it when it is"
                    " whole",
                )
        return _Looked(mark, content)

    async def _use(self, read: ReadItems, mark: _Mark) -> None:
        if self._used is None or not _same(self._used, read.items):
            await self._scheduler.run_exclusively(lambda: self._engine.extend(read.items))
        self._used = read.items
        new, ignored = len(read.items), read.rows - len(read.items)
        self._metrics.using(new, ignored, mark.modified_ns / 1e9)
        self._metrics.read(contract.ITEMS_LOADED)
        self._said = ""
        _log.info("items loaded", extra={"fields": {"path": str(self._path), "new": new, "ignored": ignored}})

    def _say(self, result: str, problem: str) -> None:
        self._metrics.read(result)
        if problem != self._said:
            fields = {"result": result, "problem": problem, "known": 0 if self._used is None else len(self._used)}
            missing = result == contract.ITEMS_MISSING
            _log.log(
                logging.INFO if missing and self._used is None else logging.ERROR,
                "the file of new items is not used",
                extra={"fields": fields},
            )
        self._said = problem


def _same(one: ItemTable, other: ItemTable) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.content, other.content)


async def _in_thread(function: Callable[[], T]) -> T:
    """The function's result, from a thread that does not keep the process from ending while a disk hangs."""
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="items", daemon=True).start()
    return await asyncio.wrap_future(future)
