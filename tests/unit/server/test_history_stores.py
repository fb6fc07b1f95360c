"""The stores that need no server of their own, by the suite that every store passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recast_model.history import History
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_server.histories.artifact import ArtifactStore
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.store import Append, DownError, HistoryStore, Read
from recast_server.runtime.events import Events
from tests.history_stores import (
    BOUNDS,
    NOW,
    SURFACES,
    TASKS,
    USER,
    ReadOnlySuite,
    WritingSuite,
    events_of,
    first_refused,
    of,
    told,
)

ITEMS = ItemTable(np.arange(9, dtype=np.int64), np.empty((9, 0), np.float32))


class TestArtifact(ReadOnlySuite):
    @pytest.fixture
    def filled(self) -> Callable[[Events], Any]:
        async def fill(events: Events) -> HistoryStore:
            order = np.argsort(events.available_ms, kind="stable")
            e = events.take(order)
            made = History(ITEMS.index(e.item), e.surface, e.actions, e.time_ms, e.available_ms)
            snapshot = HistorySnapshot.of(np.array([USER]), made, np.array([len(events)]), NOW)
            return ArtifactStore(snapshot, ITEMS, SURFACES, TASKS)

        return fill

    async def test_an_item_that_the_version_did_not_know_stays_unknown(self, filled_store: HistoryStore) -> None:
        assert ITEMS.index((await of(filled_store)).events.item).tolist().count(0) == 3  # 9, 10 and 11


class TestEmbedded(WritingSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[HistoryStore]:
        store = EmbeddedStore(tmp_path / "histories", 64 << 20, BOUNDS)
        yield store
        await store.close()

    async def test_what_was_acknowledged_is_there_after_a_restart(self, store: HistoryStore, tmp_path: Path) -> None:
        events = events_of([(1, 0, 1, 9, 0), (2, 1, 3, 8, 4)])
        await store.append(Append(USER, events, "k"), NOW)
        await store.close()
        again = EmbeddedStore(tmp_path / "histories", 64 << 20, BOUNDS)
        found = await again.read(USER)
        assert isinstance(found, Read)
        assert told(found.history.events) == told(events)
        assert found.until_ms == NOW - 104_000
        assert (await again.append(Append(USER, events, "k"), NOW)).repeated
        await again.close()

    async def test_a_full_volume_refuses_and_loses_nothing(self, tmp_path: Path) -> None:
        store = EmbeddedStore(tmp_path / "small", 1 << 16, BOUNDS)
        full = await first_refused(store)
        assert full > 10
        for user in range(full):
            assert (await of(store, user)).total == 12
        assert (await of(store, full)).total == 0
        await store.close()

    async def test_a_folder_that_cannot_be_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DownError, match="file"):
            EmbeddedStore(tmp_path / "file", 1 << 20)

    async def test_a_closed_store_is_down(self, tmp_path: Path) -> None:
        store = EmbeddedStore(tmp_path / "closed", 1 << 20)
        await store.close()
        with pytest.raises(DownError):
            await store.read(1)
        with pytest.raises(DownError):
            await store.append(Append(1, events_of([(1, 0, 1, 9, 0)]), "k"), NOW)
