"""Full collections come when the operator says so, and never by themselves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from recast_operator.garbage import collect_rarely


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


async def test_a_full_collection_comes_after_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    task = asyncio.create_task(collect_rarely(0.001))
    async with asyncio.timeout(20):
        while len(collected) < 3:
            await asyncio.sleep(0.001)
    task.cancel()


async def test_old_objects_are_never_looked_at_by_themselves_and_young_ones_are() -> None:
    found: list[int] = []
    task = asyncio.create_task(collect_rarely(3600.0))
    await asyncio.sleep(0)

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        kept = [[number] for number in range(200_000)]
    finally:
        gc.callbacks.remove(note)
        task.cancel()
    assert len(kept) == 200_000
    assert set(found) == {0, 1}
