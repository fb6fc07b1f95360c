"""The work queue's promises, under any order of events."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recast_operator.queue import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, Schedule, WorkQueue

KEYS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.floats(0, 10)),
        st.tuples(st.just("take"), st.none(), st.none()),
        st.tuples(st.just("done"), KEYS, st.booleans()),
        st.tuples(st.just("wait"), st.none(), st.floats(0, 5)),
    ),
    max_size=60,
)


def replay(steps: list[tuple[str, Any, Any]]) -> tuple[Schedule[str], list[str], dict[str, float], float]:
    """Run steps beside a model of them: who is in hand, what is wished, what time it is."""
    schedule: Schedule[str] = Schedule(lambda: 1.0)
    working: list[str] = []
    wished: dict[str, float] = {}
    failures: dict[str, int] = {}
    now = 0.0
    for step, key, value in steps:
        if step == "add":
            schedule.add(key, now + value)
            wished[key] = min(wished.get(key, float("inf")), now + value)
        elif step == "wait":
            now += value
        elif step == "done" and key in working:
            if value:
                delay = schedule.failed(key, now)
                failures[key] = failures.get(key, 0) + 1
                assert delay == min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** (failures[key] - 1))
                wished[key] = min(wished.get(key, float("inf")), now + delay)
            else:
                schedule.succeeded(key)
                failures.pop(key, None)
            schedule.done(key)
            working.remove(key)
        elif step == "take":
            due = {name: time for name, time in wished.items() if time <= now and name not in working}
            taken = schedule.take(now)
            if taken is None:
                assert not due
            else:
                assert wished.pop(taken) == min(due.values())
                working.append(taken)
    return schedule, working, wished, now


@given(STEPS)
def test_a_key_is_handed_out_when_due_to_one_worker_and_the_longest_waiting_first(steps: list[Any]) -> None:
    replay(steps)  # asserts at every step


@given(STEPS)
def test_no_wish_is_ever_lost(steps: list[Any]) -> None:
    schedule, working, wished, now = replay(steps)
    for key in working:
        schedule.done(key)
    end = max([now, *wished.values()])
    handed = []
    while (key := schedule.take(end)) is not None:
        handed.append(key)
        schedule.done(key)
    assert sorted(handed) == sorted(wished)


@given(STEPS)
def test_depth_age_and_next_time_agree_with_what_can_be_taken(steps: list[Any]) -> None:
    schedule, working, wished, now = replay(steps)
    due = [time for key, time in wished.items() if time <= now and key not in working]
    assert schedule.depth(now) == len(due)
    assert schedule.oldest(now) == (now - min(due) if due else 0.0)
    assert schedule.next_due() == min((t for k, t in wished.items() if k not in working), default=None)
    assert schedule.working == len(working)


@given(st.floats(0, 1), st.integers(1, 200))
def test_back_off_grows_stays_under_its_cap_and_keeps_apart_what_failed_together(jitter: float, times: int) -> None:
    schedule: Schedule[str] = Schedule(lambda: jitter)
    delays = [schedule.failed("a", 0.0) for _ in range(times)]
    assert delays == sorted(delays)
    assert delays[0] >= BACKOFF_BASE_SECONDS / 2
    assert delays[-1] <= BACKOFF_CAP_SECONDS
    schedule.succeeded("a")
    assert schedule.failed("a", 0.0) == delays[0]


async def test_a_waiting_worker_wakes_when_a_key_is_added_and_when_a_delay_has_passed() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 5) == "a"
    queue.add("a", 0.01)
    second = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not second.done()  # still in hand
    queue.done("a")
    assert await asyncio.wait_for(second, 5) == "a"


async def test_a_failed_key_returns_by_itself() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time, jitter=lambda: 0.0)
    queue.add("a")
    await queue.take()
    delay = queue.done("a", failed=True)
    assert 0 < delay <= BACKOFF_BASE_SECONDS
    assert await asyncio.wait_for(queue.take(), 5) == "a"
