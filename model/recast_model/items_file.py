"""``items.parquet``: items and their content, as data sets have them and as servers are told of new ones.

``item_id`` is int64; ``content``, a list of as many finite float32 as the data set or the version says, is not there
where that is 0. Read in parts, so that who wants few of many items needs memory for the few. Imports PyArrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_model.items import ItemTable

ITEM_COLUMNS = ("item_id", "content")
ROWS = 16_384
"""Rows in memory at a time."""
_BUFFER_BYTES = 1 << 20
_Part = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class ReadItems:
    """What a file holds."""

    items: ItemTable
    """Those that were asked for."""
    rows: int
    """Of the whole file."""


def read_items(
    source: Path | BinaryIO, content_dim: int, *, besides: ItemTable | None = None, max_bytes: int | None = None
) -> ReadItems:
    """The items of a file, by ascending id, without those that ``besides`` has.

    Raises :class:`RecastError` with ``CorruptItems`` where the file is none of such items, with ``TooManyItems`` where
    ids and content of those that are asked for are more than ``max_bytes``, and ``OSError`` where it cannot be read.
    """
    path = Path(source if isinstance(source, Path) else source.name)
    ids: list[NDArray[np.int64]] = []
    content: list[NDArray[np.float32]] = []
    taken = 0
    try:
        with pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            for part in _parts(file, path, content_dim):
                some, vectors = part if besides is None else _without(part, besides)
                taken += some.nbytes + vectors.nbytes
                if max_bytes is not None and taken > max_bytes:
                    raise _too_many(path, max_bytes, content_dim)
                ids.append(some)
                content.append(vectors)
            rows = file.metadata.num_rows
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; Arrow's own, of bytes that it cannot decode, has no number
        raise _corrupt(path, f"it cannot be read as Parquet ({str(error)[:200]})") from error
    return ReadItems(_table(path, ids, content, content_dim), rows)


def _parts(file: pq.ParquetFile, path: Path, content_dim: int) -> Iterator[_Part]:
    """Ids (R,) and content (R, C) of some rows at a time."""
    wanted = ITEM_COLUMNS if content_dim else ITEM_COLUMNS[:1]
    schema = file.schema_arrow
    if missing := [name for name in wanted if name not in schema.names]:
        hint = ", or leave contentDim out where items have none" if missing == ["content"] else ""
        raise RecastError("CorruptItems", f"{path}: column {missing[0]} is missing; write it{hint}")
    if not pa.types.is_integer(kind := schema.field("item_id").type):
        raise _corrupt(path, f"column item_id is {kind}, expected int64")
    if content_dim:
        _require_lists(file, path, content_dim)
    for batch in file.iter_batches(ROWS, columns=list(wanted), use_threads=False):
        if batch.column("item_id").null_count:
            raise _corrupt(path, "item_id is null in some row")
        ids = batch.column("item_id").cast(pa.int64()).to_numpy()
        yield ids, _content(batch, path, content_dim)


def _require_lists(file: pq.ParquetFile, path: Path, content_dim: int) -> None:
    """Refuse what would need more memory than rows of such content: a list may say that it has any length."""
    kind = file.schema_arrow.field("content").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise _corrupt(path, f"column content is {kind}, expected a list of float32")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise _wrong_content(path, content_dim)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        if any(
            column.path_in_schema.startswith("content.") and column.num_values > group.num_rows * content_dim
            for column in columns
        ):
            raise _wrong_content(path, content_dim)


def _content(batch: pa.RecordBatch, path: Path, content_dim: int) -> NDArray[np.float32]:
    if not content_dim:
        return np.empty((len(batch), 0), np.float32)
    column = batch.column("content")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if (lengths != content_dim).any():
        raise _wrong_content(path, content_dim)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # what overflows is not finite, which is said below
        content: NDArray[np.float32] = flat.astype(np.float32).reshape(len(batch), content_dim)
    if not np.isfinite(content).all():
        raise _wrong_content(path, content_dim)
    return content


def _without(part: _Part, known: ItemTable) -> _Part:
    new = known.index(part[0]) == 0
    return part[0][new], part[1][new]


def _table(path: Path, ids: list[NDArray[np.int64]], content: list[NDArray[np.float32]], content_dim: int) -> ItemTable:
    all_ids = np.concatenate([np.empty(0, np.int64), *ids])
    vectors = np.concatenate([np.empty((0, content_dim), np.float32), *content])
    content.clear()
    order = np.argsort(all_ids)
    if (np.diff(all_ids[order]) == 0).any():
        raise RecastError("CorruptItems", f"{path}: item_id repeats; write each item once")
    return ItemTable(all_ids[order], vectors[order])


def _corrupt(path: Path, what: str) -> RecastError:
    return RecastError("CorruptItems", f"{path}: {what}; write it again")


def _wrong_content(path: Path, content_dim: int) -> RecastError:
    return _corrupt(path, f"content must hold {content_dim} finite numbers an item, zeros where an item has none")


def _too_many(path: Path, max_bytes: int, content_dim: int) -> RecastError:
    count = max_bytes // (8 + 4 * content_dim)
    return RecastError(
        "TooManyItems",
        f"{path} has more than {count:,} items that the version does not know, which is as many as {max_bytes >> 20}"
        " MiB hold: leave out those that nobody asks for, or train a version that knows them",
    )
