"""A file of items is read as it is, whatever is in it besides, or refused in words; never in part."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recast_api.run import RecastError
from recast_model import items_file
from recast_model.items import ItemTable
from recast_model.items_file import read_items

FLOATS = pa.list_(pa.float32())


def write(path: Path, ids: Any, content: Any = None, **options: Any) -> Path:
    columns = {"item_id": pa.array(ids)}
    if content is not None:
        columns["content"] = content if isinstance(content, pa.Array) else pa.array(content, FLOATS)
    pq.write_table(pa.table(columns), path, **options)
    return path


def content_of(ids: list[int]) -> list[list[float]]:
    return [[item / 4, -item] for item in ids]


@given(
    ids=st.lists(st.integers(0, 60), unique=True, max_size=40),
    known=st.sets(st.integers(0, 60)),
    rows=st.integers(1, 50),
    group=st.integers(1, 50),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_items_that_are_not_known_are_read_whatever_the_parts_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[int], known: set[int], rows: int, group: int
) -> None:
    path = write(tmp_path / "items.parquet", pa.array(ids, pa.int64()), content_of(ids), row_group_size=group)
    besides = ItemTable(np.array(sorted(known), np.int64), np.zeros((len(known), 2), np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(items_file, "ROWS", rows)
        whole, new = read_items(path, 2), read_items(path, 2, besides=besides)
        with path.open("rb") as file:
            opened = read_items(file, 2, besides=besides)
    assert (whole.rows, new.rows, opened.rows) == (len(ids),) * 3
    for found, expected in ((whole, sorted(ids)), (new, sorted(set(ids) - known)), (opened, sorted(set(ids) - known))):
        assert found.items.ids.tolist() == expected
        assert found.items.content.tolist() == content_of(expected)
        assert (found.items.ids.dtype, found.items.content.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    ("ids", "content"),
    [
        (pa.array([4, 8], pa.int32()), pa.array(content_of([4, 8]), pa.list_(pa.float64()))),
        (pa.array([4, 8], pa.uint64()), pa.array(content_of([4, 8]), pa.list_(pa.float32(), 2))),
        (pa.array([4, 8]), pa.array(content_of([4, 8]), pa.large_list(pa.float32()))),
    ],
    ids=["int32 and float64", "uint64 and lists of a fixed size", "large lists"],
)
def test_other_types_of_the_same_numbers_are_the_same_items(tmp_path: Path, ids: pa.Array, content: pa.Array) -> None:
    found = read_items(write(tmp_path / "items.parquet", ids, content), 2).items
    assert (found.ids.tolist(), found.content.tolist()) == ([4, 8], content_of([4, 8]))


@pytest.mark.parametrize("content", [None, [[1, 2]] * 2], ids=["none", "some that is not asked for"])
def test_items_without_content_are_their_ids(tmp_path: Path, content: Any) -> None:
    found = read_items(write(tmp_path / "items.parquet", [8, 4], content), 0).items
    assert (found.ids.tolist(), found.content.shape) == ([4, 8], (2, 0))


@pytest.mark.parametrize(
    ("ids", "content", "words"),
    [
        ([1, 2, 1], [[1, 2]] * 3, "item_id repeats"),
        ([1, None], [[1, 2]] * 2, "item_id is null in some row"),
        (["1", "2"], [[1, 2]] * 2, "column item_id is string, expected int64"),
        (pa.array([1, 2**63], pa.uint64()), [[1, 2]] * 2, "cannot be read"),
        ([1, 2], None, "column content is missing"),
        ([1, 2], pa.array(["a", "b"]), "column content is string, expected a list"),
        ([1, 2], pa.array([["a", "b"]] * 2), "content must hold 2 finite numbers"),
        ([1, 2], [[1, 2], [1]], "content must hold 2 finite numbers"),
        ([1, 2], [[1, 2], [1, 2, 3]], "content must hold 2 finite numbers"),
        ([1, 2], [[1], [1, 2, 3]], "content must hold 2 finite numbers"),
        ([1, 2], [[1, 2], None], "content must hold 2 finite numbers"),
        ([1, 2], [[1, 2], [1, None]], "content must hold 2 finite numbers"),
        ([1, 2], [[1, 2], [1, float("nan")]], "content must hold 2 finite numbers"),
        ([1, 2], pa.array([[1, 2], [1, 1e300]], pa.list_(pa.float64())), "content must hold 2 finite numbers"),
    ],
)
def test_what_is_no_such_items_is_refused_in_words(tmp_path: Path, ids: Any, content: Any, words: str) -> None:
    path = write(tmp_path / "items.parquet", ids, content)
    with pytest.raises(RecastError, match=words) as caught:
        read_items(path, 2)
    assert caught.value.termination.reason == "CorruptItems"
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_anywhere_is_refused(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "items.parquet", list(range(500)), content_of(list(range(500))))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(RecastError) as caught:
        read_items(path, 2)
    assert caught.value.termination.reason == "CorruptItems"


def test_bytes_that_were_overwritten_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    """Without checksums a changed number is a number; what must not come of it is another kind of error."""
    path = write(tmp_path / "items.parquet", list(range(200)), content_of(list(range(200))))
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), set()
    for _ in range(150):
        at = int(rng.integers(len(whole) - 9))
        path.write_bytes(whole[:at] + rng.bytes(8) + whole[at + 8 :])
        try:
            read_items(path, 2)
        except RecastError as error:
            refused.add(error.termination.reason)
    assert refused == {"CorruptItems"}


def test_lists_of_a_length_that_nobody_has_memory_for_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = pa.array([np.zeros(5_000_000, np.float32), [1.0, 2.0]], FLOATS)
    path = write(tmp_path / "items.parquet", [1, 2], huge)
    assert path.stat().st_size < 200_000  # it is all the same number
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **options: pytest.fail("it was unpacked"))
    with pytest.raises(RecastError, match="content must hold 2 finite numbers"):
        read_items(path, 2)


def test_more_new_items_than_there_is_memory_for_are_refused_and_known_ones_do_not_count(tmp_path: Path) -> None:
    ids = list(range(100))
    path = write(tmp_path / "items.parquet", ids, content_of(ids))
    known = ItemTable(np.arange(90, dtype=np.int64), np.zeros((90, 2), np.float32))
    assert len(read_items(path, 2, besides=known, max_bytes=160).items) == 10
    with pytest.raises(RecastError, match="more than 9 items that the version does not know") as caught:
        read_items(path, 2, besides=known, max_bytes=159)
    assert caught.value.termination.reason == "TooManyItems"


class FailingDisk(FileIO):
    """The end of the file, where Parquet has its index, is read; nothing before it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() < 4:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


def test_a_disk_that_fails_is_not_taken_for_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_items(tmp_path / "items.parquet", 2)
    path = write(tmp_path / "items.parquet", [1, 2], content_of([1, 2]))
    with FailingDisk(path, "rb") as file, pytest.raises(OSError, match="Input/output error"):
        read_items(file, 2)
