"""One list of data for all processes and attempts of a run, and what is said when it cannot be kept to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from trainer_builders import DATASET, HOUR, ITEMS, START, hand_rows

from recast_api.run import DataRef, RecastError
from recast_trainer.clock import to_rfc3339
from recast_trainer.data.pinning import PINNED, PinnedData
from recast_trainer.data.schema import segment_name
from recast_trainer.data.segments import load_dataset
from recast_trainer.data.writing import DatasetWriter
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import choose_segments, open_stream, pin_data

HOURS, PER_HOUR = 6, 4
ALONE = ProcessGroup()
ALL = DataRef(path="set")


def add_segment(folder: Path, hour: int) -> Path:
    rows = hand_rows(HOURS + 4, PER_HOUR)
    start = START + hour * HOUR
    writer = DatasetWriter.__new__(DatasetWriter)  # as a stream's writer goes on, without replacing the set
    writer._folder, writer._dataset = folder, DATASET
    return writer.segment(start, rows.take((rows.event_times >= start) & (rows.event_times < start + HOUR)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "set"
    writer = DatasetWriter(target, DATASET)
    writer.items(ITEMS)
    for hour in range(HOURS):
        add_segment(target, hour)
    writer.finish()
    return target


def names(folder: Path, pinned: PinnedData, data: DataRef = ALL) -> list[int]:
    """Hours of the segments that a run with this pin reads."""
    return [(segment.start - START) // HOUR for segment in open_stream(folder, data, pinned).segments]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_segment_that_arrives_between_two_attempts_is_for_the_next_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pin_data(folder, ALL, tmp_path / "work", ALONE)
    assert said(capsys) == ""
    (tmp_path / "work" / "kept").touch()
    add_segment(folder, HOURS)
    add_segment(folder, HOURS + 1)
    assert pin_data(folder, ALL, tmp_path / "work", ALONE) == first
    assert "2 segments have arrived since this run began" in said(capsys)
    assert names(folder, first) == list(range(HOURS))
    assert (tmp_path / "work" / "kept").exists()
    assert names(folder, pin_data(folder, ALL, tmp_path / "next", ALONE)) == list(range(HOURS + 2))


def test_a_window_does_not_move_on_while_a_run_is_tried_again(folder: Path, tmp_path: Path) -> None:
    window = DataRef(path="set", window="3h")
    pinned = pin_data(folder, window, tmp_path / "work", ALONE)
    add_segment(folder, HOURS)
    assert names(folder, pin_data(folder, window, tmp_path / "work", ALONE), window) == [3, 4, 5]
    assert names(folder, pinned, window) == [3, 4, 5]


def test_what_comes_to_lie_outside_the_data_of_a_run_cannot_end_it(folder: Path, tmp_path: Path) -> None:
    window = DataRef(path="set", until=to_rfc3339(START + 3 * HOUR))
    pinned = pin_data(folder, window, tmp_path / "work", ALONE)
    (folder / "segments" / segment_name(START + 5 * HOUR)).mkdir()
    (folder / "segments" / "misnamed.parquet").touch()
    assert names(folder, pinned, window) == [0, 1, 2]


def rewritten(folder: Path) -> None:
    path = folder / "segments" / f"{segment_name(START + HOUR)}.parquet"
    table = pq.read_table(path)
    items = np.array(table.column("item_id"))
    table = table.set_column(table.column_names.index("item_id"), "item_id", [np.roll(items, 1)])
    pq.write_table(table, path, compression="zstd")


def removed(folder: Path) -> None:
    (folder / "segments" / f"{segment_name(START + HOUR)}.parquet").unlink()


def other_items(folder: Path) -> None:
    table = pq.read_table(folder / "items.parquet")
    pq.write_table(table.slice(0, len(table) - 1), folder / "items.parquet")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewritten, "segments/2026-01-01T01.parquet was rewritten"),
        (removed, "segments/2026-01-01T01.parquet is gone"),
        (other_items, "items.parquet was rewritten"),
    ],
)
def test_data_that_are_not_as_they_were_start_the_run_over_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], words: str
) -> None:
    first = pin_data(folder, ALL, tmp_path / "work", ALONE)
    (tmp_path / "work" / "checkpoints").mkdir()
    change(folder)
    add_segment(folder, HOURS)
    again = pin_data(folder, ALL, tmp_path / "work", ALONE)
    assert f"{words} since this run began: it starts over from the data as they are now" in said(capsys)
    assert again != first
    assert HOURS in names(folder, again)
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_a_file_that_goes_while_the_data_are_listed_is_not_left_out(folder: Path) -> None:
    segments = choose_segments(folder, load_dataset(folder), ALL)
    removed(folder)
    with pytest.raises(FileNotFoundError, match=r"01T01\.parquet"):
        PinnedData.of(folder, ALL, segments)


def in_two_files(folder: Path, hour: int) -> Path:
    """Divide a segment into a folder of two files."""
    path = folder / "segments" / f"{segment_name(START + hour * HOUR)}.parquet"
    table, parts = pq.read_table(path), path.with_suffix("")
    parts.mkdir()
    for number, part in enumerate((table.slice(0, 3), table.slice(3))):
        pq.write_table(part, parts / f"part-{number}.parquet")
    path.unlink()
    return parts


@pytest.mark.parametrize("what", ["rewritten", "gone"])
def test_each_file_of_a_segment_is_pinned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    parts = in_two_files(folder, 1)
    in_two_files(folder, 2)
    whole = pq.read_table(parts / "part-1.parquet")
    pinned = pin_data(folder, ALL, tmp_path / "work", ALONE)
    stream = open_stream(folder, ALL, pinned)
    assert len(stream.read(stream.segments[1])) == 2 * PER_HOUR
    pq.write_table(whole.slice(0, 1), parts / "part-2.parquet")
    assert pin_data(folder, ALL, tmp_path / "work", ALONE) == pinned  # a file that came later is not of this run
    assert len(open_stream(folder, ALL, pinned).segments[1].files) == 2
    if what == "gone":
        (parts / "part-1.parquet").unlink()
    else:
        pq.write_table(whole.slice(1), parts / "part-1.parquet")
    for read in (lambda: stream.read(stream.segments[1]), lambda: open_stream(folder, ALL, pinned)):
        with pytest.raises(RecastError, match=r"01T01/part-1\.parquet (was rewritten|is gone)") as caught:
            read()
        assert caught.value.termination.reason == "DataRewritten"
    assert len(stream.read(stream.segments[2])) == 2 * PER_HOUR
    (parts / "part-2.parquet").unlink()
    assert pin_data(folder, ALL, tmp_path / "work", ALONE) != pinned
    assert "part-1.parquet" in said(capsys)


def test_another_wish_for_data_is_another_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pin_data(folder, ALL, tmp_path / "work", ALONE)
    window = DataRef(path="set", window="2h")
    assert names(folder, pin_data(folder, window, tmp_path / "work", ALONE), window) == [4, 5]
    assert "spec.data was changed since this run began" in said(capsys)


def test_files_that_were_copied_to_another_volume_are_the_same(folder: Path, tmp_path: Path) -> None:
    pinned = pin_data(folder, ALL, tmp_path / "work", ALONE)
    for path in folder.rglob("*.parquet"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        os.utime(path, (1, 1))
    assert pinned.changed(folder, ALL) == ""


@pytest.mark.parametrize("damage", [b"", b"{", b'{"files": []}'])
def test_a_list_that_is_damaged_is_made_anew_and_that_is_said(
    folder: Path, tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pin_data(folder, ALL, tmp_path / "work", ALONE)
    (tmp_path / "work" / "checkpoints").mkdir()
    (tmp_path / "work" / PINNED).write_bytes(damage)
    assert pin_data(folder, ALL, tmp_path / "work", ALONE) == first
    assert "data.json is damaged since this run began: it starts over" in said(capsys)
    assert not (tmp_path / "work" / "checkpoints").exists()
    assert json.loads((tmp_path / "work" / PINNED).read_bytes())["data"] == {"path": "set"}


def test_a_list_that_cannot_be_read_just_now_is_not_taken_for_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / PINNED).mkdir(parents=True)
    with pytest.raises(OSError, match=r"data\.json"):
        pin_data(folder, ALL, tmp_path / "work", ALONE)


def test_a_process_that_does_not_lead_reads_what_the_leader_says_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaders = pin_data(folder, ALL, tmp_path / "work", ALONE)
    add_segment(folder, HOURS)  # which this process sees and the leader did not
    given: list[bytes] = []
    monkeypatch.setattr(ProcessGroup, "broadcast", lambda _, data: given.append(data) or leaders.encoded())
    assert pin_data(folder, ALL, tmp_path / "elsewhere", ProcessGroup(rank=1, size=2)) == leaders
    assert given == [b""]
    assert not (tmp_path / "elsewhere").exists()


def test_every_process_says_what_is_wrong_with_the_data(folder: Path, tmp_path: Path) -> None:
    for group in (ALONE, ProcessGroup(rank=1, size=2)):
        with pytest.raises(RecastError, match="no segment of") as caught:
            pin_data(folder, DataRef(path="set", until="2020-01-01T00:00:00Z"), tmp_path / "work", group)
        assert caught.value.termination.reason == "DataNotFound"


@pytest.mark.parametrize("what", ["rewritten", "gone", "damaged"])
def test_a_file_that_changes_while_a_run_still_reads_it_ends_the_attempt_and_not_the_run(
    folder: Path, tmp_path: Path, what: str
) -> None:
    """Passes that read different data would land a version of neither."""
    stream = open_stream(folder, ALL, pin_data(folder, ALL, tmp_path / "work", ALONE))
    victim = stream.segments[2]
    assert len(stream.read(victim)) == 2 * PER_HOUR
    if what == "rewritten":
        pq.write_table(pq.read_table(victim.files[0]).slice(0, 2), victim.files[0])
    elif what == "gone":
        victim.files[0].unlink()
    else:
        victim.files[0].write_bytes(victim.files[0].read_bytes()[:100])
    with pytest.raises(
        RecastError, match=rf"{victim.files[0].name} (was rewritten|is gone) since this run began"
    ) as caught:
        list(stream.walk(4))
    assert (caught.value.termination.reason, caught.value.termination.retryable) == ("DataRewritten", True)
    assert len(stream.read(stream.segments[1])) == 2 * PER_HOUR


def test_without_a_pin_what_is_there_is_read(folder: Path) -> None:
    stream = open_stream(folder, ALL)
    pq.write_table(pq.read_table(stream.segments[2].files[0]).slice(0, 2), stream.segments[2].files[0])
    assert len(stream.read(stream.segments[2])) == 2
