"""What a server knows of new items is what the last good file said, whatever becomes of the file."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry
from server_builders import a_scheduler

from recast_api.server import ServedItems
from recast_model import items_file
from recast_model.items import ItemTable
from recast_server.items import store as stores
from recast_server.items.metrics import ItemMetrics
from recast_server.items.store import ItemStore

OWN = ItemTable(np.arange(100, 110, dtype=np.int64), np.zeros((10, 2), np.float32))


@dataclass
class Engine:
    """Says what it was told, on which thread."""

    items: ItemTable = OWN
    told: list[list[int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def extend(self, new: ItemTable) -> None:
        assert new.content.tolist() == [[item / 2, -item] for item in new.ids.tolist()]
        self.told.append(new.ids.tolist())
        self.threads.add(threading.current_thread().name)


@dataclass
class World:
    path: Path
    engine: Engine
    registry: CollectorRegistry
    store: ItemStore
    remade: Callable[..., ItemStore]

    def write(self, *ids: int) -> None:
        content = pa.array([[item / 2, -item] for item in ids], pa.list_(pa.float32()))
        beside = self.path.with_name(".new")
        pq.write_table(pa.table({"item_id": pa.array(ids, pa.int64()), "content": content}), beside)
        beside.rename(self.path)

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"recast_items_{name}", labels)
        assert value is not None
        return value

    def reads(self) -> dict[str, float]:
        results = ("loaded", "refused", "missing", "failed")
        counts = {result: self.metric("reads_total", result=result) for result in results}
        return {result: count for result, count in counts.items() if count}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    engine, registry, scheduler, path = Engine(), CollectorRegistry(), a_scheduler(), tmp_path / "items.parquet"
    metrics, made = ItemMetrics(registry), []

    def remade(every_seconds: float = 3600) -> ItemStore:
        served = ServedItems.model_construct(path=str(path), every_seconds=every_seconds)
        made.append(ItemStore(served, engine, scheduler, metrics))
        return made[-1]

    yield World(path, engine, registry, remade(), remade)
    for store in made:
        await store.close()
    scheduler.close()


def problems(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.message.endswith("is not used")]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.005)


async def test_new_items_are_told_between_batches_and_those_that_the_version_knows_are_ignored(world: World) -> None:
    world.write(7, 105, 3, 100, 500)
    await world.store.start()
    assert world.engine.told == [[3, 7, 500]]
    assert world.engine.threads == {"model"}
    assert (world.metric("new"), world.metric("ignored"), world.reads()) == (3, 2, {"loaded": 1})


async def test_a_file_is_read_again_when_it_changes_and_only_then(world: World) -> None:
    for ids, told in (((1,), 1), (None, 1), ((1, 2), 2), (None, 2), ((), 3)):
        if ids is not None:
            world.write(*ids)
        await world.store.poll()
        assert len(world.engine.told) == told
    assert world.engine.told == [[1], [1, 2], []]
    assert world.reads() == {"loaded": 3}


async def test_a_file_that_says_the_same_again_changes_nothing_that_serves(world: World) -> None:
    world.write(1, 2)
    await world.store.poll()
    world.write(2, 1, 100)
    await world.store.poll()
    assert world.engine.told == [[1, 2]]
    assert (world.reads(), world.metric("ignored")) == ({"loaded": 2}, 1)


async def test_it_looks_at_the_file_by_itself(world: World) -> None:
    store = world.remade(0.001)
    await store.start()
    world.write(1)
    await until(lambda: world.engine.told == [[1]])
    world.path.unlink()
    world.write(1, 2)
    await until(lambda: world.engine.told == [[1], [1, 2]])
    await store.close()
    looked = world.reads()
    world.write(1, 2, 3)
    await asyncio.sleep(0)
    assert world.reads() == looked


async def test_a_server_starts_without_a_file_and_keeps_what_it_knows_when_one_goes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "recast.items"):
        await world.store.start()
        await world.store.poll()
        assert [record.levelname for record in caplog.records] == ["INFO"]
        world.write(1)
        await world.store.poll()
        world.path.unlink()
        caplog.clear()
        for _ in range(3):
            await world.store.poll()
    assert world.engine.told == [[1]]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert problems(caplog) == [{"result": "missing", "problem": f"{world.path} is not there", "known": 1}]
    assert world.reads() == {"missing": 5, "loaded": 1}


async def test_a_bad_file_keeps_the_last_good_one_and_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(1)
    await world.store.poll()
    modified = world.metric("file_age_seconds")
    world.write(1, 2)
    half = world.path.read_bytes()
    world.path.write_bytes(half[: len(half) // 2])
    for _ in range(3):
        await world.store.poll()
    (problem,) = problems(caplog)
    assert (problem["result"], problem["known"]) == ("refused", 1)
    assert "items.parquet" in problem["problem"]
    assert (world.engine.told, world.reads()) == ([[1]], {"loaded": 1, "refused": 1})
    assert world.metric("file_age_seconds") >= modified
    world.path.write_bytes(half)
    await world.store.poll()
    assert world.engine.told == [[1], [1, 2]]


async def test_a_file_that_changes_while_it_is_read_is_not_used_and_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(1, 2)

    def overtaken(file: Any, *given: Any, **options: Any) -> Any:
        found = items_file_read(file, *given, **options)
        with world.path.open("ab") as other:
            other.write(b"more")
        return found

    items_file_read = items_file.read_items
    with monkeypatch.context() as patch:
        patch.setattr(items_file, "read_items", overtaken)
        await world.store.poll()
    assert "changed while it was read" in problems(caplog)[0]["problem"]
    assert world.engine.told == []
    world.write(1, 2)
    await world.store.poll()
    assert world.engine.told == [[1, 2]]


async def test_a_disk_that_fails_is_asked_again_though_the_file_is_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(1)

    def failing(*given: Any, **options: Any) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(items_file, "read_items", failing)
        for _ in range(3):
            await world.store.poll()
    assert [problem["result"] for problem in problems(caplog)] == ["failed"]
    assert world.reads() == {"failed": 3}
    await world.store.poll()
    assert (world.engine.told, world.reads()) == ([[1]], {"failed": 3, "loaded": 1})


async def test_a_volume_that_hangs_keeps_no_server_from_starting_or_ending(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FIRST_READ_SECONDS", 0.01)
    os.mkfifo(world.path)  # to open one waits for a writer
    await asyncio.wait_for(world.store.start(), 20)
    await asyncio.wait_for(world.store.close(), 20)
    assert world.reads() == {}
    (reader,) = (thread for thread in threading.enumerate() if thread.name == "items")
    assert reader.daemon
    with world.path.open("wb"):
        pass
    await asyncio.to_thread(reader.join, 20)


async def test_more_than_there_is_room_for_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stores, "MAX_BYTES", 4 * 16)
    world.write(*range(4), *range(100, 110))
    await world.store.poll()
    world.write(*range(5))
    await world.store.poll()
    assert world.engine.told == [[0, 1, 2, 3]]
    assert "more than 4 items" in problems(caplog)[0]["problem"]


async def test_a_version_without_content_reads_no_file(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.engine.items = ItemTable(OWN.ids, np.empty((10, 0), np.float32))
    world.write(1)
    await world.store.start()
    assert (world.engine.told, world.reads()) == ([], {})
    assert "by their ids alone" in caplog.text


async def test_an_engine_that_fails_ends_no_polling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(new: ItemTable) -> None:
        raise MemoryError

    world.write(1)
    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "extend", failing)
        await world.store.start()
    assert world.reads() == {"failed": 1}
    await world.store.poll()
    assert (world.engine.told, world.reads()) == ([[1]], {"failed": 1, "loaded": 1})


async def test_the_age_is_that_of_the_file_in_use_and_none_before_there_is_one(world: World) -> None:
    assert np.isnan(world.metric("file_age_seconds"))
    world.write(1)
    os.utime(world.path, (0, time.time() - 500))
    await world.store.poll()
    assert 500 <= world.metric("file_age_seconds") < 600
