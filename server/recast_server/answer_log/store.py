"""The log's files of one pod: a journal for each table, which becomes a segment, and room that never grows too large.

Records are appended to a journal and synced, so that they outlive the process. Once the journal is large or old enough
its rows become a Parquet file, then comes its manifest, then the journal goes: whoever reads sees a segment whole or
not at all, and after a crash at any point either the journal or the segment is there. What a crash left is made a
segment when the same pod starts again; what is left of other pods is for readers, who read journals too.

Where the room is used up the oldest segment goes, since the newest answers are worth most to who learns from them. A
disk that others filled is treated alike, but not without end: what is given up is a few times what is to be written.

For one thread. Nothing here reads a clock or waits.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from recast_api.answer_log import ANSWERS, IMPRESSIONS, WRITER_KEY, SegmentManifest, SegmentName, Writer
from recast_model import answer_journal
from recast_server.answer_log.files import Appended, Files
from recast_server.answer_log.tables import Table

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a write fails with where there is no room."""
GIVEN_UP = 4
"""Times what is to be written: if so much has gone and the disk is still full, it is not for us to make room."""
Lost = Callable[[str, int], None]
"""Told the table and how many records went with a segment that made room."""
_log = logging.getLogger("recast.answers")


@dataclass(frozen=True)
class Limits:
    """How large and how old files become."""

    max_bytes: int
    """Of all files of this pod."""
    roll_bytes: int
    """Of a journal that becomes a segment."""
    roll_seconds: float
    """After which it does in any case."""


@dataclass
class _Open:
    name: SegmentName
    file: Appended
    size: int
    """Bytes that are whole and synced."""
    begun: float
    records: int = 0


@dataclass(frozen=True)
class _Closed:
    folder: Path
    name: SegmentName
    bytes: int
    records: int
    """0 where nobody knows: of a journal that a crash left."""
    rolled: bool


class Store:
    """See the module. ``pod`` is what the ids of all writers of this pod begin with."""

    def __init__(self, root: Path, pod: str, writer: Writer, limits: Limits, files: Files, lost: Lost) -> None:
        self._root, self._pod, self._writer, self._limits = root, pod, writer, limits
        self._files, self._lost = files, lost
        self._folder = root / writer.id
        self._number = 0
        self._open: dict[str, _Open] = {}
        self._closed: list[_Closed] = []  # the oldest first

    @property
    def used_bytes(self) -> int:
        """On the disk, of this pod."""
        return sum(entry.bytes for entry in self._closed) + sum(entry.size for entry in self._open.values())

    def open(self) -> None:
        """Make the folder, and take over what earlier lives of this pod left. Raises ``OSError``."""
        self._files.make_folder(self._folder)
        self._closed = []
        for folder in self._files.names(self._root):
            if folder.startswith(f"{self._pod}.") and folder != self._writer.id:
                self._take_over(self._root / folder)

    def append(self, table: Table, records: list[Any], now: float) -> None:
        """Write records and sync. Raises ``OSError`` where they are not in the log: nothing of them is then.

        Where there is no room, older segments go first.
        """
        data = answer_journal.frame(table.batch(records))
        if len(data) > self._limits.max_bytes // 4:
            raise OSError(errno.ENOSPC, f"{len(data)} bytes are too many at once: the log may have {self._limits}")
        self._make_room(len(data))
        given_up = 0
        while True:
            try:
                self._write(table, data, len(records), now)
                return
            except OSError as error:
                if error.errno not in FULL or given_up > GIVEN_UP * len(data):
                    raise
                before = self.used_bytes
                if not self._drop_oldest():
                    raise
                given_up += before - self.used_bytes

    def tidy(self, now: float, *, everything: bool = False) -> None:
        """Make segments of journals that are due, or of all. What fails is tried again next time."""
        for table, journal in list(self._open.items()):
            aged = now - journal.begun >= self._limits.roll_seconds
            if journal.records and (everything or aged or journal.size >= self._limits.roll_bytes):
                self._set_aside(table)
        for entry in [entry for entry in self._closed if not entry.rolled]:
            try:
                self._make_room(entry.bytes)
                if entry in self._closed:  # or it made room itself
                    self._roll(entry)
            except OSError as error:
                _log.warning("a journal waits to become a segment", extra={"fields": {"error": str(error)}})
                return

    def _write(self, table: Table, data: bytes, records: int, now: float) -> None:
        entry = self._open.get(table.name) or self._begin(table, now)
        try:
            entry.file.write(data)
            entry.file.sync()
        except OSError:
            self._cut(table.name, entry)
            raise
        entry.size += len(data)
        entry.records += records

    def _begin(self, table: Table, now: float) -> _Open:
        self._number += 1
        name = SegmentName(table.name, self._number)
        file = self._files.append_to(self._folder / name.journal)
        entry = self._open[table.name] = _Open(name, file, 0, now)
        begin = answer_journal.opening(table.schema)
        try:
            file.write(begin)
        except OSError:
            self._cut(table.name, entry)
            raise
        entry.size = len(begin)
        return entry

    def _cut(self, table: str, entry: _Open) -> None:
        """A write failed: go on in another journal. After a failed sync nobody knows what this one holds."""
        with contextlib.suppress(OSError):  # readers drop what is not whole
            entry.file.truncate(entry.size)
        self._set_aside(table)

    def _set_aside(self, table: str) -> None:
        entry = self._open.pop(table)
        entry.file.close()
        if entry.records:
            self._closed.append(_Closed(self._folder, entry.name, entry.size, entry.records, rolled=False))
        else:
            self._remove(self._folder / entry.name.journal)

    def _make_room(self, need: int) -> None:
        while self.used_bytes + need > self._limits.max_bytes:
            if not self._drop_oldest():
                raise OSError(errno.ENOSPC, f"the log may have no more than {self._limits.max_bytes} bytes")

    def _drop_oldest(self) -> bool:
        """Whether there was one."""
        if not self._closed:
            return False
        entry = self._closed.pop(0)
        for file in (entry.name.manifest, entry.name.rows, entry.name.journal):
            self._remove(entry.folder / file)
        self._lost(entry.name.table, entry.records)
        return True

    def _roll(self, entry: _Closed) -> None:
        """A journal's rows as a segment. Raises ``OSError``; the journal is then still there."""
        journal = self._files.read(entry.folder / entry.name.journal)
        found = answer_journal.read(journal)
        place = self._closed.index(entry)
        if found.lost_bytes:
            fields = {"writer": entry.folder.name, "file": entry.name.journal, "bytes": found.lost_bytes}
            _log.warning("a journal was cut off: its end is lost", extra={"fields": fields})
        if not found.batches:
            self._remove(entry.folder / entry.name.journal)
            del self._closed[place]
            return
        rows = pa.Table.from_batches(found.batches)
        data = _parquet(rows)
        manifest = _manifest(entry.name, rows, data, found.lost_bytes)
        self._files.write_whole(entry.folder / entry.name.rows, data)
        encoded = (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()
        self._files.write_whole(entry.folder / entry.name.manifest, encoded)
        self._closed[place] = _Closed(entry.folder, entry.name, len(data) + len(encoded), manifest.records, rolled=True)
        self._remove(entry.folder / entry.name.journal)

    def _take_over(self, folder: Path) -> None:
        names = self._files.names(folder)
        segments = sorted({name for file in names if (name := SegmentName.of(file))}, key=lambda name: name.number)
        for file in names:
            if file.endswith(".tmp"):
                self._remove(folder / file)
        for name in segments:
            if name.manifest in names:
                self._remove(folder / name.journal)  # a crash came between the two
                self._take_segment(folder, name)
            elif name.journal not in names:
                self._remove(folder / name.rows)  # without its manifest it is being removed
            elif not self._files.is_held(folder / name.journal):
                size = self._files.size(folder / name.journal)
                self._closed.append(_Closed(folder, name, size, 0, rolled=False))

    def _take_segment(self, folder: Path, name: SegmentName) -> None:
        data = self._files.read(folder / name.manifest)
        try:
            manifest = SegmentManifest.model_validate_json(data)
        except ValidationError:
            _log.error("no manifest of the log of answers", extra={"fields": {"file": str(folder / name.manifest)}})
            return
        self._closed.append(_Closed(folder, name, manifest.bytes + len(data), manifest.records, rolled=True))

    def _remove(self, path: Path) -> None:
        try:
            self._files.remove(path)
        except OSError as error:
            _log.warning("a file of the log of answers stays", extra={"fields": {"error": str(error)}})


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _manifest(name: SegmentName, rows: pa.Table, data: bytes, lost_bytes: int) -> SegmentManifest:
    times = pc.min_max(rows.column("time"))
    table: Literal["answers", "impressions"] = ANSWERS if name.table == ANSWERS else IMPRESSIONS
    keys = ["request_id", "answered_at" if name.table == ANSWERS else "received_at"]
    foundations = pc.unique(rows.column("foundation_digest")).to_pylist() if name.table == ANSWERS else []
    return SegmentManifest(
        table=table,
        number=name.number,
        writer=Writer.model_validate_json(rows.schema.metadata[WRITER_KEY]),
        file=name.rows,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=len(rows),
        records=len(rows.group_by(keys).aggregate([])),
        min_time=times["min"].as_py(),
        max_time=times["max"].as_py(),
        foundations=sorted(digest for digest in foundations if digest),
        lost_bytes=lost_bytes,
    )
