"""What every store of histories must do: one suite, which each implementation's tests derive from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from recast_model.history import Histories, History
from recast_server.histories.store import (
    Append,
    Behind,
    ConflictError,
    FullError,
    HistoryStore,
    Read,
    ReadOnlyError,
    RefusedAppendError,
)
from recast_server.histories.user_history import COLUMNS, Bounds, UserHistory
from recast_server.runtime.events import Events

NOW = 1_767_225_600_000
SURFACES, TASKS = ("feed", "reels", "ads"), ("click", "like", "share")
BOUNDS = Bounds(events=12, of_surface=5)
USER = 7
Row = tuple[int, int, int, int, int]
"""Item, surface, actions, seconds from when it happened until NOW, seconds until it was known."""
DELAYS = [0, 0, 1, 5, 40]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(0, 2),
        st.integers(0, 7),
        st.integers(0, 99),
        st.sampled_from(DELAYS),
    ),
    max_size=60,
)
MANY_ROWS = st.integers(0, 2**32).map(
    lambda seed: [
        (
            n,
            (random := Random(seed * 99 + n)).choice([0, 0, 0, 1, 2]),
            n % 8,
            random.randint(0, 99),
            random.choice(DELAYS),
        )
        for n in range(10 + seed % 60)
    ]
)


def events_of(rows: list[Row]) -> Events:
    """The rows as events, in their order, under all names."""
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    times = NOW - 1000 * (100 + columns[3])
    return Events(columns[0], columns[1], columns[2], times, times + 1000 * columns[4], SURFACES, TASKS)


def told(events: Events) -> list[tuple[Any, ...]]:
    """Events in names, to compare what has different tables of them."""
    return [
        (
            int(events.item[n]),
            events.surfaces[events.surface[n]],
            frozenset(name for bit, name in enumerate(events.tasks) if events.actions[n] >> bit & 1),
            int(events.time_ms[n]),
            int(events.available_ms[n]),
        )
        for n in range(len(events))
    ]


def expected_window(events: Events, time_ms: int, limit: int, surface: str | None = None) -> Events:
    """By the rule of the model, over everything that ever happened."""
    raw = History(events.item, events.surface, events.actions, events.time_ms, events.available_ms)
    by_surface = surface is not None
    histories = Histories(np.zeros(len(events), np.int64), raw, by_surface=by_surface)
    index = SURFACES.index(surface) if surface else 0
    (start,), (length,) = histories.window(np.array([0]), np.array([index]), np.array([time_ms]), limit)
    seen = histories.events.take(slice(int(start), int(start + length)))
    return Events(seen.items, seen.surfaces, seen.actions, seen.times, seen.available, SURFACES, TASKS)


def legal_order(events: Events, random: Random, late: int) -> list[int]:
    """An order of arrival: up to ``late`` instants late; what was known at one instant keeps its order."""
    instants = np.unique(events.available_ms)
    arrival = np.arange(len(instants)) + np.array([random.uniform(0, late) for _ in instants])
    return np.argsort(arrival[np.searchsorted(instants, events.available_ms)], kind="stable").tolist()


async def append_all(store: HistoryStore, events: Events, random: Random, late: int, user: int = USER) -> None:
    """All of them, in a legal order, a few at a time, some of the calls twice."""
    order = legal_order(events, random, late)
    while order:
        count = random.randint(1, 5)
        some, order = order[:count], order[count:]
        append = Append(user, events.take(np.array(some, np.int64)), f"{user}-{len(order)}")
        for _ in range(random.choice([1, 1, 2])):
            await store.append(append, NOW)


async def of(store: HistoryStore, user: int = USER) -> UserHistory:
    found = await store.read(user)
    assert isinstance(found, Read)
    return found.history


async def first_refused(store: HistoryStore) -> int:
    """The first of many users for whom there is no room; each has 12 events."""
    for user in range(20_000):
        try:
            await store.append(Append(user, events_of([(1, 0, 1, 9, 0)] * 12), "k"), NOW)
        except FullError:
            return user
    raise AssertionError("it never was full")


class ReadingSuite:
    """For a store that ``filled`` makes of the events of one user, :data:`USER`."""

    @pytest.fixture
    def filled(self) -> Callable[[Events], Any]:
        raise NotImplementedError

    @pytest.fixture
    async def filled_store(self, filled: Callable[[Events], Any]) -> AsyncIterator[HistoryStore]:
        store = await filled(events_of([(n, n % 3, n % 8, 40 - n, (n * 7) % 5) for n in range(12)]))
        yield store
        await store.close()

    async def test_a_user_never_heard_of_has_an_empty_history(self, filled_store: HistoryStore) -> None:
        found = await filled_store.read(10**12)
        assert isinstance(found, Read)
        assert (found.history.sequence, found.history.total, len(found.history.events)) == (0, 0, 0)

    async def test_events_come_in_the_order_in_which_they_became_known(self, filled_store: HistoryStore) -> None:
        known = (await of(filled_store)).events.available_ms
        assert len(known) == 12
        assert (np.diff(known) >= 0).all()

    async def test_a_store_that_is_behind_says_so(self, filled_store: HistoryStore) -> None:
        sequence = (await of(filled_store)).sequence
        assert isinstance(await filled_store.read(USER, sequence), Read)
        assert await filled_store.read(USER, sequence + 1) == Behind(sequence)
        assert await filled_store.read(10**12, 1) == Behind(0)

    async def test_it_says_until_when_it_knows(self, filled_store: HistoryStore) -> None:
        found = await filled_store.read(USER)
        assert isinstance(found, Read)
        assert found.history.events.available_ms.max() <= found.until_ms <= NOW

    async def test_it_lists_its_users(self, filled_store: HistoryStore) -> None:
        assert {user async for user in filled_store.users()} == {USER}


class ReadOnlySuite(ReadingSuite):
    """For a store that takes no events."""

    async def test_it_says_that_it_takes_none(self, filled_store: HistoryStore) -> None:
        assert not filled_store.writable
        with pytest.raises(ReadOnlyError):
            await filled_store.append(Append(1, events_of([(1, 0, 0, 1, 0)]), "k"), NOW)


class WritingSuite(ReadingSuite):
    """For stores that ``store`` makes, empty, keeping :data:`BOUNDS`."""

    @pytest.fixture
    def filled(self, store: HistoryStore) -> Callable[[Events], Any]:
        async def fill(events: Events) -> HistoryStore:
            await store.append(Append(USER, events, "all"), NOW)
            return store

        return fill

    async def test_each_append_has_the_next_number(self, store: HistoryStore) -> None:
        one = events_of([(1, 0, 1, 9, 0)])
        answers = [await store.append(Append(USER, one, f"k{n}"), NOW) for n in range(3)]
        assert [(a.sequence, a.total, a.repeated) for a in answers] == [(1, 1, False), (2, 2, False), (3, 3, False)]
        assert (await of(store)).sequence == 3

    async def test_a_user_is_taken_in_with_a_past_once_and_only_where_there_is_none(self, store: HistoryStore) -> None:
        past, new = events_of([(1, 0, 1, 9, 0), (2, 1, 3, 8, 4)]), events_of([(3, 2, 1, 5, 0)])
        before = UserHistory(USER, 0, 2, 2, past, (1, 1, 0))
        none = past.take(slice(0, 0))
        assert not (await store.append(Append(USER, none, "seed", before), NOW)).repeated
        assert (await store.read(USER)).until_ms == int(past.available_ms.max())  # type: ignore[union-attr]
        assert (await store.append(Append(USER, new, "a"), NOW)).total == 3
        assert (await store.append(Append(USER, none, "seed again", before), NOW)).repeated
        found = await of(store, USER)
        assert sorted(told(found.events)) == sorted(told(past) + told(new))
        await store.append(Append(USER + 1, new, "b"), NOW)
        late = UserHistory(USER + 1, 0, 2, 2, past, (1, 1, 0))
        assert (await store.append(Append(USER + 1, none, "seed", late), NOW)).repeated
        assert (await of(store, USER + 1)).total == 1

    async def test_the_same_append_twice_is_one(self, store: HistoryStore) -> None:
        append = Append(USER, events_of([(1, 0, 1, 9, 0), (2, 1, 1, 8, 0)]), "k")
        first = await store.append(append, NOW)
        await store.append(Append(USER, events_of([(3, 0, 1, 7, 0)]), "other"), NOW)
        again = await store.append(append, NOW + 1000)
        assert (again.sequence, again.repeated) == (first.sequence, True)
        assert (await of(store)).total == 3

    async def test_a_key_with_other_events_is_a_conflict_and_changes_nothing(self, store: HistoryStore) -> None:
        await store.append(Append(USER, events_of([(1, 0, 1, 9, 0)]), "k"), NOW)
        for other in (events_of([(2, 0, 1, 9, 0)]), replace(events_of([(1, 0, 1, 9, 0)]), tasks=("a", "b", "c"))):
            with pytest.raises(ConflictError):
                await store.append(Append(USER, other, "k"), NOW)
        assert (await of(store)).total == 1

    async def test_keys_are_each_users_own(self, store: HistoryStore) -> None:
        await store.append(Append(1, events_of([(1, 0, 1, 9, 0)]), "k"), NOW)
        assert not (await store.append(Append(2, events_of([(2, 0, 1, 9, 0)]), "k"), NOW)).repeated

    async def test_a_key_is_remembered_for_a_day_and_for_as_many_appends_as_is_said(self, store: HistoryStore) -> None:
        one, day = events_of([(1, 0, 1, 9, 0)]), 24 * 3600 * 1000
        await store.append(Append(USER, one, "old"), NOW)
        assert (await store.append(Append(USER, one, "old"), NOW + day)).repeated
        assert not (await store.append(Append(USER, one, "old"), NOW + day + 1000)).repeated
        for n in range(63):
            await store.append(Append(USER, one, f"k{n}"), NOW + day + 1000)
        assert (await store.append(Append(USER, one, "old"), NOW + day + 1000)).repeated
        await store.append(Append(USER, one, "k63"), NOW + day + 1000)
        assert not (await store.append(Append(USER, one, "old"), NOW + day + 1000)).repeated

    async def test_appends_that_come_at_once_are_all_made_and_none_twice(self, store: HistoryStore) -> None:
        appends = [Append(USER, events_of([(n, n % 3, 1, n, 0)]), f"k{n}") for n in range(12)]
        answers = await asyncio.gather(*(store.append(each, NOW) for each in [*appends, *appends]))
        assert sorted(a.sequence for a in answers if not a.repeated) == list(range(1, 13))
        history = await of(store)
        assert (history.sequence, history.total) == (12, 12)
        assert sorted(history.events.item.tolist()) == list(range(12))

    async def test_what_cannot_be_kept_is_refused_and_changes_nothing(self, store: HistoryStore) -> None:
        one = events_of([(1, 0, 1, 9, 0)])
        await store.append(Append(USER, one, "k"), NOW)
        many = replace(one, surfaces=tuple(f"s{n}" for n in range(70)))
        with pytest.raises(RefusedAppendError, match="surfaces"):
            await store.append(Append(USER, many, "many"), NOW)
        assert (await of(store)).sequence == 1

    async def test_what_is_known_is_never_known_from_the_future(self, store: HistoryStore) -> None:
        later = events_of([(1, 0, 1, 9, 0)])
        later = replace(later, available_ms=later.available_ms + 10**9)
        await store.append(Append(USER, later, "k"), NOW)
        found = await store.read(USER)
        assert isinstance(found, Read)
        assert found.until_ms == NOW

    async def test_the_newest_that_anybody_did_says_until_when_the_store_knows(self, store: HistoryStore) -> None:
        await store.append(Append(1, events_of([(1, 0, 1, 9, 0)]), "k"), NOW)
        await store.append(Append(2, events_of([(1, 0, 1, 30, 0)]), "k"), NOW)
        found = await store.read(2)
        assert isinstance(found, Read)
        assert found.until_ms == NOW - 109_000

    async def test_many_users_are_listed(self, store: HistoryStore) -> None:
        one, users = events_of([(1, 0, 1, 9, 0)]), {0, 1, 10, 2**63 - 1, *range(1000, 1300)}
        await asyncio.gather(*(store.append(Append(user, one, "k"), NOW) for user in users))
        assert {user async for user in store.users()} == users

    @pytest.mark.parametrize("seed", range(12))
    async def test_windows_are_those_of_the_whole_stream_however_late_events_arrive(
        self, store: HistoryStore, seed: int
    ) -> None:
        random = Random(seed)
        rows = [
            (n, random.choice([0, 0, 0, 1, 2]), random.randint(0, 7), random.randint(0, 99), random.choice(DELAYS))
            for n in range(random.randint(1, 80))
        ]
        events = events_of(rows)
        await append_all(store, events, random, late=random.choice([1, 6, 40]))
        history = await of(store)
        assert history.total == len(rows)
        assert len(history.events) <= BOUNDS.events + len(SURFACES) * BOUNDS.of_surface
        for limit in (4, 8, BOUNDS.events):
            assert told(history.window(NOW, limit)) == told(expected_window(events, NOW, limit))
        for surface in SURFACES:
            assert told(history.window(NOW, 5, surface)) == told(expected_window(events, NOW, 5, surface))
        assert all(getattr(history.events, name).dtype == np.int64 for name in COLUMNS)
