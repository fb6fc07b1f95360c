"""Trainer, snapshot and embedded store see one window, over streams whose labels are known late."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.user_history import Bounds
from tests.histories_agree import (
    EVENTS,
    LABELS,
    fill,
    require_each_request_sees_the_same,
    require_the_end_is_the_same,
    the_stream,
)

Row = tuple[int, int, int, int, int]
SURFACES = st.sampled_from([None, 0, 1])


@settings(max_examples=60, deadline=None)
@given(EVENTS, LABELS, st.integers(4, 12), SURFACES, st.booleans(), st.randoms(use_true_random=False))
def test_a_store_shows_each_request_what_the_trainer_showed_it(
    events: list[Row], labels: list[Any], limit: int, surface: int | None, every_row: bool, random: Random
) -> None:
    async def check(folder: str) -> None:
        store, made = EmbeddedStore(Path(folder), 1 << 24), the_stream(events, labels)
        await fill(store, made, every_row, random, late=5)
        await require_each_request_sees_the_same(store, made, limit, surface, every_row)
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(folder))


@settings(max_examples=60, deadline=None)
@given(EVENTS, LABELS, st.integers(4, 12), SURFACES, st.booleans(), st.randoms(use_true_random=False))
def test_a_store_that_keeps_no_more_than_a_window_ends_as_the_trainer_and_its_snapshot_do(
    events: list[Row], labels: list[Any], limit: int, surface: int | None, every_row: bool, random: Random
) -> None:
    async def check(folder: str) -> None:
        store, made = EmbeddedStore(Path(folder), 1 << 24, Bounds(limit, limit)), the_stream(events, labels)
        await fill(store, made, every_row, random, late=5)
        await require_the_end_is_the_same(store, made, limit, surface, every_row)
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(folder))
