"""The log's files: whole or not there after a crash at any point, and never more than they may be."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_builders import DIGEST, Disk, a_store, a_writer, an_answer, full, tables

from recast_api.answer_log import ANSWERS, IMPRESSIONS, SegmentManifest, SegmentName
from recast_model import answer_journal
from recast_server.answer_log.store import Limits, Store
from recast_server.expert.impressions_api import Impressions, ShownItem

WRITER = a_writer()
TABLES = tables(WRITER)


def segments(root: Path) -> list[SegmentManifest]:
    """Of all writers, each as its manifest says it is."""
    found = [SegmentManifest.model_validate_json(path.read_bytes()) for path in sorted(root.glob("*/*.json"))]
    for manifest in found:
        data = (root / manifest.writer.id / manifest.file).read_bytes()
        assert (len(data), sha256(data).hexdigest()) == (manifest.bytes, manifest.sha256)
    return found


def requests(root: Path) -> list[str]:
    """Of every answer that a reader finds, in segments and journals."""
    tables = [pq.read_table(path) for path in sorted(root.glob("*/*.parquet"))]
    whole = {(path.parent, SegmentName.of(path.name)) for path in root.glob("*/*.json")}
    for path in sorted(root.glob("*/.*.arrows")):
        if (path.parent, SegmentName.of(path.name)) not in whole:
            batches = answer_journal.read(path.read_bytes()).batches
            tables += [pa.Table.from_batches(batches)] if batches else []
    return sorted({name for table in tables for name in table.column("request_id").to_pylist()})


def names(*numbers: int) -> list[str]:
    return sorted(f"request-{number}" for number in numbers)


def test_what_was_appended_is_on_the_disk_before_it_is_a_segment(tmp_path: Path) -> None:
    disk = Disk()
    store = a_store(tmp_path, disk=disk)
    store.append(TABLES[ANSWERS], [an_answer(1), an_answer(2)], 0.0)
    store.append(TABLES[ANSWERS], [an_answer(3)], 0.0)
    assert requests(tmp_path) == names(1, 2, 3)
    assert segments(tmp_path) == []
    assert [operation for operation, _ in disk.done][-1] == "sync"
    assert not [path for path in tmp_path.rglob("[!.]*") if path.is_file()]  # nothing that a reader of folders sees


def test_a_segment_has_every_row_bit_for_bit_and_its_manifest_says_what_is_in_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    answers = [an_answer(1), an_answer(2, rows=1, tae=None, foundation_digest=None), an_answer(3)]
    store.append(TABLES[ANSWERS], answers[:2], 0.0)
    store.append(TABLES[ANSWERS], answers[2:], 0.0)
    store.tidy(0.0, everything=True)
    (manifest,) = segments(tmp_path)
    assert (manifest.table, manifest.number, manifest.rows, manifest.records) == ("answers", 1, 7, 3)
    assert (manifest.min_time, manifest.max_time, manifest.foundations) == (1001, 1003, [DIGEST])
    assert (manifest.writer, manifest.lost_bytes) == (WRITER, 0)
    found = pq.read_table(tmp_path / WRITER.id / manifest.file)
    assert found == pa.Table.from_batches([TABLES[ANSWERS].batch(answers)])
    row = found.to_pylist()[6]
    assert (row["request_id"], row["user_id"], row["item_id"], row["position"]) == ("request-3", 3, 32, 2)
    assert answers[2].tae is not None
    assert row["tae"] == answers[2].tae[2].tolist()
    assert {path.name for path in (tmp_path / WRITER.id).iterdir()} == {manifest.file, "answers-000001.json"}
    assert store.used_bytes == sum(path.stat().st_size for path in (tmp_path / WRITER.id).iterdir())


def test_impressions_are_a_table_of_their_own(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    shown = (ShownItem(item=9, position=0, time=5), ShownItem(item=8, position=1))
    store.append(TABLES[IMPRESSIONS], [Impressions("request-1", shown, 77)], 0.0)
    store.tidy(0.0, everything=True)
    (manifest,) = segments(tmp_path)
    assert (manifest.file, manifest.rows, manifest.records) == ("impressions-000001.parquet", 2, 1)
    assert pq.read_table(tmp_path / WRITER.id / manifest.file).to_pylist() == [
        {"request_id": "request-1", "item_id": 9, "position": 0, "time": 5, "received_at": 77},
        {"request_id": "request-1", "item_id": 8, "position": 1, "time": 77, "received_at": 77},
    ]


@pytest.mark.parametrize(("now", "count", "made"), [(0.0, 1, 0), (3600.0, 1, 1), (0.0, 280, 1)])
def test_a_journal_becomes_a_segment_once_it_is_old_or_large(tmp_path: Path, now: float, count: int, made: int) -> None:
    store = a_store(tmp_path)
    store.append(TABLES[ANSWERS], [an_answer(n) for n in range(count)], 0.0)
    store.tidy(now)
    assert len(segments(tmp_path)) == made
    assert len(requests(tmp_path)) == count


class CrashError(BaseException):
    """The end of the process: nothing handles it."""


def crashes(steps: int) -> Disk:
    """A disk whose machine goes down before the operation of that number."""
    disk = Disk(torn=True)

    def fails(operation: str, name: str) -> OSError | None:
        if len(disk.done) > steps:
            raise CrashError
        return None

    disk.fails = fails
    return disk


def test_after_a_crash_at_any_point_all_that_was_synced_is_found_once_and_made_a_segment(tmp_path: Path) -> None:
    for steps in range(60):
        root, synced = tmp_path / str(steps), []
        disk = crashes(steps)
        limits = Limits(1 << 20, 1 << 17, 3600.0)
        store = Store(root, "pod-a", WRITER, limits, disk, lambda table, records: None)
        try:
            store.open()
            for number in range(1, 5):
                store.append(TABLES[ANSWERS], [an_answer(number)], 0.0)
                synced.append(number)
                store.tidy(0.0, everything=number % 2 == 0)
        except CrashError:
            pass
        for entry in store._open.values():  # what the kernel does when a process ends
            entry.file.close()
        before = requests(root)
        assert set(names(*synced)) <= set(before) <= set(names(*range(1, 5)))
        again = a_store(root, a_writer("pod-a.2"))
        again.tidy(0.0)
        assert requests(root) == before
        assert not [path for path in root.rglob("*") if path.name.endswith((".tmp", ".arrows"))], steps
        found = segments(root)
        assert sum(manifest.records for manifest in found) == len(before)  # each once
        assert again.used_bytes == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        if len(synced) == 4 and len(disk.done) <= steps:
            return
    raise AssertionError("it never came to its end")


def test_a_journal_that_a_crash_cut_off_is_taken_over_without_its_end_which_is_counted(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.append(TABLES[ANSWERS], [an_answer(1)], 0.0)
    store.append(TABLES[ANSWERS], [an_answer(2)], 0.0)
    store._open[ANSWERS].file.close()
    journal = tmp_path / WRITER.id / ".answers-000001.arrows"
    journal.write_bytes(journal.read_bytes()[:-10])
    a_store(tmp_path, a_writer("pod-a.2")).tidy(0.0)
    (manifest,) = segments(tmp_path)
    assert manifest.records == 1
    assert manifest.lost_bytes > 100
    assert requests(tmp_path) == names(1)
    assert manifest.writer == WRITER  # whoever takes it over


def test_nobody_takes_over_what_is_still_written_nor_what_is_another_pods(tmp_path: Path) -> None:
    living, other = a_store(tmp_path), a_store(tmp_path, a_writer("pod-b.1"))
    living.append(TABLES[ANSWERS], [an_answer(1)], 0.0)
    other.append(TABLES[ANSWERS], [an_answer(2)], 0.0)
    other._open[ANSWERS].file.close()
    a_store(tmp_path, a_writer("pod-a.2")).tidy(0.0)
    assert segments(tmp_path) == []
    living.append(TABLES[ANSWERS], [an_answer(3)], 0.0)
    living.tidy(0.0, everything=True)
    assert requests(tmp_path) == names(1, 2, 3)


def some_segments(root: Path, count: int, **options: Any) -> tuple[Store, list[tuple[str, int]]]:
    lost: list[tuple[str, int]] = []
    store = a_store(root, lost=lambda table, records: lost.append((table, records)), **options)
    for number in range(count):
        store.append(TABLES[ANSWERS], [an_answer(10 * number + n) for n in range(3)], 0.0)
        store.tidy(0.0, everything=True)
    return store, lost


def test_the_oldest_segments_make_room_and_are_counted(tmp_path: Path) -> None:
    _, lost = some_segments(tmp_path, 20, max_bytes=60_000)
    assert lost
    assert lost == [(ANSWERS, 3)] * len(lost)
    kept = [manifest.number for manifest in segments(tmp_path)]
    assert kept == list(range(len(lost) + 1, 21))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 60_000


def test_a_log_never_takes_more_than_it_may_also_while_a_segment_is_made(tmp_path: Path) -> None:
    most = 0
    disk = Disk()

    def measure(operation: str, name: str) -> OSError | None:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
        return None

    disk.fails = measure
    some_segments(tmp_path, 20, max_bytes=60_000, disk=disk)
    assert 30_000 < most <= 60_000


def test_too_much_at_once_is_refused_and_costs_no_older_segment(tmp_path: Path) -> None:
    store, lost = some_segments(tmp_path, 2, max_bytes=60_000)
    with pytest.raises(OSError, match="too many at once") as caught:
        store.append(TABLES[ANSWERS], [an_answer(n) for n in range(200)], 0.0)
    assert caught.value.errno == errno.ENOSPC
    assert lost == []


def only(disk: Disk, *errors: OSError | None) -> Iterator[None]:
    """The next writes to journals fail so."""
    script = iter(errors)

    def fails(operation: str, name: str) -> OSError | None:
        return next(script, None) if operation == "write" and name.endswith(".arrows") else None

    disk.fails = fails
    yield


@pytest.mark.parametrize("torn", [False, True])
def test_on_a_disk_that_others_filled_the_oldest_goes_and_the_newest_is_written(tmp_path: Path, torn: bool) -> None:
    disk = Disk(torn=torn)
    store, lost = some_segments(tmp_path, 3, disk=disk)
    list(only(disk, full()))
    store.append(TABLES[ANSWERS], [an_answer(100)], 0.0)
    assert lost == [(ANSWERS, 3)]
    assert requests(tmp_path) == names(10, 11, 12, 20, 21, 22, 100)


def test_on_a_disk_that_stays_full_only_so_much_is_given_up(tmp_path: Path) -> None:
    disk = Disk(torn=True)
    store, lost = some_segments(tmp_path, 20, disk=disk)
    disk.fails = lambda operation, name: full() if operation in ("write", "create") else None
    with pytest.raises(OSError, match="No space"):
        store.append(TABLES[ANSWERS], [an_answer(1000)], 0.0)
    assert 1 <= len(lost) < 10
    disk.fails = lambda operation, name: None
    store.append(TABLES[ANSWERS], [an_answer(1001)], 0.0)
    assert "request-1001" in requests(tmp_path)
    assert "request-1000" not in requests(tmp_path)


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("cuts", [False, True])
def test_what_a_disk_fails_to_take_is_not_in_the_log_and_what_came_before_and_after_is(
    tmp_path: Path, operation: str, torn: bool, cuts: bool
) -> None:
    disk = Disk(torn=torn)
    store = a_store(tmp_path, disk=disk)
    store.append(TABLES[ANSWERS], [an_answer(1)], 0.0)
    broken = {operation} if cuts else {operation, "truncate"}
    disk.fails = lambda asked, name: OSError(errno.EIO, "Input/output error") if asked in broken else None
    with pytest.raises(OSError, match="Input/output"):
        store.append(TABLES[ANSWERS], [an_answer(2)], 0.0)
    disk.fails = lambda asked, name: None
    store.append(TABLES[ANSWERS], [an_answer(3)], 0.0)
    store.tidy(0.0, everything=True)
    # A sync that failed may have written all the same; where the file could not be cut either, that is found.
    lost = operation == "sync" and not cuts
    assert set(requests(tmp_path)) - ({"request-2"} if lost else set()) == set(names(1, 3))


def test_a_segment_that_cannot_be_written_is_made_later_from_its_journal(tmp_path: Path) -> None:
    disk = Disk()
    store = a_store(tmp_path, disk=disk)
    store.append(TABLES[ANSWERS], [an_answer(1)], 0.0)
    for suffix in (".parquet", ".json"):
        disk.fails = lambda operation, name, suffix=suffix: full() if name.endswith(suffix) else None  # type: ignore[misc]
        store.tidy(0.0, everything=True)
        assert segments(tmp_path) == []
        assert requests(tmp_path) == names(1)
    disk.fails = lambda operation, name: None
    store.append(TABLES[ANSWERS], [an_answer(2)], 0.0)
    store.tidy(0.0, everything=True)
    assert [manifest.records for manifest in segments(tmp_path)] == [1, 1]


def test_a_manifest_that_is_none_stops_no_start(tmp_path: Path) -> None:
    some_segments(tmp_path, 2)
    (tmp_path / WRITER.id / "answers-000001.json").write_text(json.dumps({"format": 9}))
    again = a_store(tmp_path, a_writer("pod-a.2"))
    again.append(TABLES[ANSWERS], [an_answer(7)], 0.0)
    assert "request-7" in requests(tmp_path)
