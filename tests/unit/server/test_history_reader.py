"""Which history a request is answered from, and that no store, whatever it does, breaks or delays an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from server_builders import LIMIT, NOW, a_context

from recast_model.features import Request, collate
from recast_model.history import History, anchored_start
from recast_server.histories.breaker import FAILURES, FIRST_SECONDS, LONGEST_SECONDS, Breaker
from recast_server.histories.metrics import HistoryMetrics
from recast_server.histories.reader import INLINE_EVENTS, HistoryReader, Seen, Snapshot
from recast_server.histories.store import Append, Appended, Behind, CorruptError, DownError, Read
from recast_server.histories.user_history import Bounds, UserHistory
from recast_server.runtime.events import Events
from recast_server.runtime.inputs import Query

HOUR = 3600.0
QUERY = Query(1, "reels", NOW, [100, 101])


def a_history(count: int = 6, bounds: Bounds | None = None, user: int = 1) -> UserHistory:
    """Events on two surfaces in turn, the newest a second before NOW."""
    numbers = np.arange(count)
    times = NOW - 1000 * (count - numbers)
    events = Events(numbers, numbers % 2, numbers * 0, times, times, ("feed", "reels"), ("click",))
    return UserHistory(user).with_events(events, bounds or Bounds())


@dataclass
class Store:
    """Answers as it is told; a hostile one does what it likes."""

    answer: Callable[[], Any]
    asked: int = 0
    writable: bool = True
    appended: list[Append] = field(default_factory=list)

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        self.asked += 1
        found = self.answer()
        return await found if asyncio.iscoroutine(found) else found

    async def append(self, append: Append, now_ms: int) -> Appended:
        raise NotImplementedError

    async def users(self) -> AsyncIterator[int]:
        yield 1

    async def close(self) -> None: ...


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def a_read(history: UserHistory | None = None, until_ms: int = NOW) -> Callable[[], Any]:
    return lambda: Read(history or a_history(), until_ms)


@dataclass
class Reading:
    reader: HistoryReader
    registry: CollectorRegistry

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def reading(store: Store | None, *, until_ms: int = NOW - 10 * 3600_000, knows: bool = True) -> Reading:
    registry = CollectorRegistry()
    snapshot = Snapshot(until_ms, lambda user: knows)
    return Reading(HistoryReader(store, snapshot, LIMIT, HOUR, HistoryMetrics(registry)), registry)


async def test_what_the_client_sends_is_what_is_read_and_no_store_is_asked() -> None:
    store = Store(a_read())
    of = reading(store)
    query = replace(QUERY, history=[])
    asked = await of.reader.asked(query, a_context())
    assert (asked.expert, asked.foundation, asked.seen) == (query, query, Seen("inline", "fresh"))
    assert not store.asked
    assert of.count("recast_histories_total", source="inline", state="fresh") == 1
    assert of.count("recast_history_age_seconds_count") == 0


async def test_without_a_store_the_versions_own_is_as_old_as_its_watermark() -> None:
    of = reading(None)
    asked = await of.reader.asked(QUERY, a_context())
    assert asked.seen == Seen("artifact", "stale", 36_000.0)
    assert asked.expert.history is None
    assert (await reading(None, until_ms=NOW - 60_000).reader.asked(QUERY, a_context())).seen.state == "fresh"
    assert of.count("recast_histories_total", source="artifact", state="stale") == 1
    assert of.count("recast_history_age_seconds_sum") == 36_000.0


async def test_the_store_gives_the_expert_its_window_and_the_foundation_the_newest_of_all() -> None:
    of = reading(Store(a_read(a_history(40), NOW - 7000)))
    asked = await of.reader.asked(QUERY, a_context())
    assert asked.seen == Seen("store", "fresh", 7.0)
    own, all_of_it = asked.expert.history, asked.foundation.history
    assert isinstance(own, Events)
    assert isinstance(all_of_it, Events)
    assert own.item.tolist() == [33, 35, 37, 39]
    assert all_of_it.item.tolist() == list(range(40))
    assert asked.foundation.history_before == 0
    assert of.count("recast_histories_total", source="store", state="fresh") == 1


async def test_of_a_long_history_the_foundation_is_told_how_much_came_before() -> None:
    history = a_history(3000, Bounds(events=2000))
    asked = await reading(Store(a_read(history))).reader.asked(QUERY, a_context())
    assert isinstance(asked.foundation.history, Events)
    assert len(asked.foundation.history) == INLINE_EVENTS
    assert asked.foundation.history_before == 3000 - INLINE_EVENTS


@pytest.mark.parametrize("back", [0, 1, 500, 1000, 1900, 2000])
async def test_a_request_of_the_past_is_given_all_that_is_kept_of_what_was_known_then(back: int) -> None:
    history = a_history(3000, Bounds(events=2000))
    at = replace(QUERY, time_ms=NOW - 1000 * back)
    asked = await reading(Store(a_read(history)), until_ms=0).reader.asked(at, a_context())
    kept = 2000 - back
    if not kept:
        assert asked.seen.source == "artifact"  # nothing that was known then is left
        return
    assert isinstance(asked.foundation.history, Events)
    assert len(asked.foundation.history) == min(INLINE_EVENTS, kept)
    assert asked.foundation.history.item[-1] == 3000 - back - 1
    assert asked.foundation.history_before == 3000 - back - min(INLINE_EVENTS, kept)


async def test_a_foundation_that_reads_more_is_given_more() -> None:
    metrics, snapshot = HistoryMetrics(CollectorRegistry()), Snapshot(0, lambda user: True)
    of = HistoryReader(Store(a_read(a_history(3000))), snapshot, LIMIT, HOUR, metrics, 1900)
    found = (await of.asked(QUERY, a_context())).foundation.history
    assert isinstance(found, Events)
    assert len(found) == 1900


async def test_a_store_that_knows_the_future_is_not_believed() -> None:
    ahead = int(time.time() * 1000) + 3600_000
    of = reading(Store(a_read(until_ms=ahead)))
    assert (await of.reader.asked(QUERY, a_context())).seen.source == "artifact"
    assert of.count("recast_history_fallbacks_total", reason="corrupt") == 1


async def test_requests_in_a_hurry_say_nothing_of_the_store() -> None:
    store = Store(lambda: too_slow())
    of = reading(store)
    for _ in range(3 * FAILURES):
        await of.reader.asked(QUERY, a_context(0.01))
    store.answer = a_read()
    assert (await of.reader.asked(QUERY, a_context())).seen.source == "store"


async def test_what_our_own_loop_was_late_for_says_nothing_of_the_store() -> None:
    async def held() -> Read:
        time.sleep(0.1)
        return await too_slow()

    store = Store(lambda: held())
    of = reading(store)
    for _ in range(2 * FAILURES):
        await of.reader.asked(QUERY, a_context())
    store.answer = a_read()
    assert (await of.reader.asked(QUERY, a_context())).seen.source == "store"


async def test_a_store_that_failed_is_tried_anew_at_no_requests_expense() -> None:
    store = Store(failing(DownError("no route")))
    of = reading(store)
    of.reader._breaker = Breaker(FAILURES, time.monotonic() - 1)
    store.answer = a_read()
    assert (await of.reader.asked(QUERY, a_context(0.001))).seen.source == "artifact"
    async with asyncio.timeout(10):
        while (await of.reader.asked(QUERY, a_context())).seen.source != "store":
            await asyncio.sleep(0)


async def too_slow() -> Read:
    await asyncio.sleep(3600)
    raise AssertionError


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (failing(DownError("no route")), "down"),
        (failing(CorruptError("nonsense")), "corrupt"),
        (failing(RuntimeError("a bug")), "down"),
        (lambda: too_slow(), "late"),
        (lambda: Behind(3), "behind"),
        (lambda: Read(UserHistory(1), NOW), "unknown"),
        (a_read(a_history(40, Bounds(events=4, of_surface=2))), "trimmed"),
        (a_read(until_ms=NOW - 11 * 3600_000), "stale"),
    ],
)
async def test_a_store_that_does_not_give_a_history_costs_the_answer_no_more_than_its_freshness(
    answer: Callable[[], Any], reason: str
) -> None:
    of = reading(Store(answer))
    asked = await of.reader.asked(QUERY, a_context(0.5))
    assert asked.seen == Seen("artifact", "stale", 36_000.0)
    assert (asked.expert, asked.foundation) == (QUERY, QUERY)
    assert of.count("recast_history_fallbacks_total", reason=reason) == 1
    assert of.count("recast_history_read_duration_seconds_count") == 1


async def test_a_store_that_is_too_old_is_still_read_where_the_version_is_older() -> None:
    of = reading(Store(a_read(until_ms=NOW - 2 * 3600_000)))
    asked = await of.reader.asked(QUERY, a_context())
    assert asked.seen == Seen("store", "stale", 7200.0)
    assert isinstance(asked.expert.history, Events)
    assert of.count("recast_history_fallbacks_total", reason="stale") == 1


async def test_a_user_that_nobody_knows_is_new_and_not_a_fallback() -> None:
    of = reading(Store(lambda: Read(UserHistory(1), NOW)), knows=False)
    asked = await of.reader.asked(QUERY, a_context())
    assert asked.seen == Seen("store", "fresh", 0.0)
    assert isinstance(asked.expert.history, Events)
    assert not len(asked.expert.history)
    assert of.count("recast_history_fallbacks_total", reason="unknown") == 0


async def test_a_dead_store_is_not_asked_again_by_every_request() -> None:
    store = Store(failing(DownError("no route")))
    of = reading(store)
    for _ in range(100):
        await of.reader.asked(QUERY, a_context())
    assert store.asked == FAILURES
    assert of.count("recast_history_fallbacks_total", reason="open") == 100 - FAILURES


async def test_records_that_cannot_be_read_do_not_close_the_store_for_others() -> None:
    store = Store(failing(CorruptError("nonsense")))
    of = reading(store)
    for _ in range(20):
        await of.reader.asked(QUERY, a_context())
    assert store.asked == 20


async def test_clients_that_hang_up_say_nothing_of_the_store() -> None:
    store = Store(lambda: too_slow())
    of = reading(store)
    for asked in range(3 * FAILURES):
        task = asyncio.create_task(of.reader.asked(QUERY, a_context()))
        async with asyncio.timeout(10):
            while store.asked == asked:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    store.answer = a_read()
    assert (await of.reader.asked(QUERY, a_context())).seen.source == "store"


async def test_a_request_that_has_no_time_left_does_not_wait_for_a_store() -> None:
    of = reading(Store(lambda: too_slow()))
    assert (await of.reader.asked(QUERY, replace(a_context(), deadline=time.monotonic() - 1))).seen.source == "artifact"


# The breaker, pure


def after(breaker: Breaker, *answers: bool, now: float = 0.0) -> Breaker:
    for answered in answers:
        breaker = breaker.after(answered, now)
    return breaker


def test_a_store_is_left_alone_after_failures_in_a_row_and_ever_longer() -> None:
    broken = after(Breaker(), *[False] * FAILURES)
    assert not broken.allows(FIRST_SECONDS - 0.01)
    assert broken.allows(FIRST_SECONDS)
    again = broken.after(False, 1.0)
    assert not again.allows(1.0 + 2 * FIRST_SECONDS - 0.01)
    assert after(again, *[False] * 50, now=9.0).allows(9.0 + LONGEST_SECONDS)
    assert broken.after(True, 1.0) == Breaker()


def test_failures_that_are_not_in_a_row_leave_it_open() -> None:
    assert after(Breaker(), *[False, False, False, False, True] * 9).allows(0.0)


def test_while_one_request_tries_a_store_that_failed_the_others_do_not() -> None:
    broken = after(Breaker(), *[False] * FAILURES)
    trying = broken.asking(FIRST_SECONDS)
    assert not trying.allows(FIRST_SECONDS)
    assert trying.after(True, FIRST_SECONDS).allows(FIRST_SECONDS)
    assert Breaker().asking(0.0).allows(0.0)


def test_a_window_of_the_newest_alone_starts_where_that_of_all_does() -> None:
    """What the foundation makes of events of which some are missing at the front, at every anchor."""
    for total in range(1, 60):
        every = np.arange(total, dtype=np.int64)
        whole = History(every, every * 0, every * 0, every, every)
        for limit in (4, 8, 12):
            before = max(0, min(int(anchored_start(np.asarray(total), limit)), total - limit))
            some = whole.take(slice(before, None))
            asked = [
                Request(1, 0, 10**6, np.array([1]), whole),
                Request(1, 0, 10**6, np.array([1]), some, history_before=before),
            ]
            one, other = (collate([each], limit) for each in asked)
            np.testing.assert_array_equal(one.history_items, other.history_items)
            assert len(some) <= limit
