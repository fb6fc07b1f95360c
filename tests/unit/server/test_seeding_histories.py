"""A version's histories in a store: every window is the version's, and goes on from there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from server_builders import HISTORIES, ITEMS, NOW, SURFACES, TASKS, LandedPair, land_pair

from recast_server.histories.__main__ import main
from recast_server.histories.artifact import ArtifactStore
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.seeding import Seeded, histories_of, seed
from recast_server.histories.store import Append, HistoryStore, Read
from recast_server.runtime.events import Events
from tests.history_stores import told


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("models"))


async def windows(store: HistoryStore, limit: int = 4) -> dict[tuple[int, str | None], object]:
    """Of all users of the version, by surface."""
    found = {}
    for user in (1, 2):
        read = await store.read(user)
        assert isinstance(read, Read)
        for surface in (None, *SURFACES):
            found[user, surface] = told(read.history.window(NOW, limit, surface))
    return found


async def test_after_seeding_every_window_is_the_versions_and_a_new_event_comes_after_it(tmp_path: Path) -> None:
    source = ArtifactStore(HISTORIES, ITEMS, SURFACES, TASKS)
    store = EmbeddedStore(tmp_path / "store", 1 << 22)
    heard: list[Seeded] = []
    assert await seed(store, source, heard.append) == Seeded(2, 0)
    assert heard
    assert await windows(store) == await windows(source)
    new = Events.named([100], ["feed"], [["click"]], [NOW - 500], [None])
    assert (await store.append(Append(1, new, "k"), NOW)).total == 7
    before = await windows(store)
    assert await seed(store, source) == Seeded(0, 2)  # begun again it changes nothing
    assert await windows(store) == before
    assert told(new)[0] in before[1, "feed"]  # type: ignore[operator]
    await store.close()


@pytest.mark.parametrize("kind", ["foundation", "expert"])
async def test_the_command_takes_in_what_came_with_a_version(
    pair: LandedPair, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = getattr(pair, f"{kind}_folder")
    arguments = ["seed", "--folder", str(tmp_path), "--version", str(folder)]
    assert await asyncio.to_thread(main, arguments) == 0  # in a thread: it runs a loop of its own
    assert capsys.readouterr().out == "2 users taken in; 0 were in the store and are as they were\n"
    store = EmbeddedStore(tmp_path, 1 << 22)
    assert await windows(store) == await windows(histories_of(folder))
    await store.close()


@pytest.mark.parametrize("harm", ["no version", "no file", "another file"])
def test_a_version_that_is_not_whole_is_refused_by_name(
    pair: LandedPair, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    if harm != "no version":
        for file in pair.foundation_folder.iterdir():
            os.link(file, folder / file.name)
        victim = next(file for file in folder.iterdir() if file.suffix == ".safetensors")
        size = victim.stat().st_size
        victim.unlink()
        if harm == "another file":
            victim.write_bytes(bytes(size))
    assert main(["seed", "--folder", str(tmp_path), "--version", str(folder)]) == 1
    assert str(folder) in capsys.readouterr().err
