"""The one thread that runs the model, with a bounded queue in front.

The event loop never computes and the model thread never waits for I/O. Work that nobody waits for any more (its
caller gave up, or its deadline passed) is dropped before it costs anything: under overload that is most of the work.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """The queue holds as much as it may; the caller must refuse the request."""


class ExpiredError(Exception):
    """The deadline passed while the work was waiting; it was not done."""


@dataclass(frozen=True)
class _Job:
    function: Callable[[], Any]
    future: Future[Any]
    deadline: float  # on time.monotonic's clock


class ModelThread:
    """Runs one function at a time, first come first served, in a thread of its own."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Drops what waits, lets what runs finish and ends the thread."""
        with self._wake:
            self._closed = True
            while self._jobs:
                self._jobs.popleft().future.cancel()
            self._wake.notify()
        self._thread.join(timeout_seconds)

    async def run(self, function: Callable[[], T], *, timeout_seconds: float = float("inf")) -> T:
        """The function's result. Raises :class:`QueueFullError` at once, :class:`ExpiredError` when its turn came late.

        Cancelling the caller drops the work if it has not begun.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._closed or len(self._jobs) >= self._capacity:
                raise QueueFullError(f"{len(self._jobs)} requests wait already")
            self._jobs.append(_Job(function, future, time.monotonic() + timeout_seconds))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def alive(self, stuck_after_seconds: float) -> bool:
        """Whether the thread runs and has not been at one piece of work for longer than this."""
        busy_since = self._busy_since
        return self._thread.is_alive() and (busy_since is None or time.monotonic() - busy_since < stuck_after_seconds)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closed:
                    self._wake.wait()
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            if not job.future.set_running_or_notify_cancel():
                continue
            if time.monotonic() > job.deadline:
                job.future.set_exception(ExpiredError("the deadline passed in the queue"))
                continue
            self._busy_since = time.monotonic()
            try:
                job.future.set_result(job.function())
            except BaseException as error:
                job.future.set_exception(error)
            finally:
                self._busy_since = None
            del job
