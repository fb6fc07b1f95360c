"""Who may wait for the model, and the one thread that runs it.

A request is admitted before anything is done for it: a :class:`Ticket` holds its place in the backlog, also while its
server asks another one on its behalf, so that one decision covers both. What waits when the thread is free runs as a
batch (:mod:`recast_server.runtime.batching`); nothing waits for a batch to fill. The event loop never computes and the
model thread never waits for I/O. Work that nobody waits for any more is dropped before it costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from recast_server.runtime.batching import Work, select
from recast_server.runtime.cost import CostModel, Sample
from recast_server.runtime.queue_metrics import QueueMetrics

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
_Q = TypeVar("_Q", contravariant=True)
_A = TypeVar("_A", covariant=True)
_log = logging.getLogger("recast.scheduler")
LATE_SECONDS = 1.0
"""How long an answer that comes late is still awaited; a model that is stuck must not hold its callers."""
_CLOSING = "this server is shutting down"
EXPECTED_SHARE = 0.7
"""Of the time that is left. Estimates are means: what was expected to end just in time ends late as often as not."""


class OverloadedError(Exception):
    """Refused at once: the queue is full, or the answer could not be there in time."""


class ExpiredError(Exception):
    """The deadline came too near while the work was waiting; it was not done."""


class Engine(Protocol[_Q, _A]):
    """A loaded version: never changed, and captured by each request that is admitted. Runs on the model thread."""

    def units(self, request: _Q) -> float:
        """How much work a request is, on a scale of the engine's own. Called on the event loop: cheap."""
        ...

    def shape(self, request: _Q) -> Hashable:
        """What requests must share to run in one batch without waste. Called on the event loop: cheap."""
        ...

    def run(self, requests: Sequence[_Q]) -> Sequence[_A]:
        """One answer a request."""
        ...


@dataclass(frozen=True)
class _Job:
    work: Work
    ticket: Ticket[Any, Any]
    future: asyncio.Future[Any]
    queued: float


class Scheduler:
    """Admits work, batches it, and runs it in a thread of its own, the oldest first."""

    def __init__(self, capacity: int, metrics: QueueMetrics, lag: Callable[[], float] = lambda: 0.0) -> None:
        """``lag``: seconds that the event loop needs before it looks at what came for it, as an answer does."""
        self._capacity, self._metrics, self._lag = capacity, metrics, lag
        self._cost = CostModel()
        self._exclusive: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._jobs: list[_Job] = []
        self._tickets: set[Ticket[Any, Any]] = set()
        self._units = 0.0  # of all tickets
        self._running: tuple[float, list[Ticket[Any, Any]]] | None = None  # when the batch should end, and its tickets
        self._busy_since: float | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @property
    def cost(self) -> CostModel:
        """What batches are expected to take, from here on."""
        return self._cost

    def start(self, cost: CostModel | None = None) -> None:
        """Starts the thread."""
        self._cost = cost or self._cost
        self._thread.start()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Drops what waits, lets what runs finish and ends the thread."""
        self._drop_all(_CLOSING)
        self._thread.join(timeout_seconds)

    async def run_exclusively(self, function: Callable[[], T]) -> T:
        """The function's result, computed on the model thread before anything that waits: to load, to warm up."""
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise OverloadedError(_CLOSING)
            self._exclusive.append((function, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def learn_cost(self, samples: Sequence[Sample]) -> None:
        """Expect of batches what warm-up measured."""
        self._cost = CostModel.fit(samples)

    def admit(self, engine: Engine[Q, A], request: Q, deadline: float) -> Ticket[Q, A]:
        """A place in the backlog, to be left in any case: use it in a ``with`` statement.

        ``deadline`` is on :func:`time.monotonic`'s clock. Raises :class:`OverloadedError` where the answer might not be
        there in time: what is expected must fit into :data:`EXPECTED_SHARE` of what is left. A server that has nothing
        to do takes whatever comes: an estimate that is too high must not refuse for ever.
        """
        units = engine.units(request)
        if not 0 <= units < math.inf:
            raise ValueError(f"a request cannot be {units} units of work")
        with self._wake:
            ticket = Ticket(self, engine, units, deadline, self._spare(units, deadline))
            self._tickets.add(ticket)
            self._units += units
            self._metrics.waiting(len(self._tickets))
        return ticket

    def require_room(self, deadline: float) -> None:
        """Raise :class:`OverloadedError` where even the smallest request would be refused: known before it is read."""
        with self._wake:
            self._spare(0.0, deadline)

    @property
    def running(self) -> bool:
        """Whether the thread is there to do what is admitted."""
        return self._thread.is_alive()

    def alive(self, stuck_after_seconds: float) -> bool:
        """Whether the thread runs and has not been at one piece of work for longer than this."""
        busy_since = self._busy_since
        return self.running and (busy_since is None or time.monotonic() - busy_since < stuck_after_seconds)

    def _spare(self, units: float, deadline: float) -> float:
        """Seconds that a request of so many units would have to spare. Raises OverloadedError; see :meth:`admit`."""
        now, waiting = time.monotonic(), len(self._tickets)
        if self._closed or waiting >= self._capacity:
            self._metrics.refused("full")
            raise OverloadedError(f"{waiting} requests wait already")
        expected = self._wait(now) + self._cost.batch(1, units) + self._lag()
        spare = EXPECTED_SHARE * (deadline - now) - expected
        if waiting and spare <= 0:
            self._metrics.refused("late")
            raise OverloadedError(f"{waiting} requests wait already, more than can be answered in time")
        return max(0.0, spare)

    def _wait(self, now: float) -> float:
        """Seconds until all that was admitted is done."""
        if self._running is None:
            return self._cost.backlog(len(self._tickets), self._units)
        ends, batch = self._running
        running = [ticket for ticket in batch if ticket in self._tickets]  # the others' callers gave up
        units = max(0.0, self._units - sum(ticket.units for ticket in running))
        # A batch that is overdue is thought to take as long again as it is.
        return abs(ends - now) + self._cost.backlog(len(self._tickets) - len(running), units)

    def _enqueue(self, ticket: Ticket[Q, A], request: Q) -> asyncio.Future[A]:
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        shape = ticket.engine.shape(request)
        work = Work(ticket.engine, request, ticket.units, shape, ticket.deadline)
        with self._wake:
            if self._closed:
                raise OverloadedError(_CLOSING)
            self._jobs.append(_Job(work, ticket, future, time.monotonic()))
            self._wake.notify()
        return future

    def _leave(self, ticket: Ticket[Any, Any]) -> None:
        with self._wake:
            if ticket not in self._tickets:
                return
            self._forget([ticket])
            waiting = [job for job in self._jobs if job.ticket is not ticket]
            if len(waiting) < len(self._jobs):  # or what it holds would stay until the model is free
                self._metrics.dropped("abandoned", len(self._jobs) - len(waiting))
                self._jobs = waiting

    def _forget(self, tickets: Sequence[Ticket[Any, Any]]) -> None:
        for ticket in tickets:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
                self._units = self._units - ticket.units if self._tickets else 0.0
        self._metrics.waiting(len(self._tickets))

    def _drop_all(self, why: str) -> None:
        """Closes, and tells all who wait why."""
        with self._wake:
            self._closed = True
            jobs, self._jobs = self._jobs, []
            exclusive, self._exclusive = self._exclusive, []
            self._wake.notify()
        _settle([(job.future, OverloadedError(why)) for job in jobs])
        for _, future in exclusive:
            if future.set_running_or_notify_cancel():
                future.set_exception(OverloadedError(why))

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException:  # a mistake of this module's own: the server must not look as if it could answer
            _log.critical("the model thread failed; this server needs to be restarted", exc_info=True)
            self._drop_all("this server cannot answer any more")

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._jobs or self._exclusive or self._closed):
                    self._wake.wait()
                if self._closed and not self._exclusive and not self._jobs:
                    return
                if self._exclusive:
                    task = self._exclusive.pop(0)
                    batch: list[_Job] = []
                else:
                    task, batch = None, self._take(time.monotonic())
            if task is not None:
                self._run_exclusively(*task)
            elif batch:
                self._run(batch)
            del task, batch  # nothing is held while the thread waits

    def _take(self, now: float) -> list[_Job]:
        """The next batch out of the queue; what is too late or abandoned leaves it too."""
        abandoned = [job for job in self._jobs if job.future.cancelled()]
        if abandoned:
            self._metrics.dropped("abandoned", len(abandoned))
            self._jobs = [job for job in self._jobs if not job.future.cancelled()]
        chosen = select([job.work for job in self._jobs], self._cost, now)
        late = [self._jobs[place] for place in chosen.late]
        batch = [self._jobs[place] for place in chosen.batch]
        gone = {*chosen.late, *chosen.batch}
        self._jobs = [job for place, job in enumerate(self._jobs) if place not in gone]
        if late:
            self._metrics.dropped("late", len(late))
        _settle([(job.future, ExpiredError("the deadline came too near while it was waiting")) for job in late])
        if batch:
            units = sum(job.work.units for job in batch)
            self._running = now + self._cost.batch(len(batch), units), [job.ticket for job in batch]
        return batch

    def _run(self, batch: list[_Job]) -> None:
        begin = self._busy_since = time.monotonic()
        engine, requests = batch[0].work.engine, [job.work.request for job in batch]
        units = sum(job.work.units for job in batch)
        try:
            answers = _all(engine.run(requests), len(batch))
        except BaseException as error:
            answers = self._one_by_one(batch) if len(batch) > 1 else [error]
        else:
            self._cost = self._cost.after(Sample(len(batch), units, time.monotonic() - begin))
        self._metrics.ran(len(batch), time.monotonic() - begin, [begin - job.queued for job in batch])
        with self._wake:
            self._busy_since = self._running = None
            self._forget([job.ticket for job in batch])
        _settle([(job.future, answer) for job, answer in zip(batch, answers, strict=True)])

    def _one_by_one(self, batch: Sequence[_Job]) -> list[Any]:
        """What each gives alone: a request that fails must not take its neighbours with it."""
        _log.exception("a batch failed; its requests run one by one", extra={"fields": {"requests": len(batch)}})
        answers: list[Any] = []
        for job in batch:
            self._busy_since = time.monotonic()
            try:
                (answer,) = _all(job.work.engine.run([job.work.request]), 1)
            except BaseException as error:
                answer = error
            answers.append(answer)
        return answers

    def _run_exclusively(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._busy_since = time.monotonic()
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(_told(error))
        finally:
            self._busy_since = None


def _told(error: BaseException) -> Exception:
    """The error as a caller may see it: a future cannot hold some, and others would end the event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failure = RuntimeError(f"the engine raised {type(error).__name__}")
    failure.__cause__ = error
    return failure


def _settle(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Gives callers their answers or errors, from any thread: one wake-up of the event loop, however many they are."""

    def settle() -> None:
        for future, answer in answers:
            if future.done():  # cancelled: nobody waits
                continue
            if isinstance(answer, BaseException):
                future.set_exception(_told(answer))
            else:
                future.set_result(answer)

    if answers:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and all who waited with it
            answers[0][0].get_loop().call_soon_threadsafe(settle)


def _all(answers: Sequence[T], count: int) -> Sequence[T]:
    if len(answers) != count:
        raise RuntimeError(f"the engine gave {len(answers)} answers to {count} requests")
    return answers


class Ticket(Generic[Q, A]):
    """An admitted request's place in the backlog."""

    def __init__(
        self, scheduler: Scheduler, engine: Engine[Q, A], units: float, deadline: float, spare_seconds: float
    ) -> None:
        self._scheduler = scheduler
        self.engine, self.units, self.deadline = engine, units, deadline
        self.spare_seconds = spare_seconds
        """How long the request may stay away before it is handed over, and still be answered in time."""

    async def run(self, request: Q) -> A:
        """The answer. Raises :class:`ExpiredError` where it could not be computed in time.

        Cancelling the caller drops the work if it has not begun.
        """
        answer = self._scheduler._enqueue(self, request)
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic()) + LATE_SECONDS):
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():
                raise  # the engine's own
            raise ExpiredError("the model did not answer in time") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler._leave(self)
