"""Few passes are at work at once; those that wait for somebody slow are in nobody's way, and not without number."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest

from recast_operator import places as module
from recast_operator.places import Place, Places

T = TypeVar("T")


async def test_there_are_so_many_places_and_no_more_until_one_is_free() -> None:
    places = Places(2, away=5)
    first, _ = await places.place(), await places.place()
    third = asyncio.create_task(places.place())
    assert await waits(third)
    first.end()
    await finished(third)


async def test_who_is_away_makes_room_for_another_and_comes_back_to_a_free_place_alone() -> None:
    places = Places(1, away=1)
    away = await left(await places.place())
    second = await finished(asyncio.create_task(places.place()))
    back = asyncio.create_task(closed(away))
    assert await waits(back)
    second.end()
    await finished(back)
    assert await waits(asyncio.create_task(places.place())), "who is back is at work"


async def test_so_many_may_be_away_and_no_more() -> None:
    places = Places(1, away=1)
    first = await places.place()
    await left(first)
    second = await places.place()
    await left(second)
    third = asyncio.create_task(places.place())
    assert await waits(third)
    first.end()
    await finished(third)


async def test_a_pass_that_ends_while_it_is_away_gives_back_nothing_that_it_has_not() -> None:
    places = Places(1, away=1)
    first = await places.place()
    with pytest.raises(ZeroDivisionError):
        async with first.away():
            raise ZeroDivisionError
    first.end()
    await places.place()
    assert await waits(asyncio.create_task(places.place()))


async def test_time_at_work_and_time_away_are_told_apart_and_waiting_for_a_place_is_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    places = Places(1, away=1)
    first = await places.place()
    now = 1.0
    away = await left(first)
    second = await places.place()
    now = 11.0
    back = asyncio.create_task(closed(away))
    assert await waits(back)
    now = 111.0
    second.end()
    await finished(back)
    now = 1111.0
    first.end()
    assert (first.seconds, first.away_seconds) == (1.0 + 1000.0, 10.0)


async def left(place: Place) -> AbstractAsyncContextManager[None]:
    away = place.away()
    await away.__aenter__()
    return away


async def closed(away: AbstractAsyncContextManager[None]) -> None:
    await away.__aexit__(None, None, None)


async def waits(task: asyncio.Task[Any]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def finished(task: asyncio.Task[T]) -> T:
    return await asyncio.wait_for(task, 5)
