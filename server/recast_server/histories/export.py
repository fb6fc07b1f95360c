"""A store's histories as a data set that the trainer reads (docs/data.md): one row an event, in segments of hours.

A row has its event's own request, since what was shown together is not told to a store; labels are the event's actions,
and no others, so it teaches what users did and not what they passed over. ``history: Events`` in the description makes
each row one event of the history again, known when it was.

Users are written in parts, each part whole before the next one; a run that was cut off goes on after the last. The
folder becomes a data set in the end, when its description is written: a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recast_api.run import RecastError
from recast_model.history import Ints
from recast_server.histories.store import HistoryStore, Read
from recast_server.runtime.events import Events

PART_USERS = 10_000
_WORK = ".export"
"""Inside the folder: what is not whole yet."""


@dataclass(frozen=True)
class Description:
    """What the data set is called, and its surfaces with their tasks, in the order that the trainer is to have."""

    name: str
    surfaces: dict[str, tuple[str, ...]]
    segment_seconds: int = 3600

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of all surfaces, in order of first mention."""
        return tuple(dict.fromkeys(task for tasks in self.surfaces.values() for task in tasks))

    @property
    def wire(self) -> dict[str, Any]:
        """``dataset.json``."""
        return {
            "format": 2,
            "name": self.name,
            "surfaces": [{"name": name, "tasks": list(tasks)} for name, tasks in self.surfaces.items()],
            "segmentSeconds": self.segment_seconds,
            "history": "Events",
        }


@dataclass(frozen=True)
class Exported:
    """What was written."""

    users: int
    events: int
    left_out: int
    """Events of surfaces that the description does not name."""


async def export(store: HistoryStore, folder: Path, description: Description) -> Exported:
    """Write every user's events to ``folder``, which must not be a data set yet.

    Raises :class:`RecastError` (``FolderInUse``), and :class:`recast_server.histories.store.StoreError` where the store
    fails: a run after that goes on where this one ended. Events that are appended meanwhile may be in it or not.
    """
    if (folder / "dataset.json").exists():
        raise RecastError("FolderInUse", f"{folder} is a data set already: export to a new folder")
    work = folder / _WORK
    work.mkdir(parents=True, exist_ok=True)
    _require_the_same(work, description)
    users = await _users(store, work)
    for number, start in enumerate(range(0, len(users), PART_USERS)):
        part = work / f"part-{number:06}"
        if not part.exists():
            await _write_part(store, users[start : start + PART_USERS], part, number, description)
    return _finish(folder, work, len(users), description)


def rows_of(user: int, events: Events, first_row: int, description: Description) -> dict[str, Any]:
    """Columns of the rows of a user's events, in their order; row ids ascend from ``first_row``. Pure."""
    surfaces = list(description.surfaces)
    named = np.array([name in surfaces for name in events.surfaces], np.bool_)
    kept = events.take(np.flatnonzero(named[events.surface]) if len(events) else slice(0, 0))
    ids = first_row + np.arange(len(kept), dtype=np.int64)
    columns: dict[str, Any] = {
        "row_id": ids,
        "request_id": ids,
        "user_id": np.full(len(kept), user, np.int64),
        "item_id": kept.item,
        "surface": np.array(kept.surfaces, object)[kept.surface],
        "event_time": kept.time_ms,
        "available_at": kept.available_ms,
    }
    for task in description.tasks:
        bit = kept.tasks.index(task) if task in kept.tasks else None
        done = np.zeros(len(kept), np.bool_) if bit is None else (kept.actions >> bit & 1).astype(np.bool_)
        columns[f"label_{task}"] = pa.array(np.ones(len(kept), np.int8), mask=~done)
    return columns


async def _users(store: HistoryStore, work: Path) -> Ints:
    """Everyone, ascending: listed once, so that a run that goes on has the same parts."""
    path = work / "users.npy"
    if not path.exists():
        found = np.array(sorted({user async for user in store.users()}), np.int64)
        with (work / "users.tmp").open("wb") as file:
            np.save(file, found)
            os.fsync(file.fileno())
        (work / "users.tmp").rename(path)
    users: Ints = np.load(path)
    return users


async def _write_part(store: HistoryStore, users: Ints, part: Path, number: int, description: Description) -> None:
    """The rows of some users, a file a segment; the folder appears when all of them are there."""
    scratch = part.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    tables, row, left_out = [], number << 40, 0  # ids are unique over parts, and tell the order of each user's events
    for user in users.tolist():
        found = await store.read(user)
        assert isinstance(found, Read), "no sequence was asked for"
        columns = rows_of(user, found.history.events, row, description)
        tables.append(pa.table(columns))
        row += tables[-1].num_rows
        left_out += len(found.history.events) - tables[-1].num_rows
    whole = pa.concat_tables(tables)
    width = description.segment_seconds * 1000
    segments = whole.column("event_time").to_numpy() // width
    for segment in np.unique(segments).tolist():
        name = datetime.fromtimestamp(segment * width / 1000, UTC).strftime("%Y-%m-%dT%H")
        pq.write_table(whole.filter(pa.array(segments == segment)), scratch / f"{name}.parquet", compression="zstd")
    items = np.unique(whole.column("item_id").to_numpy())
    pq.write_table(pa.table({"item_id": items}), scratch / "items")
    counts = {"events": whole.num_rows, "leftOut": left_out}
    _write(scratch / "counts.json", json.dumps(counts))
    scratch.rename(part)


def _finish(folder: Path, work: Path, users: int, description: Description) -> Exported:
    """Parts become segments, and the folder a data set. May be cut off anywhere and done again."""
    segments = folder / "segments"
    segments.mkdir(exist_ok=True)
    parts = sorted(path for path in work.glob("part-*") if path.suffix != ".tmp")
    for part in parts:
        for file in sorted(part.glob("*.parquet")):
            target = segments / file.stem
            target.mkdir(exist_ok=True)
            file.replace(target / f"{part.name}.parquet")
    items = [pq.read_table(part / "items").column("item_id").to_numpy() for part in parts]
    every = np.unique(np.concatenate(items)) if items else np.empty(0, np.int64)
    pq.write_table(pa.table({"item_id": every}), work / "items.parquet")
    (work / "items.parquet").replace(folder / "items.parquet")
    counts = [json.loads((part / "counts.json").read_text()) for part in parts]
    _write(folder / "dataset.json", json.dumps(description.wire, indent=2) + "\n")
    shutil.rmtree(work)
    return Exported(users, sum(each["events"] for each in counts), sum(each["leftOut"] for each in counts))


def _require_the_same(work: Path, description: Description) -> None:
    """A run goes on only with what it began with."""
    path, text = work / "description.json", json.dumps(description.wire)
    if not path.exists():
        _write(path, text)
    elif path.read_text() != text:
        raise RecastError(
            "FolderInUse", f"{work.parent} holds an export of other surfaces or segments: delete it, or name another"
        )


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}.tmp")
    with scratch.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
