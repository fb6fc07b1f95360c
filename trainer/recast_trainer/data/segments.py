"""Reads a data set's folder. Whatever is wrong with it ends in a :class:`RecastError` that says what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from recast_api.run import RecastError
from recast_model.context import ContextFeature
from recast_model.items import ItemTable
from recast_model.items_file import read_items
from recast_trainer.data import context_columns
from recast_trainer.data.schema import (
    COLUMNS,
    DATASET,
    ITEMS,
    PARQUET,
    SEGMENTS,
    SHOWN,
    UNKNOWN_POSITION,
    Dataset,
    Rows,
    segment_start,
)

MAX_SEGMENT_BYTES = 4 << 30
MAX_SEGMENT_ROWS = 50_000_000
STILL_WRITTEN_SECONDS = 600
"""A file without a Parquet footer that changed less than this ago may still be written; an older one was cut off."""
_MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""
_SHORTER = "divide the data by shorter segments"
_SHOWN = 5
_OF_A_TASK = ("label", "available_at")
_LABELS = tuple(f"{what}_" for what in _OF_A_TASK)
"""How columns begin that must not be passed over: a misspelt time lets a label be learned before it was known."""

T = TypeVar("T")


@dataclass(frozen=True)
class Segment:
    """Impressions by the event time that they cover, in one file or several."""

    files: tuple[Path, ...]
    name: str
    start: int  # ms
    end: int  # ms, exclusive

    @classmethod
    def of(cls, name: str, files: Sequence[Path], dataset: Dataset) -> Segment:
        """The segment of that name. Raises ``ValueError`` where the name is no hour."""
        start = segment_start(name)
        return cls(tuple(files), name, start, start + dataset.segment_seconds * 1000)


def load_dataset(folder: Path) -> Dataset:
    """``dataset.json`` of a folder. Raises ``DataNotFound`` or ``CorruptDataset``."""
    return parse_dataset(folder, read_dataset(folder))


def read_dataset(folder: Path) -> bytes:
    """The text of ``dataset.json``. Raises ``DataNotFound``."""
    try:
        return (folder / DATASET).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(folder) from error


def parse_dataset(folder: Path, text: bytes) -> Dataset:
    """What the text of the folder's ``dataset.json`` says. Raises ``CorruptDataset``."""
    path = folder / DATASET
    try:
        return Dataset.model_validate_json(text)
    except ValidationError as error:
        found = error.errors()
        if any(entry["loc"] == ("format",) and entry["input"] == 1 for entry in found):
            raise RecastError(
                "CorruptDataset",
                f"{path} is of format 1, which is no longer read: `recast data convert {folder} --out FOLDER` copies "
                "the data set to a new folder as format 2",
            ) from error
        where = ".".join(str(part) for part in found[0]["loc"]) or "the file"
        raise RecastError("CorruptDataset", f"{path}: {where}: {found[0]['msg']}; write it again") from error


def _not_found(folder: Path) -> RecastError:
    parent = folder
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    names = sorted(entry.name for entry in parent.iterdir())[:_SHOWN]
    there = f"{parent} holds {', '.join(names)}" if names else f"{parent} is empty"
    return RecastError("DataNotFound", f"no data set at {folder}: no {DATASET}; {there}. Fix spec.data.path")


def require_surface(dataset: Dataset, surface: str) -> None:
    """Raise ``SurfaceNotFound``, naming the surfaces there are, unless the data set has this one."""
    if surface not in dataset.surface_names:
        raise RecastError(
            "SurfaceNotFound",
            f'the data set "{dataset.name}" has no surface "{surface}"; it has {", ".join(dataset.surface_names)}. '
            "Fix spec.surface",
        )


def require_tasks(dataset: Dataset, surface: str, tasks: list[str]) -> None:
    """Raise ``TaskNotFound``, naming the tasks there are, unless the surface has all of ``tasks``."""
    require_surface(dataset, surface)
    missing = [task for task in tasks if task not in dataset.tasks_of(surface)]
    if missing:
        raise RecastError(
            "TaskNotFound",
            f'the surface "{surface}" has no labels for {", ".join(missing)}; it has '
            f"{', '.join(dataset.tasks_of(surface))}. Fix spec.tasks",
        )


def list_segments(
    folder: Path, dataset: Dataset, until_ms: int | None = None, window_ms: int | None = None
) -> list[Segment]:
    """Segments in time order that end at or before ``until_ms`` and start within ``window_ms`` of the last one's end.

    Raises ``DataNotFound`` where none is left, and ``CorruptSegment`` for a file or folder whose name is no hour.
    """
    there = (folder / SEGMENTS).glob(SHOWN)
    found = [_segment(path, dataset) for path in there if path.suffix == PARQUET or path.is_dir()]
    found.sort(key=lambda segment: (segment.start, segment.files))
    chosen = [segment for segment in found if until_ms is None or segment.end <= until_ms]
    if chosen and window_ms is not None:
        first = chosen[-1].end - window_ms
        chosen = [segment for segment in chosen if segment.start >= first]
    for before, after in pairwise(chosen):
        if after.name == before.name:
            raise RecastError(
                "CorruptSegment",
                f"the segment {after.name} stands twice: {before.files[0]} and {after.files[0]}; remove one of them",
            )
        if after.start < before.end:
            raise RecastError(
                "CorruptSegment",
                f"{after.files[0]} begins before {before.name} ends: {DATASET} says that a segment has "
                f"{dataset.segment_seconds} seconds; name the files accordingly, or correct segmentSeconds",
            )
    if not chosen:
        holds = f"{len(found)} segments, {found[0].name} to {found[-1].name}" if found else "no segments"
        raise RecastError(
            "DataNotFound", f"no segment of {folder} ends within spec.data.until and window; it has {holds}"
        )
    return chosen


def _segment(path: Path, dataset: Dataset) -> Segment:
    """The segment that is this file, or the files in this folder."""
    files = sorted(path.glob(SHOWN + PARQUET)) if path.is_dir() else [path]
    try:
        segment = Segment.of(path.name.removesuffix(PARQUET), files, dataset)
    except ValueError as error:
        raise RecastError(
            "CorruptSegment",
            f"{path}: a segment is named like 2026-01-01T00.parquet, a folder of its files like 2026-01-01T00; rename "
            "or remove it",
        ) from error
    if not files:
        raise _corrupt(path, f"the folder holds no file whose name ends in {PARQUET}")
    if strange := next((file for file in files if not file.is_file()), None):
        raise _corrupt(strange, "it is no file, nor a link to one")
    return segment


def read_segment(segment: Segment, dataset: Dataset) -> Rows:
    """All rows of a segment, ordered by (event_time, request_id, row_id).

    Raises ``CorruptSegment`` naming the file, the column and what to do, and ``SegmentIncomplete``, which may pass.
    """
    left = Limits()
    parts = [
        _rows(_reading(path, partial(_columns, dataset), dataset, left), path, segment, dataset)
        for path in segment.files
    ]
    rows = Rows.concatenate(parts) if len(parts) > 1 else parts[0]
    _require_distinct(rows.row_ids, segment)
    if problem := context_columns.disagreeing(rows, dataset.context_features):
        raise _corrupt(_place(segment), problem)
    return rows.take(np.lexsort((rows.row_ids, rows.request_ids, rows.event_times)))


def _rows(table: pa.Table, path: Path, segment: Segment, dataset: Dataset) -> Rows:
    """The rows of one of a segment's files, in its order."""
    labels = [f"label_{task}" for task in dataset.tasks]
    _require_types(table.schema, dataset, path)
    columns = {name: _integers(table, name, path) for name in COLUMNS if name != "surface"}
    there = "position" in table.column_names
    positions = _integers(table, "position", path) if there else np.full(len(table), UNKNOWN_POSITION)
    surfaces = _surfaces(table, dataset, path)
    try:
        context = context_columns.read(table, dataset.context_features)
    except ValueError as error:
        raise _corrupt(path, str(error)) from error
    marks = [_label(table, name, path) for name in labels]
    oracle = [
        table.column(f"p_{task}").to_numpy().astype(np.float32)
        if f"p_{task}" in table.column_names
        else np.full(len(table), np.nan, np.float32)
        for task in dataset.tasks
    ]
    times, known = columns["event_time"], _known(table, columns["available_at"], dataset)
    if len(times) and not (segment.start <= times.min() and times.max() < segment.end):
        raise _corrupt(
            path,
            f"event_time, in ms, must be from {segment.start} to before {segment.end}, as the segment's name and "
            f"segmentSeconds in {DATASET} say, but is {times.min()} to {times.max()}",
        )
    for task, at in zip(("", *dataset.tasks), (columns["available_at"], *known.T), strict=True):
        if (at < times).any():
            name = f"available_at_{task}" if task else "available_at"
            raise _corrupt(path, f"{name} is before event_time: a label cannot be known before its event")
    shape = (len(table), len(labels))
    return Rows(
        row_ids=columns["row_id"],
        request_ids=columns["request_id"],
        users=columns["user_id"],
        items=columns["item_id"],
        surfaces=surfaces,
        event_times=times,
        available_at=known,
        positions=positions,
        labels=np.stack([value for value, _ in marks], 1).reshape(shape),
        label_mask=np.stack([mask for _, mask in marks], 1).reshape(shape),
        oracle=np.stack(oracle, 1).reshape(shape),
        context_values=context.values,
        context_numbers=context.numbers,
    )


def unlisted(segment: Segment, dataset: Dataset, feature: ContextFeature) -> tuple[int, str]:
    """Rows of a segment with a value of a categorical feature that is not listed, and the most frequent one of those.

    They are read as unknown. Raises as :func:`read_segment`.
    """
    left, name = Limits(), context_columns.column(feature)

    def of_file(file: pq.ParquetFile) -> tuple[int, str]:
        there = name in file.schema_arrow.names
        return context_columns.unlisted(file.read(columns=[name]), feature) if there else (0, "")

    found = [_reading(path, of_file, dataset, left) for path in segment.files]
    return sum(count for count, _ in found), max(found)[1]


def require_readable(segments: list[Segment], dataset: Dataset) -> int:
    """Check what each file says of itself, and return the number of rows that all of them hold.

    A run that is to fail for its data fails so at its start. Raises as :func:`read_segment`.
    """
    return sum(_count(segment, dataset) for segment in segments)


def _count(segment: Segment, dataset: Dataset) -> int:
    left = Limits()
    return sum(_reading(path, partial(_count_of_file, path, dataset), dataset, left) for path in segment.files)


def _count_of_file(path: Path, dataset: Dataset, file: pq.ParquetFile) -> int:
    _require_types(file.schema_arrow, dataset, path)
    return int(file.metadata.num_rows)


def load_items(folder: Path, dataset: Dataset) -> ItemTable:
    """Items and their content (I, contentDim), by ascending id. Raises ``DataNotFound`` or ``CorruptItems``."""
    path = folder / ITEMS
    if not path.exists():
        raise RecastError("DataNotFound", f"no {ITEMS} in {folder}: write the items beside {DATASET}")
    try:
        return read_items(path, dataset.content_dim).items
    except OSError as error:
        raise RecastError("CorruptItems", f"{path} cannot be read ({error}); write it again") from error


class Limits:
    """What a segment's files may hold beside those that were read."""

    def __init__(self) -> None:
        self.bytes, self.rows = MAX_SEGMENT_BYTES, MAX_SEGMENT_ROWS


def _reading(path: Path, use: Callable[[pq.ParquetFile], T], dataset: Dataset, left: Limits) -> T:
    """What ``use`` makes of a file that has the columns of a segment, and no more than is left for it."""
    try:
        left.bytes -= path.stat().st_size
        if left.bytes < 0:
            raise _corrupt(path, f"with it the segment is larger than {MAX_SEGMENT_BYTES >> 30} GiB; {_SHORTER}")
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            missing = [name for name in _required(dataset) if name not in there]
            if missing:
                raise _corrupt(path, f"column {missing[0]} is missing")
            _require_named(there, dataset, path)
            left.rows -= file.metadata.num_rows
            if left.rows < 0:
                raise _corrupt(path, f"with it the segment has more than {MAX_SEGMENT_ROWS} rows; {_SHORTER}")
            return use(file)
    except (pa.ArrowException, OSError) as error:
        if _lacks_its_end(path) and (age := _seconds_since_change(path)) < STILL_WRITTEN_SECONDS:
            raise RecastError(
                "SegmentIncomplete",
                f"{path} has no end and changed {age:.0f} s ago, so it may still be written; the run is tried again. "
                "Write a segment, or the folder of its files, under a name that begins with a dot, and rename it when "
                "it is whole",
                retryable=True,
            ) from error
        raise _corrupt(path, f"it cannot be read as Parquet ({str(error)[:200]})") from error


def _require_named(columns: set[str], dataset: Dataset, path: Path) -> None:
    known = {f"{what}_{task}" for what in _OF_A_TASK for task in dataset.tasks}
    strange = sorted(name for name in columns - known if name.startswith(_LABELS))
    if strange:
        raise _corrupt(
            path,
            f"column {strange[0]} is of no task that {DATASET} names ({', '.join(dataset.tasks)}): correct its name, "
            "name its task there, or leave it out",
        )
    if problem := context_columns.misnamed(sorted(columns), dataset.context_features):
        raise _corrupt(path, problem)


def _require_types(schema: pa.Schema, dataset: Dataset, path: Path) -> None:
    for name in (*COLUMNS, "position"):
        kind = schema.field(name).type if name in schema.names else pa.int64()
        if name != "surface" and (not pa.types.is_integer(kind) or kind == pa.uint64()):
            raise _corrupt(path, f"column {name} is {kind}, expected int64")
    for task in dataset.tasks:
        kind = schema.field(f"label_{task}").type
        if not pa.types.is_integer(kind) and not pa.types.is_null(kind):
            raise _corrupt(path, f"column label_{task} is {kind}, expected int8")
        name = f"available_at_{task}"
        kind = schema.field(name).type if name in schema.names else pa.int64()
        if (not pa.types.is_integer(kind) or kind == pa.uint64()) and not pa.types.is_null(kind):
            raise _corrupt(path, f"column {name} is {kind}, expected int64")
        kind = schema.field(f"p_{task}").type if f"p_{task}" in schema.names else pa.float32()
        if not pa.types.is_floating(kind) and not pa.types.is_null(kind):
            raise _corrupt(path, f"column p_{task} is {kind}, expected float32")
    if problem := context_columns.mistyped(schema, dataset.context_features):
        raise _corrupt(path, problem)


def _required(dataset: Dataset) -> list[str]:
    return [*COLUMNS, *(f"label_{task}" for task in dataset.tasks)]


def _columns(dataset: Dataset, file: pq.ParquetFile) -> pa.Table:
    optional = {"position"} | {f"{what}_{task}" for task in dataset.tasks for what in ("available_at", "p")}
    optional |= {context_columns.column(feature) for feature in dataset.context_features}
    return file.read(columns=[*_required(dataset), *sorted(optional & set(file.schema_arrow.names))], use_threads=False)


def _lacks_its_end(path: Path) -> bool:
    """Whether a file is empty, or begins as Parquet does and does not end so."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
            if begin != _MAGIC[: len(begin)]:
                return False
            if file.seek(0, os.SEEK_END) < 2 * len(_MAGIC):
                return True
            file.seek(-len(_MAGIC), os.SEEK_END)
            return file.read() != _MAGIC
    except OSError:
        return False


def _seconds_since_change(path: Path) -> float:
    """How long the file is as it is; infinite where that cannot be told."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _integers(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    column = table.column(name)
    if column.null_count:
        raise _corrupt(path, f"column {name} holds {column.null_count} nulls")
    return np.ascontiguousarray(column.to_numpy(), dtype=np.int64)


def _known(table: pa.Table, of_all: NDArray[np.int64], dataset: Dataset) -> NDArray[np.int64]:
    """(R, T) ms at which each label was known: what its own column says, or else that of all labels (R,)."""
    known = np.repeat(of_all[:, None], len(dataset.tasks), 1)
    for column, task in enumerate(dataset.tasks):
        if (name := f"available_at_{task}") in table.column_names:
            own = table.column(name)
            known[:, column] = pc.coalesce(own.cast(pa.int64()), pa.array(of_all)) if own.null_count else own
    return known


def _require_distinct(row_ids: NDArray[np.int64], segment: Segment) -> None:
    """TAE are joined to rows by id, segment by segment."""
    ids = np.sort(row_ids)
    twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(twice):
        others = f", and {len(twice) - 1:,} other ids too" if len(twice) > 1 else ""
        raise _corrupt(_place(segment), f"row_id {twice[0]} stands in more than one row{others}")


def _place(segment: Segment) -> Path:
    """The segment's file, or the folder of its files."""
    return segment.files[0] if len(segment.files) == 1 else segment.files[0].parent


def _surfaces(table: pa.Table, dataset: Dataset, path: Path) -> NDArray[np.int64]:
    try:
        encoded = table.column("surface").combine_chunks().cast(pa.string()).dictionary_encode()
    except pa.ArrowException as error:
        raise _corrupt(path, f"column surface is {table.column('surface').type}, expected string") from error
    known = {name: index for index, name in enumerate(dataset.surface_names)}
    names = encoded.dictionary.to_pylist()
    strange = [str(name) for name in names if name not in known]
    if strange or encoded.null_count:
        raise _corrupt(
            path, f'column surface holds "{(strange or ["null"])[0]}", which {DATASET} does not name; add it there'
        )
    places = np.array([known[name] for name in names], np.int64)
    indices: NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
    return places[indices] if len(places) else indices


def _label(table: pa.Table, name: str, path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    column = table.column(name)
    mask = column.is_valid().to_numpy()
    values = column.fill_null(0).to_numpy() if mask.any() else np.zeros(len(mask), np.int8)
    if ((values != 0) & (values != 1)).any():
        raise _corrupt(path, f"column {name} holds values other than 0, 1 and null")
    return values.astype(np.float32), mask


def _corrupt(path: Path, what: str) -> RecastError:
    return RecastError("CorruptSegment", f"{path}: {what}; write the segment again, or remove it from the data set")
