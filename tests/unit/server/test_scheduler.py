"""Who may wait for the model, and what becomes of work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from server_builders import a_scheduler

from recast_server.runtime import scheduler as scheduler_module
from recast_server.runtime.cost import CostModel, Sample
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import EXPECTED_SHARE, ExpiredError, OverloadedError, Scheduler, Ticket

LATER = 3600.0


@dataclass
class Gated:
    """An engine that runs when it is let, and doubles what it is given."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list[list[int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    poison: int | None = None

    def units(self, request: int) -> float:
        return 1.0

    def shape(self, request: int) -> None:
        return None

    def run(self, requests: Sequence[int]) -> list[int]:
        self.begun.release()
        assert self.gate.wait(30)
        self.batches.append(list(requests))
        self.threads.add(threading.current_thread().name)
        if self.poison in requests:
            raise ZeroDivisionError
        return [2 * request for request in requests]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scheduler(registry: CollectorRegistry) -> Iterator[Scheduler]:
    made = a_scheduler(capacity=8, registry=registry)
    yield made
    made.close()


def counted(registry: CollectorRegistry, name: str, **labels: str) -> float:
    value = registry.get_sample_value(name, labels)
    assert value is not None, name
    return value


async def ask(scheduler: Scheduler, engine: Gated, request: int, deadline: float | None = None) -> int:
    with scheduler.admit(engine, request, time.monotonic() + LATER if deadline is None else deadline) as ticket:
        return await ticket.run(request)


async def busy(scheduler: Scheduler, engine: Gated) -> asyncio.Task[int]:
    """A request that runs until the gate is opened."""
    held = asyncio.create_task(ask(scheduler, engine, 0))
    assert await asyncio.to_thread(engine.begun.acquire, timeout=30)
    return held


async def test_what_waits_while_the_model_is_busy_runs_as_one_batch_in_the_order_it_came(scheduler: Scheduler) -> None:
    scheduler.learn_cost([Sample(1, 1.0, 0.001), Sample(8, 8.0, 0.001)])  # a batch costs what one request does
    engine = Gated()
    held = await busy(scheduler, engine)
    others = [asyncio.create_task(ask(scheduler, engine, request)) for request in (3, 1, 2)]
    await asyncio.sleep(0)
    engine.gate.set()
    assert await asyncio.gather(held, *others) == [0, 6, 2, 4]
    assert engine.batches == [[0], [3, 1, 2]]
    assert engine.threads == {"model"}


async def test_nothing_waits_for_company(scheduler: Scheduler) -> None:
    engine = Gated()
    engine.gate.set()
    assert [await ask(scheduler, engine, request) for request in (1, 2)] == [2, 4]
    assert engine.batches == [[1], [2]]


async def test_a_request_that_fails_does_not_take_its_neighbours_with_it(scheduler: Scheduler) -> None:
    scheduler.learn_cost([Sample(1, 1.0, 0.001), Sample(8, 8.0, 0.001)])
    engine = Gated(poison=2)
    held = await busy(scheduler, engine)
    others = [asyncio.create_task(ask(scheduler, engine, request)) for request in (1, 2, 3)]
    await asyncio.sleep(0)
    engine.gate.set()
    found = await asyncio.gather(held, *others, return_exceptions=True)
    assert [found[0], found[1], found[3]] == [0, 2, 6]
    assert isinstance(found[2], ZeroDivisionError)
    assert await ask(scheduler, engine, 5) == 10


async def test_an_engine_that_does_not_answer_all_fails_them_and_not_the_thread(scheduler: Scheduler) -> None:
    engine = Gated()
    engine.gate.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", lambda requests: [])
        with pytest.raises(RuntimeError, match="0 answers to 1 request"):
            await ask(scheduler, engine, 1)
    assert await ask(scheduler, engine, 2) == 4


async def test_work_that_nobody_waits_for_is_never_done(scheduler: Scheduler, registry: CollectorRegistry) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    gone = [asyncio.create_task(ask(scheduler, engine, request)) for request in (1, 2)]
    await asyncio.sleep(0)
    assert counted(registry, "recast_queue_requests") == 3
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert counted(registry, "recast_queue_requests") == 1
    engine.gate.set()
    await held
    assert await ask(scheduler, engine, 4) == 8
    assert engine.batches == [[0], [4]]
    assert counted(registry, "recast_queue_dropped_total", reason="abandoned") == 2
    assert counted(registry, "recast_queue_requests") == 0


async def test_work_whose_time_is_up_is_told_so_and_never_done(
    scheduler: Scheduler, registry: CollectorRegistry
) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    deadline = time.monotonic() + 0.05
    late = asyncio.create_task(ask(scheduler, engine, 1, deadline))
    await asyncio.sleep(0)
    while time.monotonic() <= deadline:
        await asyncio.sleep(0.01)
    engine.gate.set()
    with pytest.raises(ExpiredError):
        await late
    await held
    assert engine.batches == [[0]]
    assert counted(registry, "recast_queue_dropped_total", reason="late") == 1


async def test_what_could_not_be_answered_in_time_is_refused_at_once(registry: CollectorRegistry) -> None:
    scheduler = a_scheduler(100, CostModel(per_request=1.0), registry)
    engine = Gated()
    held = await busy(scheduler, engine)
    soon, later = (time.monotonic() + seconds / EXPECTED_SHARE for seconds in (2.5, 3.5))
    admitted = scheduler.admit(engine, 1, soon)  # after the one that runs
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 2, soon)
    scheduler.admit(engine, 2, later)
    admitted.__exit__(None, None, None)
    scheduler.admit(engine, 2, later)  # a place that is given back is free
    assert counted(registry, "recast_queue_refused_total", reason="late") == 1
    engine.gate.set()
    await held
    scheduler.close()


async def test_without_any_time_to_spare_only_an_idle_server_takes_a_request(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    engine = Gated()
    scheduler.admit(engine, 1, 100.0)
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 2, 100.0)


async def test_a_place_says_how_long_its_request_may_stay_away(registry: CollectorRegistry) -> None:
    scheduler = a_scheduler(100, CostModel(per_request=1.0), registry)
    engine, deadline = Gated(), time.monotonic() + 10.0 / EXPECTED_SHARE
    spare = [scheduler.admit(engine, 0, deadline).spare_seconds for _ in range(3)]
    assert spare == pytest.approx([9.0, 8.0, 7.0], abs=0.5)
    scheduler.close()


async def test_what_runs_longer_than_expected_is_not_about_to_end(registry: CollectorRegistry) -> None:
    scheduler = a_scheduler(100, CostModel(per_request=0.001), registry)
    engine = Gated()
    held = await busy(scheduler, engine)
    begin = time.monotonic()
    while scheduler._wait(time.monotonic()) < 0.2:
        assert time.monotonic() - begin < 30
        await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 1, time.monotonic() + 0.1)
    engine.gate.set()
    await held
    scheduler.close()


async def test_callers_of_the_running_batch_that_left_are_not_taken_for_others(registry: CollectorRegistry) -> None:
    scheduler = a_scheduler(100, CostModel(overhead=100.0, per_request=1.0), registry)
    engine = Gated()
    held = await busy(scheduler, engine)
    others = [asyncio.create_task(ask(scheduler, engine, request)) for request in range(3)]
    await asyncio.sleep(0)
    before = scheduler._wait(time.monotonic())
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    assert scheduler._wait(time.monotonic()) == pytest.approx(before, abs=2.0)
    engine.gate.set()
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    scheduler.close()


async def test_a_model_that_is_stuck_does_not_hold_its_callers(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "LATE_SECONDS", 0.05)
    engine = Gated()
    held = await busy(scheduler, engine)
    with pytest.raises(ExpiredError):
        await asyncio.wait_for(ask(scheduler, engine, 1, time.monotonic() + 0.05), 30)
    engine.gate.set()
    await held


@pytest.mark.parametrize(
    "error", [StopIteration(), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr
)
async def test_whatever_an_engine_raises_its_caller_is_told_and_the_server_goes_on(
    scheduler: Scheduler, error: BaseException
) -> None:
    engine = Gated()
    engine.gate.set()

    def failing(_: Sequence[int]) -> list[int]:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", failing)
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await asyncio.wait_for(ask(scheduler, engine, 1), 30)
    assert await ask(scheduler, engine, 2) == 4


@pytest.mark.parametrize("units", [float("nan"), float("inf"), -1.0])
async def test_work_without_measure_is_not_admitted(scheduler: Scheduler, units: float) -> None:
    engine = Gated()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "units", lambda _: units)
        with pytest.raises(ValueError, match="units of work"):
            scheduler.admit(engine, 1, time.monotonic() + LATER)


async def test_what_a_caller_left_behind_is_not_kept_until_the_model_is_free(scheduler: Scheduler) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    for _ in range(100):
        task = asyncio.create_task(ask(scheduler, engine, 1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert scheduler._jobs == []
    engine.gate.set()
    await held


async def test_a_server_with_nothing_to_do_takes_what_it_thinks_it_cannot_do_and_learns_that_it_can() -> None:
    scheduler = a_scheduler(100, CostModel(per_request=60.0))
    engine = Gated()
    engine.gate.set()
    for _ in range(200):
        assert await ask(scheduler, engine, 1, time.monotonic() + 1.0) == 2
        if scheduler.cost.batch(1, 1.0) < 0.5:
            break
    assert scheduler.cost.batch(1, 1.0) < 0.5
    scheduler.close()


async def test_a_full_queue_refuses_at_once(scheduler: Scheduler, registry: CollectorRegistry) -> None:
    engine = Gated()
    tickets: list[Ticket[Any, Any]] = [scheduler.admit(engine, 1, time.monotonic() + LATER) for _ in range(8)]
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 1, time.monotonic() + LATER)
    assert counted(registry, "recast_queue_refused_total", reason="full") == 1
    with tickets[0]:
        pass
    scheduler.admit(engine, 1, time.monotonic() + LATER)


async def test_loading_comes_before_what_waits_and_its_error_reaches_its_caller(scheduler: Scheduler) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    waiting = asyncio.create_task(ask(scheduler, engine, 1))
    await asyncio.sleep(0)
    load = asyncio.create_task(scheduler.run_exclusively(lambda: len(engine.batches)))
    await asyncio.sleep(0)
    engine.gate.set()
    assert await load == 1
    assert await asyncio.gather(held, waiting) == [0, 2]
    with pytest.raises(ZeroDivisionError):
        await scheduler.run_exclusively(lambda: 1 // 0)
    assert await ask(scheduler, engine, 4) == 8


async def test_closing_drops_what_waits_and_lets_what_runs_finish(scheduler: Scheduler) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    waiting = asyncio.create_task(ask(scheduler, engine, 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
    with pytest.raises(OverloadedError):
        await waiting
    engine.gate.set()
    assert await held == 0
    await closing
    assert engine.batches == [[0]]
    with pytest.raises(OverloadedError):
        await ask(scheduler, engine, 1)


async def test_what_ran_is_measured(scheduler: Scheduler, registry: CollectorRegistry) -> None:
    scheduler.learn_cost([Sample(1, 1.0, 0.001), Sample(8, 8.0, 0.001)])
    engine = Gated()
    held = await busy(scheduler, engine)
    others = [asyncio.create_task(ask(scheduler, engine, request)) for request in (1, 2)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(held, *others)
    assert counted(registry, "recast_batch_requests_sum") == 3
    assert counted(registry, "recast_batch_requests_count") == counted(registry, "recast_batch_duration_seconds_count")
    assert counted(registry, "recast_batch_requests_count") == 2
    assert counted(registry, "recast_queue_wait_seconds_count") == 3


async def test_what_is_refused_without_a_look_would_have_been_refused_with_one(registry: CollectorRegistry) -> None:
    scheduler = a_scheduler(100, CostModel(per_request=1.0), registry)
    engine = Gated()
    scheduler.require_room(time.monotonic() + 0.001)  # nothing waits: whatever comes is taken
    held = await busy(scheduler, engine)
    soon, later = (time.monotonic() + seconds / EXPECTED_SHARE for seconds in (1.5, 2.5))
    with pytest.raises(OverloadedError):
        scheduler.require_room(soon)
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 1, soon)
    assert counted(registry, "recast_queue_refused_total", reason="late") == 2
    scheduler.require_room(later)
    scheduler.admit(engine, 1, later)  # and asking took no place
    engine.gate.set()
    await held
    scheduler.close()
    with pytest.raises(OverloadedError):
        scheduler.require_room(time.monotonic() + LATER)


async def test_an_answer_must_pass_the_event_loop_too(registry: CollectorRegistry) -> None:
    lag = 0.0
    scheduler = Scheduler(100, QueueMetrics(registry), lambda: lag)
    scheduler.start(CostModel(per_request=1.0))
    engine, deadline = Gated(), time.monotonic() + 5.5 / EXPECTED_SHARE
    assert scheduler.admit(engine, 1, deadline).spare_seconds == pytest.approx(4.5, abs=0.5)
    lag = 2.0
    assert scheduler.admit(engine, 1, deadline).spare_seconds == pytest.approx(1.5, abs=0.5)
    lag = 3.0
    with pytest.raises(OverloadedError):
        scheduler.admit(engine, 1, deadline)
    scheduler.close()


async def test_where_the_scheduler_itself_fails_all_who_wait_are_told_and_the_pod_is_restarted(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Gated()
    held = await busy(scheduler, engine)
    waiting = asyncio.create_task(ask(scheduler, engine, 1))
    await asyncio.sleep(0)
    monkeypatch.setattr(scheduler, "_take", lambda now: 1 // 0)
    engine.gate.set()
    assert await held == 0
    with pytest.raises(OverloadedError):
        await waiting
    with pytest.raises(OverloadedError):
        await ask(scheduler, engine, 2)
    await asyncio.to_thread(scheduler._thread.join, 30)
    assert not scheduler.alive(60)
    assert "needs to be restarted" in caplog.text


async def test_an_answer_for_a_loop_that_ended_ends_nothing_else(scheduler: Scheduler) -> None:
    engine = Gated()

    async def leave() -> None:
        asked = asyncio.ensure_future(ask(scheduler, engine, 1))
        await asyncio.to_thread(engine.begun.acquire, True, 30)
        assert not asked.done()

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()

    await asyncio.to_thread(elsewhere)
    engine.gate.set()
    assert await ask(scheduler, engine, 2) == 4
