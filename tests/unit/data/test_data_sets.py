"""Folders of data: written, read back, and every way in which one can be wrong."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_builders import DATASET, ITEMS, START, rows

from recast_api.run import RecastError
from recast_model.items import ItemTable
from recast_trainer.data import segments
from recast_trainer.data.commands import Delays, main
from recast_trainer.data.convert import convert
from recast_trainer.data.movielens import MovieLens
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.segments import (
    Segment,
    list_segments,
    load_dataset,
    load_items,
    read_segment,
    require_readable,
    require_surface,
    require_tasks,
)
from recast_trainer.data.writing import DatasetWriter

HOUR = 3_600_000
SEGMENT = "2026-01-01T00"


def hand_rows() -> Rows:
    made = rows([(1, 0, 100, 5, 1), (2, 1, 101, 7, 2), (1, 1, 102, 9, 3)])
    made.label_mask[made.surfaces == 0, 2] = False
    made.label_mask[made.surfaces == 1, 1] = False
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = DatasetWriter(tmp_path, DATASET)
    writer.items(ITEMS)
    for hour in range(5):
        part = hand_rows()
        shifted = {name: getattr(part, name) + hour * HOUR for name in ("event_times", "available_at")}
        shifted["row_ids"] = part.row_ids + hour * len(part)
        writer.segment(START + hour * HOUR, Rows(**{**vars(part), **shifted}))
    writer.finish()
    return tmp_path


def change(folder: Path, column: str, values: pa.Array | None) -> None:
    path = folder / "segments" / f"{SEGMENT}.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.remove_column(place) if values is None else table.set_column(place, column, values), path)


def with_own_times(folder: Path, **delays: list[int | None]) -> None:
    """Give the first segment's labels times of their own, in ms after their event."""
    path = folder / "segments" / f"{SEGMENT}.parquet"
    table = pq.read_table(path)
    shown = table.column("event_time").to_pylist()
    for task, each in delays.items():
        values = [None if d is None else time + d for time, d in zip(shown, each, strict=True)]
        table = table.append_column(f"available_at_{task}", pa.array(values, pa.int64()))
    pq.write_table(table, path)


def read_first(folder: Path) -> Rows:
    dataset = load_dataset(folder)
    return read_segment(list_segments(folder, dataset)[0], dataset)


def test_rows_come_back_as_they_were_written(folder: Path) -> None:
    back, made = read_first(folder), hand_rows()
    for name in vars(made):
        if name != "labels":
            np.testing.assert_array_equal(getattr(back, name), getattr(made, name), err_msg=name)
    np.testing.assert_array_equal(back.labels, np.where(made.label_mask, made.labels, 0))
    items = load_items(folder, load_dataset(folder))
    np.testing.assert_array_equal(items.ids, ITEMS.ids)
    np.testing.assert_array_equal(items.content, ITEMS.content)


def test_a_label_is_known_at_its_own_time_and_where_none_is_given_at_that_of_its_row(folder: Path) -> None:
    with_own_times(folder, click=[0, None, 7], buy=[None, 4_000_000, None])
    known = read_first(folder).available_at - hand_rows().event_times[:, None]
    assert known.tolist() == [[0, 1, 1], [2, 2, 4_000_000], [7, 3, 3]]


def test_labels_keep_their_own_times_when_they_are_written(folder: Path) -> None:
    made = hand_rows()
    made.available_at[:] += [[0, 3, 3], [9, 9, 0], [0, 5, 5]]
    path = DatasetWriter(folder, DATASET).segment(START, made)
    assert pq.read_table(path).column("available_at_click").null_count == 1
    back = read_segment(Segment((path,), SEGMENT, START, START + HOUR), DATASET)
    assert back.available_at[made.label_mask].tolist() == made.available_at[made.label_mask].tolist()
    assert back.last_known.tolist() == made.last_known.tolist()


@pytest.mark.parametrize(
    ("until", "window", "expected"),
    [
        (None, None, [0, 1, 2, 3, 4]),
        (START + 3 * HOUR, None, [0, 1, 2]),
        (START + 3 * HOUR - 1, None, [0, 1]),
        (START + 3 * HOUR, 2 * HOUR, [1, 2]),
        (None, HOUR, [4]),
        (START + 100 * HOUR, 2 * HOUR, [3, 4]),
    ],
)
def test_segments_are_chosen_by_end_and_window(
    folder: Path, until: int | None, window: int | None, expected: list[int]
) -> None:
    chosen = list_segments(folder, load_dataset(folder), until, window)
    assert [(segment.start - START) // HOUR for segment in chosen] == expected


@pytest.mark.parametrize(
    ("ids", "says"), [([1, 100, 100], "row_id 100 stands in more than one row;"), ([7, 7, 7], "row_id 7 stands")]
)
def test_a_row_id_that_stands_twice_in_a_segment_is_named(folder: Path, ids: list[int], says: str) -> None:
    change(folder, "row_id", pa.array(ids))
    dataset = load_dataset(folder)
    with pytest.raises(RecastError, match=says) as caught:
        read_segment(list_segments(folder, dataset)[0], dataset)
    assert caught.value.termination.reason == "CorruptSegment"


def test_all_segments_are_looked_at_before_any_is_read(folder: Path) -> None:
    dataset = load_dataset(folder)
    listed = list_segments(folder, dataset)
    assert require_readable(listed, dataset) == sum(len(read_segment(segment, dataset)) for segment in listed)
    last = listed[-1].files[0]
    table = pq.read_table(last)
    pq.write_table(table.drop_columns(["label_click"]), last)
    with pytest.raises(RecastError, match=rf"{last.name}: column label_click is missing"):
        require_readable(listed, dataset)
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(RecastError, match=last.name):
        require_readable(listed, dataset)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("user_id", pa.array([1.0, 2.0, 3.0]), "column user_id is double, expected int64"),
        ("item_id", pa.array([1, 2, 2**63], pa.uint64()), "column item_id is uint64, expected int64"),
        ("position", pa.array(["0", "1", "2"]), "column position is string, expected int64"),
        ("label_click", pa.array([1.0, 0.0, 0.0]), "column label_click is double, expected int8"),
        ("p_click", pa.array(["0.1", "0.2", "0.3"]), "column p_click is string, expected float32"),
        ("available_at_click", pa.array([1.0, 2.0, 3.0]), "column available_at_click is double, expected int64"),
        ("available_at_buy", pa.array([1, 2, 3], pa.uint64()), "column available_at_buy is uint64, expected int64"),
    ],
)
def test_a_column_of_another_type_is_found_before_anything_is_read(
    folder: Path, column: str, values: pa.Array, says: str
) -> None:
    first = folder / "segments" / f"{SEGMENT}.parquet"
    table = pq.read_table(first)
    there = [name for name in table.column_names if name != column]
    pq.write_table(table.select(there).append_column(column, values), first)
    dataset = load_dataset(folder)
    listed = list_segments(folder, dataset)
    for check in (lambda: require_readable(listed, dataset), lambda: read_segment(listed[0], dataset)):
        with pytest.raises(RecastError, match=says) as caught:
            check()
        assert caught.value.termination.reason == "CorruptSegment"


def test_a_label_that_was_known_before_its_event_is_named_with_its_task(folder: Path) -> None:
    with_own_times(folder, click=[0, 0, None], buy=[None, None, -1])
    with pytest.raises(RecastError, match="available_at_buy is before event_time"):
        read_first(folder)


def test_a_column_of_label_times_may_be_empty(folder: Path) -> None:
    path = folder / "segments" / f"{SEGMENT}.parquet"
    pq.write_table(pq.read_table(path).append_column("available_at_buy", pa.nulls(3)), path)
    assert read_first(folder).available_at.tolist() == hand_rows().available_at.tolist()


def test_a_label_of_three_hundred_is_no_label(folder: Path) -> None:
    change(folder, "label_click", pa.array([1, 300, 0], pa.int32()))
    dataset = load_dataset(folder)
    with pytest.raises(RecastError, match="holds values other than 0, 1 and null"):
        read_segment(list_segments(folder, dataset)[0], dataset)


def test_segments_that_overlap_are_named(folder: Path) -> None:
    dataset = load_dataset(folder).model_copy(update={"segment_seconds": 7200})
    with pytest.raises(RecastError, match=r"2026-01-01T01\.parquet begins before 2026-01-01T00 ends") as caught:
        list_segments(folder, dataset)
    assert caught.value.termination.reason == "CorruptSegment"


def test_a_time_before_all_segments_says_what_there_is(folder: Path) -> None:
    with pytest.raises(RecastError, match="5 segments, 2026-01-01T00 to 2026-01-01T04") as caught:
        list_segments(folder, load_dataset(folder), START)
    assert caught.value.termination.reason == "DataNotFound"


def test_a_missing_folder_says_what_is_there_instead(folder: Path) -> None:
    with pytest.raises(RecastError, match=r"items\.parquet, segments\. Fix spec\.data\.path"):
        load_dataset(folder / "home")


def test_a_surface_or_task_that_the_data_lack_is_answered_with_those_they_have(folder: Path) -> None:
    dataset = load_dataset(folder)
    require_tasks(dataset, "ads", ["click", "buy"])
    with pytest.raises(RecastError, match='no surface "stories"; it has reels, ads') as caught:
        require_surface(dataset, "stories")
    assert caught.value.termination.reason == "SurfaceNotFound"
    with pytest.raises(RecastError, match="no labels for buy; it has click, long_view"):
        require_tasks(dataset, "reels", ["click", "buy"])


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("user_id", None, "column user_id is missing"),
        ("label_buy", None, "column label_buy is missing"),
        ("item_id", pa.array(["a", "b", "c"]), "column item_id is string, expected int64"),
        ("user_id", pa.array([1, None, 2]), "column user_id holds 1 nulls"),
        ("surface", pa.array(["reels", "stories", "ads"]), 'column surface holds "stories"'),
        ("surface", pa.array(["reels", None, "ads"]), 'column surface holds "null"'),
        ("label_click", pa.array([0, 1, 2], pa.int8()), "column label_click holds values other than 0, 1 and null"),
        ("label_click", pa.array([0.5, 1.0, 0.0]), "column label_click is double, expected int8"),
        ("event_time", pa.array([START, START, START + HOUR]), "event_time, in ms, must be from"),
        ("available_at", pa.array([START, START, START]), "available_at is before event_time"),
        ("available_at", pa.array([START + 6, START + 6, START + 12]), "available_at is before event_time"),
        ("label_click", pa.array([0, -1, 1], pa.int8()), "column label_click holds values other than 0, 1 and null"),
        ("event_time", pa.array([START - 1, START + 7, START + 9]), "event_time, in ms, must be from"),
    ],
)
def test_a_corrupt_column_is_named_with_its_file(
    folder: Path, column: str, values: pa.Array | None, words: str
) -> None:
    change(folder, column, values)
    with pytest.raises(RecastError, match=words) as caught:
        read_first(folder)
    assert caught.value.termination.reason == "CorruptSegment"
    assert not caught.value.termination.retryable
    assert f"{SEGMENT}.parquet" in str(caught.value)
    assert "write the segment again, or remove it" in str(caught.value)


@pytest.mark.parametrize("name", ["available_at_clikc", "label_clicks"])
def test_a_label_or_a_time_of_no_task_is_refused_and_other_columns_are_passed_over(folder: Path, name: str) -> None:
    path = folder / "segments" / f"{SEGMENT}.parquet"
    table = pq.read_table(path).append_column("price", pa.array([1.5, 2.5, 3.5]))
    pq.write_table(table, path)
    assert len(read_first(folder)) == 3
    pq.write_table(table.append_column(name, pa.array([START + HOUR] * 3)), path)
    with pytest.raises(RecastError, match=rf"column {name} is of no task .*\(click, long_view, buy\)") as caught:
        read_first(folder)
    assert caught.value.termination.reason == "CorruptSegment"


@pytest.mark.parametrize(("limit", "words"), [("MAX_SEGMENT_ROWS", "more than"), ("MAX_SEGMENT_BYTES", "larger than")])
def test_a_segment_is_read_up_to_its_limits_and_not_beyond(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    size = 3 if limit == "MAX_SEGMENT_ROWS" else (folder / "segments" / f"{SEGMENT}.parquet").stat().st_size
    monkeypatch.setattr(segments, limit, size)
    assert len(read_first(folder)) == 3
    monkeypatch.setattr(segments, limit, size - 1)
    with pytest.raises(RecastError, match=words) as caught:
        read_first(folder)
    assert caught.value.termination.reason == "CorruptSegment"


@pytest.mark.parametrize("damage", [b"PAR1 this is no Parquet file PAR1", b"a,b,c", b"PA", b"P,1", b"PAR1PAR1"])
def test_a_file_that_is_no_parquet_is_a_corrupt_segment(folder: Path, damage: bytes) -> None:
    path = folder / "segments" / f"{SEGMENT}.parquet"
    path.write_bytes(damage)
    if damage == b"PA":
        written_long_ago(path)
    with pytest.raises(RecastError, match="cannot be read as Parquet") as caught:
        read_first(folder)
    assert (caught.value.termination.reason, caught.value.termination.retryable) == ("CorruptSegment", False)


def written_long_ago(path: Path, seconds: float = segments.STILL_WRITTEN_SECONDS + 1) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("kept", [0, 2, 4, 5, -20])
def test_a_segment_without_an_end_may_still_be_written_and_is_corrupt_once_nobody_has_for_long(
    folder: Path, kept: int
) -> None:
    path = folder / "segments" / f"{SEGMENT}.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    for seconds in (0, segments.STILL_WRITTEN_SECONDS - 30, -30):  # or the storage's clock is ahead
        written_long_ago(path, seconds)
        with pytest.raises(RecastError, match=r"2026-01-01T00\.parquet has no end") as caught:
            read_first(folder)
        assert (caught.value.termination.reason, caught.value.termination.retryable) == ("SegmentIncomplete", True)
    written_long_ago(path)
    with pytest.raises(RecastError, match="cannot be read as Parquet") as caught:
        read_first(folder)
    assert (caught.value.termination.reason, caught.value.termination.retryable) == ("CorruptSegment", False)


@pytest.mark.parametrize("name", [".2026-01-01T07.parquet", "_2026-01-01T07.parquet", ".2026-01-01T07.parquet.tmp"])
def test_what_its_writer_hides_is_not_read(folder: Path, name: str) -> None:
    (folder / "segments" / name).write_bytes(b"PAR1")
    assert len(list_segments(folder, load_dataset(folder))) == 5


def test_a_writer_shows_no_segment_before_it_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(table: pa.Table, where: Path, **options: object) -> None:
        Path(where).write_bytes(b"PAR1")
        raise KeyboardInterrupt

    writer = DatasetWriter(folder, DATASET)
    writer.finish()
    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.segment(START, hand_rows())
    with pytest.raises(RecastError, match="no segments"):
        list_segments(folder, load_dataset(folder))


def test_no_surface_is_called_what_all_of_them_together_are(folder: Path) -> None:
    path = folder / "dataset.json"
    text = json.loads(path.read_text())
    text["surfaces"][0]["name"] = "all"
    path.write_text(json.dumps(text))
    with pytest.raises(RecastError, match='a surface cannot be called "all"'):
        load_dataset(folder)


def test_a_position_may_be_left_out_and_is_then_unknown(folder: Path) -> None:
    change(folder, "position", None)
    assert read_first(folder).positions.tolist() == [-1, -1, -1]


def test_describe_warns_of_labels_that_were_known_at_once_and_of_them_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", str(folder)]) == 0
    assert "WARNING" not in capsys.readouterr().out
    change(folder, "available_at", pa.array([START + 5, START + 9, START + 9]))
    assert main(["describe", str(folder)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"WARNING: (\d+) labels of (\w+) were known at once", said) == [
        ("2", "click"), ("1", "long_view"), ("1", "buy"),
    ]  # fmt: skip


def test_describe_says_how_long_each_tasks_labels_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_own_times(folder, buy=[None, 4_000_000, None])
    assert main(["describe", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "click is known after 0 s (median), 99 % within 0 s" in said
    assert "buy is known after 0 s (median), 99 % within 4,000 s" in said


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_delays_are_added_up_as_if_they_had_come_at_once(share: float) -> None:
    parts = [np.array([0, 0, 1_400, 90_000]), np.array([], np.int64), np.array([1_600, 1_000, 500_000])]
    found = Delays()
    assert found.quantile(share) == 0
    for part in parts:
        found.add(part)
    every = np.sort((np.concatenate(parts) + 500) // 1000)
    assert found.quantile(share) == every[max(0, math.ceil(share * len(every)) - 1)]
    assert found.at_once == 2


def test_describe_gives_the_truths_entropy_where_it_is_certain(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hour in range(5):
        path = folder / "segments" / f"2026-01-01T{hour:02}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.append_column("p_click", pa.array([1.0, 0.0, 0.0], pa.float32())), path)
        table = pq.read_table(path).set_column(
            table.column_names.index("label_click"), "label_click", pa.array([1, 0, 0], pa.int8())
        )
        pq.write_table(table, path)
    assert main(["describe", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "click: base rate 0.0000 of 10" in said


def in_parts(folder: Path, *lengths: int, name: str = SEGMENT) -> Path:
    """Divide the first segment into a folder of files with so many rows, the last rows in the first file."""
    path = folder / "segments" / f"{SEGMENT}.parquet"
    table = pq.read_table(path)
    path.unlink()
    parts = folder / "segments" / name
    parts.mkdir()
    end = len(table)
    for number, length in enumerate(lengths):
        pq.write_table(table.slice(end - length, length), parts / f"part-{number}.parquet")
        end -= length
    return parts


@pytest.mark.parametrize("lengths", [(3,), (1, 2), (0, 1, 1, 0, 1)])
@pytest.mark.parametrize("name", [SEGMENT, f"{SEGMENT}.parquet"])
def test_a_segment_in_several_files_is_read_as_if_it_were_in_one(
    folder: Path, lengths: tuple[int, ...], name: str
) -> None:
    whole = read_first(folder)
    parts = in_parts(folder, *lengths, name=name)
    for hidden in (".part-9.parquet", "_part-9.parquet", "_SUCCESS", "part-9.crc"):
        (parts / hidden).write_bytes(b"PAR1")
    dataset = load_dataset(folder)
    first, second, *_ = list_segments(folder, dataset)
    assert (first.name, len(first.files), second.name) == (SEGMENT, len(lengths), "2026-01-01T01")
    for column, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(read_first(folder), column), values, err_msg=column)
    assert require_readable([first], dataset) == 3


def test_what_is_wrong_with_a_segment_of_several_files_is_said_of_the_file(folder: Path) -> None:
    parts = in_parts(folder, 1, 2)
    table = pq.read_table(parts / "part-1.parquet")
    pq.write_table(table.drop_columns(["label_click"]), parts / "part-1.parquet")
    with pytest.raises(RecastError, match=r"01T00/part-1\.parquet: column label_click is missing"):
        read_first(folder)
    pq.write_table(table.set_column(0, "row_id", pa.array([1, 3])), parts / "part-1.parquet")
    with pytest.raises(RecastError, match=r"segments/2026-01-01T00: row_id 3 stands in more than one row"):
        read_first(folder)
    (parts / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecastError, match=r"01T00/part-1\.parquet has no end") as caught:
        read_first(folder)
    assert caught.value.termination.retryable


@pytest.mark.parametrize("limit", ["MAX_SEGMENT_ROWS", "MAX_SEGMENT_BYTES"])
def test_limits_are_for_all_files_of_a_segment_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    parts = in_parts(folder, 1, 2)
    size = 3 if limit == "MAX_SEGMENT_ROWS" else sum(path.stat().st_size for path in parts.iterdir())
    monkeypatch.setattr(segments, limit, size)
    dataset = load_dataset(folder)
    assert len(read_first(folder)) == require_readable(list_segments(folder, dataset)[:1], dataset) == 3
    monkeypatch.setattr(segments, limit, size - 1)
    with pytest.raises(RecastError, match=r"part-1\.parquet: with it the segment"):
        read_first(folder)
    with pytest.raises(RecastError, match=r"part-1\.parquet: with it the segment"):
        require_readable(list_segments(folder, dataset)[:1], dataset)


def test_a_folder_that_is_hidden_or_empty_or_stands_beside_a_file_of_its_name_is_no_segment(folder: Path) -> None:
    dataset, parts = load_dataset(folder), folder / "segments" / "2026-01-01T07"
    (folder / "segments" / ".2026-01-01T06").mkdir()
    (folder / "segments" / "README.md").touch()
    assert len(list_segments(folder, dataset)) == 5
    parts.mkdir()
    with pytest.raises(RecastError, match=r"2026-01-01T07: the folder holds no file whose name ends in \.parquet"):
        list_segments(folder, dataset)
    parts.rmdir()
    twice = folder / "segments" / SEGMENT
    twice.mkdir()
    (twice / "part-0.parquet").write_bytes((folder / "segments" / f"{SEGMENT}.parquet").read_bytes())
    with pytest.raises(RecastError, match=r"2026-01-01T00 stands twice: .* remove one of them") as caught:
        list_segments(folder, dataset)
    assert caught.value.termination.reason == "CorruptSegment"


@pytest.mark.parametrize(
    ("place", "what"),
    [("2026-01-01T07.parquet", "broken link"), (f"{SEGMENT}/part-9.parquet", "broken link"),
     (f"{SEGMENT}/part-9.parquet", "folder")],
)  # fmt: skip
def test_what_is_no_file_in_a_files_place_is_named(folder: Path, place: str, what: str) -> None:
    in_parts(folder, 1, 2)
    strange = folder / "segments" / place
    strange.mkdir() if what == "folder" else strange.symlink_to(folder / "elsewhere")
    with pytest.raises(RecastError, match=f"{strange}: it is no file, nor a link to one") as caught:
        list_segments(folder, load_dataset(folder))
    assert caught.value.termination.reason == "CorruptSegment"


def test_a_segment_may_be_a_link(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before, path = read_first(folder), folder / "segments" / f"{SEGMENT}.parquet"
    path.symlink_to(path.rename(tmp_path_factory.mktemp("elsewhere") / "data.parquet"))
    np.testing.assert_array_equal(read_first(folder).row_ids, before.row_ids)


def test_a_writer_replaces_segments_in_folders_too(folder: Path) -> None:
    in_parts(folder, 1, 2)
    writer = DatasetWriter(folder, DATASET)
    writer.segment(START + HOUR, hand_rows())
    writer.finish()
    assert [segment.name for segment in list_segments(folder, DATASET)] == ["2026-01-01T01"]


def test_a_segment_whose_name_is_no_hour_is_named(folder: Path) -> None:
    (folder / "segments" / "latest.parquet").write_bytes(b"")
    with pytest.raises(RecastError, match=r"latest\.parquet"):
        list_segments(folder, load_dataset(folder))


def test_a_data_set_with_an_unknown_field_is_refused(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(RecastError, match=r"dataset\.json: colour"):
        load_dataset(folder)


def test_items_with_content_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"contentDim": 3}))
    with pytest.raises(RecastError, match="3 finite numbers an item"):
        load_items(folder, load_dataset(folder))


def test_items_may_have_no_content(folder: Path) -> None:
    without = DATASET.model_copy(update={"content_dim": 0})
    assert load_items(folder, without).content.shape == (len(ITEMS), 0)  # what is there is not read
    DatasetWriter(folder, without).items(ItemTable(ITEMS.ids, np.empty((len(ITEMS), 0), np.float32)))
    assert pq.read_schema(folder / "items.parquet").names == ["item_id"]
    found = load_items(folder, without)
    assert (found.ids.tolist(), found.content.shape) == (ITEMS.ids.tolist(), (len(ITEMS), 0))
    with pytest.raises(RecastError, match=r"column content is missing; write it, or leave contentDim out") as caught:
        load_items(folder, DATASET)
    assert caught.value.termination.reason == "CorruptItems"
    about = {name: value for name, value in without.wire().items() if name != "contentDim"}
    assert Dataset.model_validate(about) == without


def of_format_1(folder: Path) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    return folder


def test_a_data_set_of_format_1_is_refused_with_the_command_that_converts_it(folder: Path) -> None:
    with pytest.raises(RecastError, match=f"is of format 1.*`recast data convert {folder} --out FOLDER`") as caught:
        load_dataset(of_format_1(folder))
    assert caught.value.termination.reason == "CorruptDataset"


def test_a_converted_data_set_has_the_same_rows_and_the_old_one_is_as_it_was(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset(folder)
    expected = [read_segment(segment, dataset) for segment in list_segments(folder, dataset)]
    before = {path: path.read_bytes() for path in of_format_1(folder).rglob("*") if path.is_file()}
    out = tmp_path_factory.mktemp("new") / "stream"
    assert main(["convert", str(folder), "--out", str(out)]) == 0
    assert "15 rows, format 2" in capsys.readouterr().out
    assert load_dataset(out) == dataset
    found = [read_segment(segment, dataset) for segment in list_segments(out, dataset)]
    for ours, theirs in zip(found, expected, strict=True):
        for name, values in vars(theirs).items():
            np.testing.assert_array_equal(getattr(ours, name), values, err_msg=name)
    np.testing.assert_array_equal(load_items(out, dataset).content, ITEMS.content)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert not {os.stat(path).st_ino for path in out.rglob("*.parquet")} & {os.stat(path).st_ino for path in before}


def test_nothing_is_converted_onto_what_is_there_or_twice_or_where_a_file_is_bad(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("new") / "stream"
    with pytest.raises(RecastError, match="is of format 2 already"):
        convert(folder, out)
    of_format_1(folder)
    for there in (folder, folder / "items.parquet"):
        with pytest.raises(RecastError, match="is there already") as caught:
            convert(folder, there)
        assert caught.value.termination.reason == "BadSpec"
    for inside in (folder / "stream", folder / "segments" / ".." / "segments" / "new"):
        with pytest.raises(RecastError, match="lies in the data set that is converted"):
            convert(folder, inside)
        assert not inside.exists()
    change(folder, "label_click", None)
    with pytest.raises(RecastError, match="column label_click is missing"):
        convert(folder, out)
    assert not out.exists()
    (folder / "dataset.json").write_text("[1")
    with pytest.raises(RecastError, match=r"dataset\.json"):
        convert(folder, out)


def test_a_conversion_that_is_cut_off_leaves_no_data_set(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, copy: Path) -> None:
        if "T03" in copy.name:
            raise OSError("No space left on device")
        copy.write_bytes(source.read_bytes())

    out = tmp_path_factory.mktemp("new") / "stream"
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        convert(of_format_1(folder), out)
    with pytest.raises(RecastError, match="no data set at"):
        load_dataset(out)


@pytest.mark.parametrize("content", [None, [], [0.5]])
def test_an_item_without_content_is_told_to_have_zeros(folder: Path, content: list[float] | None) -> None:
    column = pa.array([content, *ITEMS.content[1:].tolist()], pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": ITEMS.ids, "content": column}), folder / "items.parquet")
    with pytest.raises(RecastError, match="2 finite numbers an item, zeros where an item has none") as caught:
        load_items(folder, DATASET)
    assert caught.value.termination.reason == "CorruptItems"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_items_whose_content_is_not_finite_are_refused(folder: Path, bad: float) -> None:
    content = np.ones((len(ITEMS), 2), np.float32)
    content[3, 1] = bad
    DatasetWriter(folder, DATASET).items(ITEMS.__class__(ITEMS.ids, content))
    with pytest.raises(RecastError, match="2 finite numbers an item") as caught:
        load_items(folder, DATASET)
    assert caught.value.termination.reason == "CorruptItems"


def test_a_row_is_known_from_its_first_label_to_its_last_whatever_stands_where_it_has_none() -> None:
    made = hand_rows()
    made.available_at[:] = [[5, 3, 9], [5, 3, 9], [7, 7, 7]]
    made.label_mask[:] = [[True, False, True], [False, True, False], [False, False, False]]
    assert (made.first_known.tolist(), made.last_known.tolist()) == ([5, 3, 7], [9, 3, 7])


def test_the_command_line_writes_describes_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sample = tmp_path / "stream", tmp_path / "requests.jsonl"
    size = ["--users", "20", "--items", "60", "--hours", "3", "--requests-per-hour", "10"]
    assert main(["synthetic", "--out", str(out), *size]) == 0
    assert main(["describe", str(out)]) == 0
    assert main(["export-requests", str(out), "--out", str(sample), "--count", "7"]) == 0
    said = capsys.readouterr().out
    assert "240 rows in 3 segments" in said
    assert "purchase: base rate" in said
    lines = [json.loads(line) for line in sample.read_text().splitlines()]
    assert len(lines) == 7
    assert set(lines[0]) == {"surface", "user", "candidates", "time"}
    assert len(lines[0]["candidates"]) == 8


def test_the_command_line_chooses_the_nature_of_a_generated_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--users", "20", "--items", "60", "--hours", "3", "--requests-per-hour", "10"]
    nature = ["--content-dim", "5", "--latent-dim", "3", "--rho", "0.5", "--cycle-hours", "6"]
    assert main(["synthetic", "--out", str(tmp_path / "chosen"), *size, *nature]) == 0
    assert load_dataset(tmp_path / "chosen").content_dim == 5
    assert main(["synthetic", "--out", str(tmp_path / "wrong"), *size, "--born-later", "2"]) == 1
    assert "born_later must be between 0 and 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["synthetic", "--help"])
    assert "share of taste and interests common to surfaces; default: 0.85" in " ".join(capsys.readouterr().out.split())


def test_the_command_line_explains_what_it_could_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(tmp_path / "nowhere")]) == 1
    assert "no data set at" in capsys.readouterr().err


def test_movielens_becomes_surfaces_by_genre_and_requests_by_second() -> None:
    films = b"\n".join(
        [
            b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            b"1\tA\t1995\tAction Drama",
            b"2\tB\t1990\tComedy",
            b"3\tC\tunknown\tDrama",
        ]
    )
    ratings = b"\n".join(
        [
            b"user_id:token\titem_id:token\trating:float\ttimestamp:float",
            b"7\t1\t5\t881250949",
            b"7\t3\t4\t881250949",
            b"7\t2\t3\t881250949",
            b"7\t3\t2\t881250949",
            b"8\t1\t4\t891250949",
        ]
    )
    data = MovieLens(ratings, films)
    parts = list(data.segments())
    assert len(parts) == 2
    first = parts[0][1]
    assert data.dataset.surface_names == ("action", "comedy", "drama")
    assert first.surfaces.tolist() == [0, 1, 2, 2]
    assert len(set(first.request_ids.tolist())) == 3
    assert first.labels.tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert (first.available_at > first.event_times[:, None]).all()
    assert first.available_at.shape == first.labels.shape
    assert data.items.content.shape == (3, 4)
    assert data.dataset.history == "Events"
