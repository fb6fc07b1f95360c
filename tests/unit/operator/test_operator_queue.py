"""The work queue's promises, under any order of events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recast_operator.queue import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, Pace, Schedule, WorkQueue

PACES = {
    "A": Pace(urgent=True, interval_seconds=2.0),
    "B": Pace(urgent=True),
    "c": Pace(interval_seconds=1.0),
    "d": Pace(),
}
KEYS = st.sampled_from(list(PACES))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.integers(0, 10)),
        st.tuples(st.just("take"), st.none(), st.booleans()),
        st.tuples(st.just("done"), KEYS, st.booleans()),
        st.tuples(st.just("wait"), st.none(), st.integers(0, 5)),
    ),
    max_size=60,
)  # fmt: skip


@dataclass
class Model:
    """What the schedule should know, said as simply as possible."""

    schedule: Schedule[str] = field(default_factory=lambda: Schedule(PACES.__getitem__, lambda: 1.0))
    now: float = 0.0
    working: set[str] = field(default_factory=set)
    wished: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def due(self, key: str) -> float:
        """When a wished key may be handed out: never before its interval is over."""
        wished, ended, interval = self.wished[key], self.ended.get(key), PACES[key].interval_seconds
        return wished if ended is None or not interval else max(wished, ended + interval)

    def waiting(self, *, urgent_only: bool = False) -> dict[str, float]:
        times = {key: self.due(key) for key in self.wished if key not in self.working}
        return {key: time for key, time in times.items() if time <= self.now and (PACES[key].urgent or not urgent_only)}

    def wish(self, key: str, time: float) -> None:
        self.wished[key] = min(self.wished.get(key, float("inf")), time)

    def step(self, step: str, key: str, value: Any) -> None:
        if step == "add":
            self.schedule.add(key, self.now + value)
            self.wish(key, self.now + value)
        elif step == "wait":
            self.now += value
        elif step == "done" and key in self.working:
            self.done(key, failed=value)
        elif step == "take":
            self.take(urgent_only=value)

    def done(self, key: str, *, failed: bool) -> None:
        if failed:
            delay = self.schedule.failed(key, self.now)
            self.failures[key] = self.failures.get(key, 0) + 1
            assert delay == min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** (self.failures[key] - 1))
            self.wish(key, self.now + delay)
        else:
            self.schedule.succeeded(key)
            self.failures.pop(key, None)
        self.schedule.done(key, self.now)
        self.working.remove(key)
        self.ended[key] = self.now

    def take(self, *, urgent_only: bool) -> str | None:
        waiting = self.waiting(urgent_only=urgent_only)
        taken = self.schedule.take(self.now, urgent_only=urgent_only)
        if taken is None:
            assert not waiting
            return None
        assert taken in waiting
        urgent = [key for key in waiting if PACES[key].urgent]
        assert taken in urgent or not urgent, "an urgent key waited behind another"
        assert waiting[taken] == min(waiting[key] for key in urgent or waiting), "the longest-waiting comes first"
        del self.wished[taken]
        self.working.add(taken)
        return taken


def replay(steps: list[tuple[str, Any, Any]]) -> Model:
    model = Model()
    for step in steps:
        model.step(*step)
    return model


@given(STEPS)
def test_a_key_is_handed_out_when_due_to_one_worker_and_the_longest_waiting_first(steps: list[Any]) -> None:
    replay(steps)  # asserts at every step


@given(STEPS)
def test_no_wish_is_ever_lost(steps: list[Any]) -> None:
    model = replay(steps)
    for key in sorted(model.working):
        model.done(key, failed=False)
    model.now = max([model.now, *(model.due(key) for key in model.wished)])
    wished = sorted(model.wished)
    handed = []
    while (key := model.take(urgent_only=False)) is not None:
        handed.append(key)
    assert sorted(handed) == wished


@given(STEPS, st.booleans())
def test_depth_age_and_next_time_agree_with_what_can_be_taken(steps: list[Any], urgent_only: bool) -> None:
    model = replay(steps)
    waiting = model.waiting()
    assert model.schedule.depth(model.now) == len(waiting)
    assert model.schedule.oldest(model.now) == (model.now - min(waiting.values()) if waiting else 0.0)
    free = {key: model.due(key) for key in model.wished if key not in model.working}
    assert model.schedule.next_due(model.now) == min(free.values(), default=None)
    following = model.schedule.next_due(model.now, urgent_only=True)
    urgent = [time for key, time in free.items() if PACES[key].urgent]
    # A worker for urgent keys may look once too often, never too late.
    assert not urgent or (following is not None and following <= min(urgent))


def test_of_several_wishes_about_a_key_in_hand_the_earliest_counts() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    assert schedule.take(0.0) == "a"
    for due in (5.0, 3.0, 9.0):
        schedule.add("a", due)
    schedule.done("a", 1.0)
    assert schedule.next_due(1.0) == 3.0


def test_a_burst_of_changes_makes_one_pass_an_interval() -> None:
    schedule: Schedule[str] = Schedule(PACES.__getitem__)
    passes = []
    for tick in range(1000):  # ten seconds
        now = tick / 100
        schedule.add("A", now)
        if schedule.take(now) is not None:
            passes.append(now)
            schedule.done("A", now)
    assert passes == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_what_changes_during_a_pass_is_looked_at_at_once_although_the_pass_asks_for_a_later_time() -> None:
    schedule: Schedule[str] = Schedule(PACES.__getitem__)
    schedule.add("d", 0.0)
    assert schedule.take(0.0) == "d"
    schedule.add("d", 1.0)  # a watch event
    schedule.add("d", 300.0)  # when time alone may change the plan
    schedule.done("d", 2.0)
    assert schedule.take(2.0) == "d"


@given(st.floats(0, 1), st.integers(1, 200))
def test_back_off_grows_stays_under_its_cap_and_keeps_apart_what_failed_together(jitter: float, times: int) -> None:
    schedule: Schedule[str] = Schedule(jitter=lambda: jitter)
    delays = [schedule.failed("a", 0.0) for _ in range(times)]
    assert delays == sorted(delays)
    assert delays[0] >= BACKOFF_BASE_SECONDS / 2
    assert delays[:4] == [delays[0] * factor for factor in (1, 2, 4, 8)][: len(delays)]
    assert delays[-1] <= BACKOFF_CAP_SECONDS
    schedule.succeeded("a")
    assert schedule.failed("a", 0.0) == delays[0]


async def test_a_waiting_worker_wakes_when_a_key_is_added_and_when_a_delay_has_passed() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 5) == "a"
    queue.add("a", 0.01)
    second = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    assert not second.done()  # still in hand
    queue.done("a")
    assert await asyncio.wait_for(second, 5) == "a"


async def test_a_worker_for_urgent_keys_alone_leaves_the_others_to_others() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time, PACES.__getitem__)
    urgent = asyncio.create_task(taken(queue, urgent_only=True))
    await asyncio.sleep(0)
    queue.add("d")
    assert await asyncio.wait_for(taken(queue), 5) == "d"
    assert not urgent.done()
    queue.add("B")
    assert await asyncio.wait_for(urgent, 5) == "B"


async def test_a_failed_key_returns_by_itself() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time, jitter=lambda: 0.0)
    queue.add("a")
    await taken(queue)
    delay = queue.done("a", failed=True)
    assert 0 < delay <= BACKOFF_BASE_SECONDS
    assert await asyncio.wait_for(taken(queue), 5) == "a"
    assert (queue.depth(), queue.oldest()) == (0, 0.0)


async def test_a_key_that_is_due_may_be_gone_by_the_time_that_it_is_taken() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    assert queue.take() is None
    queue.add("a")
    await asyncio.wait_for(asyncio.gather(queue.due(), queue.due()), 5)
    assert (queue.take(), queue.take()) == ("a", None)


async def taken(queue: WorkQueue[str], *, urgent_only: bool = False) -> str:
    """The next key, as soon as there is one."""
    while True:
        await queue.due(urgent_only=urgent_only)
        if (key := queue.take(urgent_only=urgent_only)) is not None:
            return key
