"""The TAE log on disk, and the leak guard at its door.

A foundation writes one Parquet file per segment, before it trains on that segment. Every row carries the *cursor* of
the model that made it: the availability time up to which that model had learned labels. :func:`guard` refuses a row
whose cursor is at or past the time its own label became available: such a vector may hold the answer.

Files are named by segment and phase and replaced whole, so a resumed run rewrites the files after its checkpoint with
the same bytes: no row is lost, none doubled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_trainer.files import replace, sync_file

Phase = Literal["prequential", "tail"]
FOLDER = "tae"
_SEGMENT = b"recast.segment"
"""Key of a file's metadata that names the data's segment."""

_PARTIAL = b"recast.partial"
"""Key that a file has which may lack rows of the requests that it is of."""
_ALL_LOGGED = np.empty(0, np.float32)

Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class TaeRows:
    """Rows of the log; all arrays have the same length R."""

    row_ids: Ints  # (R,) the impression's id in the data set
    available_at: Ints  # (R,) ms, when the row's first label became known
    cursor: Ints  # (R,) ms, labels up to this instant were learned by the model that made the row
    tae: NDArray[np.float16]  # (R, D)
    propensity: NDArray[np.float32] = field(default_factory=lambda: _ALL_LOGGED)
    """(R,) probability with which the row is in the log; 1 of each by default."""

    def __post_init__(self) -> None:
        if self.propensity is _ALL_LOGGED:
            object.__setattr__(self, "propensity", np.ones(len(self.row_ids), np.float32))

    def __len__(self) -> int:
        return len(self.row_ids)

    def select(self, keep: NDArray[np.bool_] | Ints) -> TaeRows:
        """The rows that a mask or an index names."""
        return TaeRows(
            self.row_ids[keep], self.available_at[keep], self.cursor[keep], self.tae[keep], self.propensity[keep]
        )


def guard(cursor: Ints, available_at: Ints, row_ids: Ints, source: str) -> None:
    """Raise ``TaeLeak`` if any vector was made by a model that may have learned that row's label."""
    leaks = np.flatnonzero(cursor >= available_at)
    if leaks.size:
        first = leaks[0]
        raise RecastError(
            "TaeLeak",
            f"{source}: {leaks.size} of {len(cursor)} TAE rows were made after their label was learned (row "
            f"{row_ids[first]}: model cursor {cursor[first]} ms, label available {available_at[first]} ms); an expert "
            "trained on them would learn the answer. Train the foundation again",
        )


def file_name(index: int, phase: Phase) -> str:
    """Name of a segment's file inside :data:`FOLDER`."""
    return f"{index:05d}-{phase}.parquet"


def write_segment(
    folder: Path,
    index: int,
    phase: Phase,
    rows: TaeRows,
    surfaces: NDArray[np.str_],
    segment: str,
    *,
    partial: bool = False,
) -> Path:
    """Write the rows of the data's ``segment`` whole; ``surfaces`` (R,) are names.

    ``partial`` says that requests may lack some of their rows: then those that are there count.

    Rows that break the guard are never written.
    """
    guard(rows.cursor, rows.available_at, rows.row_ids, f"segment {index}")
    if not np.isfinite(rows.tae).all():
        raise RecastError("NotFinite", f"segment {index}: the foundation's TAE is not finite; lower the learning rate")
    size = rows.tae.shape[1]
    columns = {
        "row_id": rows.row_ids,
        "surface": pa.array(surfaces, pa.string()).dictionary_encode(),
        "label_available_at": rows.available_at,
        "model_cursor": rows.cursor,
        "tae": pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows.tae).reshape(-1)), size),
    }
    if (rows.propensity != 1).any():
        columns["propensity"] = rows.propensity
    about = {_SEGMENT: segment.encode()} | ({_PARTIAL: b"1"} if partial else {})
    table = pa.table(columns).replace_schema_metadata(about)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(index, phase)
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    sync_file(temporary)
    replace(temporary, path)
    return path


@dataclass(frozen=True)
class LogFile:
    """The log of one segment of the data."""

    path: Path
    segment: str
    phase: Phase
    partial: bool = False
    """Whether requests may lack some of their rows."""

    def read(self, surface: str) -> TaeRows:
        """One surface's rows. Raises ``TaeLogCorrupt``, and ``TaeLeak`` for a row that may hold its label."""
        rows = _reading(self.path, lambda: _rows_of(self.path, surface))
        guard(rows.cursor, rows.available_at, rows.row_ids, str(self.path))
        return rows

    def count(self) -> dict[str, int]:
        """Rows by surface."""
        found = _reading(self.path, lambda: pq.read_table(self.path, columns=["surface"]).column("surface"))
        return {entry["values"]: entry["counts"] for entry in found.value_counts().to_pylist()}


def files(folder: Path, phase: Phase) -> list[LogFile]:
    """The log's files, oldest first. Raises ``TaeLogCorrupt`` for one that is no log."""
    return [_open(path, phase) for path in sorted(folder.glob(f"*-{phase}.parquet"))]


def _open(path: Path, phase: Phase) -> LogFile:
    about = _reading(path, lambda: pq.read_schema(path).metadata or {})
    if _SEGMENT not in about:
        raise RecastError(
            "TaeLogCorrupt",
            f"{path} does not name its segment, as logs of older releases do not; train the foundation again",
        )
    return LogFile(path, about[_SEGMENT].decode(), phase, _PARTIAL in about)


def _rows_of(path: Path, surface: str) -> TaeRows:
    table = pq.read_table(path, filters=[("surface", "=", surface)])
    column = table.column("tae").combine_chunks()
    size = column.type.list_size
    values = column.flatten().to_numpy(zero_copy_only=False) if len(column) else np.empty(0, np.float16)
    weighted = "propensity" in table.column_names
    return TaeRows(
        table.column("row_id").to_numpy(),
        table.column("label_available_at").to_numpy(),
        table.column("model_cursor").to_numpy(),
        np.asarray(values, dtype=np.float16).reshape(-1, size),
        table.column("propensity").to_numpy() if weighted else _ALL_LOGGED,
    )


def _reading(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (pa.ArrowException, KeyError, AttributeError, TypeError) as error:
        raise RecastError(
            "TaeLogCorrupt", f"{path} cannot be read as a TAE log ({error}); train the foundation again"
        ) from error


class TaeIndex:
    """TAE by row id, joined against the data set's own label times: the log's word alone is not believed."""

    def __init__(self, rows: TaeRows) -> None:
        order = np.argsort(rows.row_ids, kind="stable")
        self._rows = rows.select(order)
        if (np.diff(self._rows.row_ids) == 0).any():
            raise RecastError("TaeLogCorrupt", "the TAE log names a row twice; train the foundation again")

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, row_ids: Ints, available_at: Ints) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """TAE (..., D) and whether each row is in the log (...), for ids and label times of any one shape."""
        flat = row_ids.reshape(-1)
        size = self._rows.tae.shape[1]
        if not len(self._rows):
            return np.zeros((*row_ids.shape, size), np.float16), np.zeros(row_ids.shape, np.bool_)
        position = np.minimum(np.searchsorted(self._rows.row_ids, flat), len(self._rows) - 1)
        found = self._rows.row_ids[position] == flat
        guard(self._rows.cursor[position[found]], available_at.reshape(-1)[found], flat[found], "TAE log")
        tae = np.where(found[:, None], self._rows.tae[position], np.float16(0))
        return tae.reshape(*row_ids.shape, size), found.reshape(row_ids.shape)

    def weights(self, row_ids: Ints) -> NDArray[np.float32]:
        """(R,) one over the probability with which each row was logged; 1 of those that are not in the log."""
        if not len(self._rows):
            return np.ones(len(row_ids), np.float32)
        position = np.minimum(np.searchsorted(self._rows.row_ids, row_ids), len(self._rows) - 1)
        there = self._rows.row_ids[position] == row_ids
        return np.where(there, 1 / self._rows.propensity[position], np.float32(1)).astype(np.float32)
