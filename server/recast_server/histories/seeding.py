"""Takes a version's histories into a store: else a user of whom the store has one event is answered from that alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recast_api.manifest import load_verified
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_server.histories.artifact import ArtifactStore
from recast_server.histories.store import Append, HistoryStore, Read
from recast_server.runtime.events import Events

AT_ONCE = 32
NO_EVENTS = Events.named([], [], [], [])


@dataclass(frozen=True)
class Seeded:
    """What became of a version's users."""

    taken: int = 0
    known: int = 0
    """Already in the store, and left as they are."""


def histories_of(folder: Path) -> ArtifactStore:
    """The histories in a version's folder. Raises as :func:`recast_api.manifest.load_verified`."""
    manifest = load_verified(folder, None)
    config = manifest.config
    tasks = config["tasks"] if manifest.kind == "FoundationModel" else config["event_tasks"]
    snapshot, items = HistorySnapshot.load(folder), ItemTable.load(folder)
    return ArtifactStore(snapshot, items, tuple(config["surfaces"]), tuple(tasks))


async def seed(store: HistoryStore, source: HistoryStore, told: Callable[[Seeded], None] = lambda _: None) -> Seeded:
    """Every user of the source who is not in the store. Begun again, it goes on where it ended.

    ``told`` hears how far it is, a few times a second.
    """
    done, users, heard = Seeded(), [user async for user in source.users()], 0.0
    for begin in range(0, len(users), AT_ONCE):
        part = users[begin : begin + AT_ONCE]
        known = sum(await asyncio.gather(*(_was_known(store, source, user) for user in part)))
        done = Seeded(done.taken + len(part) - known, done.known + known)
        if time.monotonic() - heard > 0.2:
            told(done)
            heard = time.monotonic()
    return done


async def _was_known(store: HistoryStore, source: HistoryStore, user: int) -> bool:
    """Whether the user was in the store; is, from now on."""
    read = await source.read(user)
    assert isinstance(read, Read), "a source without sequence numbers is never behind"
    append = Append(user, NO_EVENTS, "seed", before=read.history)
    return (await store.append(append, time.time_ns() // 1_000_000)).repeated
