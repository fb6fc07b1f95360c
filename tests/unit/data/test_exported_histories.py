"""A store's histories as a data set: the trainer reads it, and every window is the store's."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from data_builders import DATASET, START
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_api.run import RecastError
from recast_server.histories import export as exporting
from recast_server.histories.__main__ import main
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.export import Description, export
from recast_server.histories.store import Append, Behind, DownError, HistoryStore, Read
from recast_server.runtime.events import Events
from recast_trainer.data.segments import list_segments, load_dataset, load_items, read_segment
from recast_trainer.training.stream import Stream
from tests.histories_agree import EVENTS, LABELS, fill, named, the_stream
from tests.history_stores import told

DESCRIPTION = Description("hand", {surface.name: tuple(surface.tasks) for surface in DATASET.surfaces})
HOUR = 3_600_000
Row = tuple[int, int, int, int, int]


def read(folder: Path) -> Stream:
    dataset = load_dataset(folder)
    segments = list_segments(folder, dataset)
    return Stream(dataset, segments, load_items(folder, dataset), lambda segment: read_segment(segment, dataset))


async def some_users(store: HistoryStore, count: int) -> None:
    for user in range(count):
        times = [START + HOUR * (user % 3), START + HOUR * (user % 3) + 5]
        events = Events.named(
            [user, user + 1], ["reels", "ads"], [["click"], ["buy", "click"]], times, [None, times[1] + 9]
        )
        await store.append(Append(user, events, "k"), START + 10 * HOUR)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    made = EmbeddedStore(tmp_path / "store", 1 << 24)
    yield made
    await made.close()


@settings(max_examples=25, deadline=None)
@given(EVENTS, LABELS, st.integers(4, 12), st.sampled_from([None, 0, 1]), st.randoms(use_true_random=False))
def test_the_trainer_reads_the_stores_windows(
    events: list[Row], labels: list[Any], limit: int, surface: int | None, random: Random
) -> None:
    async def check(folder: Path) -> None:
        store, made = EmbeddedStore(folder / "store", 1 << 24), the_stream(events, labels)
        await fill(store, made, True, random, late=5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "PART_USERS", random.randint(1, 3))
            await export(store, folder / "out", DESCRIPTION)
        stream = read(folder / "out")
        assert (stream.dataset.surface_names, stream.dataset.tasks) == (DATASET.surface_names, DATASET.tasks)
        walk = stream.walk(limit, surface=surface)
        for _ in walk:
            pass
        end, name = stream.end, None if surface is None else DATASET.surface_names[surface]
        seen: dict[int, Any] = {}
        for of in walk.histories.at(end):
            seen |= by_user(*of)
        for user in range(1, 4):
            found = await store.read(user)
            assert isinstance(found, Read)
            window = told(found.history.window(end, limit, name))
            assert window == (named(seen[user]) if user in seen else [])
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder)))


def by_user(users: Any, windows: Any, lengths: Any) -> dict[int, Any]:
    ends = lengths.cumsum()
    return {
        int(user): windows.take(slice(int(end - length), int(end)))
        for user, end, length in zip(users, ends, lengths, strict=True)
    }


class Failing:
    """A store that goes down after some reads."""

    def __init__(self, store: HistoryStore, reads: int) -> None:
        self._store, self.reads, self.asked = store, reads, 0

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        self.asked += 1
        if self.asked > self.reads:
            raise DownError("gone")
        return await self._store.read(user)

    def users(self) -> AsyncIterator[int]:
        return self._store.users()


async def test_an_export_that_was_cut_off_goes_on_and_is_no_data_set_before_it_is_whole(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PART_USERS", 4)
    await some_users(store, 10)
    failing: Any = Failing(store, reads=6)
    with pytest.raises(DownError):
        await export(failing, tmp_path / "out", DESCRIPTION)
    with pytest.raises(RecastError, match="no data set"):
        load_dataset(tmp_path / "out")
    failing = Failing(store, reads=99)
    done = await export(failing, tmp_path / "out", DESCRIPTION)
    assert failing.asked == 6  # the first four users were done
    assert (done.users, done.events, done.left_out) == (10, 20, 0)
    stream = read(tmp_path / "out")
    assert sum(len(stream.read(segment)) for segment in stream.segments) == 20
    assert [segment.start for segment in stream.segments] == [START, START + HOUR, START + 2 * HOUR]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


async def test_an_export_of_something_else_does_not_go_on(store: EmbeddedStore, tmp_path: Path) -> None:
    await some_users(store, 3)
    failing: Any = Failing(store, reads=1)
    with pytest.raises(DownError):
        await export(failing, tmp_path / "out", DESCRIPTION)
    with pytest.raises(RecastError, match="other surfaces or segments"):
        await export(store, tmp_path / "out", Description("hand", {"reels": ("click",)}))
    await export(store, tmp_path / "out", DESCRIPTION)
    with pytest.raises(RecastError, match="data set already"):
        await export(store, tmp_path / "out", DESCRIPTION)


async def test_events_of_surfaces_that_are_not_named_are_left_out_and_counted(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    await some_users(store, 3)
    done = await export(store, tmp_path / "out", Description("hand", {"ads": ("buy",)}))
    assert (done.events, done.left_out) == (3, 3)
    stream = read(tmp_path / "out")
    labels = [stream.read(segment).labels.tolist() for segment in stream.segments]
    assert labels == [[[1.0]]] * 3


def test_the_command_says_what_it_wrote_or_why_it_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def prepare() -> None:
        store = EmbeddedStore(tmp_path / "store", 1 << 24)
        await some_users(store, 3)
        await store.close()

    asyncio.run(prepare())
    like = tmp_path / "dataset.json"
    like.write_text(json.dumps(DATASET.wire()))
    arguments = ["--like", str(like), "--out", str(tmp_path / "out")]
    assert main(["export", "--folder", str(tmp_path / "nothing"), *arguments]) == 1
    assert "holds no histories" in capsys.readouterr().err
    assert main(["export", "--folder", str(tmp_path / "store"), *arguments]) == 0
    assert "6 events of 3 users" in capsys.readouterr().out
    assert main(["export", "--folder", str(tmp_path / "store"), *arguments]) == 1
    assert main(["export", "--redis", "127.0.0.1:1", *arguments[:2], "--out", str(tmp_path / "other")]) == 1
    assert "ConnectionError" in capsys.readouterr().err
