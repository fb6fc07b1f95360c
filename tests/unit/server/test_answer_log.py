"""The log between those who answer, who never wait, and a disk that is slow, full, broken or in time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from answer_builders import Disk, Running, a_log, an_answer, full
from test_answer_store import names, requests, segments

from recast_api.answer_log import ANSWERS, IMPRESSIONS
from recast_server.expert.impressions_api import Impressions, ShownItem


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition. Raises AssertionError where it does not come true in time."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.002)


def test_what_is_taken_is_on_the_disk_within_a_window_without_anybodys_doing(tmp_path: Path) -> None:
    running = a_log(tmp_path)
    assert running.log.take(ANSWERS, an_answer(1))
    assert running.log.take(IMPRESSIONS, Impressions("request-1", (ShownItem(item=10, position=0),), 5))
    until(lambda: running.logged() == running.logged(IMPRESSIONS) == 1)
    assert requests(tmp_path) == names(1)
    until(lambda: running.log.unsynced_seconds() == 0)
    assert running.dropped() == {}
    assert running.value("recast_answers_bytes") > 0
    assert running.log.close(30)


def test_a_disk_that_stands_still_costs_what_finds_no_room_and_nobodys_time(tmp_path: Path) -> None:
    size = an_answer(1).bytes
    running = a_log(tmp_path, buffer_bytes=10 * size)
    running.disk.gate.clear()
    assert running.log.take(ANSWERS, an_answer(0))
    until(lambda: bool(running.disk.done and running.disk.done[-1][0] == "write"))  # it waits to sync
    taken = [running.log.take(ANSWERS, an_answer(number)) for number in range(1, 16)]
    assert taken == [True] * 9 + [False] * 6  # what is being written is in memory too
    assert running.dropped() == {"buffer": 6}
    assert running.value("recast_answers_unsynced_seconds") > 0
    assert not running.log.close(0.01)
    running.disk.gate.set()
    until(lambda: running.logged() == 10)
    assert requests(tmp_path) == names(*range(10))


def test_the_age_of_what_is_not_on_the_disk_is_that_of_the_oldest(tmp_path: Path) -> None:
    running = a_log(tmp_path, window_seconds=3600)
    assert running.value("recast_answers_unsynced_seconds") == 0
    began = time.monotonic()
    running.log.take(ANSWERS, an_answer(1))
    until(lambda: time.monotonic() - began > 0.05)
    running.log.take(ANSWERS, an_answer(2))
    assert running.value("recast_answers_unsynced_seconds") >= 0.05
    assert running.log.close(30)
    assert running.value("recast_answers_unsynced_seconds") == 0


def test_a_buffer_that_is_half_full_does_not_wait_for_its_window(tmp_path: Path) -> None:
    running = a_log(tmp_path, window_seconds=3600, buffer_bytes=4 * an_answer(1).bytes)
    for number in range(3):
        running.log.take(ANSWERS, an_answer(number))
    until(lambda: running.logged() == 3)
    assert running.log.close(30)


@pytest.mark.parametrize(
    ("error", "cause"), [(full(), "full"), (OSError(errno.EIO, "Input/output error"), "failed")], ids=["full", "broken"]
)
def test_what_the_disk_does_not_take_is_counted_by_its_cause_and_what_follows_is_logged(
    tmp_path: Path, error: OSError, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = a_log(tmp_path, window_seconds=3600)
    running.disk.fails = lambda operation, name: error if operation == "write" else None
    running.log.take(ANSWERS, an_answer(1))
    running.log._wake.set()
    until(lambda: running.dropped() == {cause: 1})
    running.disk.fails = lambda operation, name: None
    running.log.take(ANSWERS, an_answer(2))
    assert running.log.close(30)
    assert requests(tmp_path) == names(2)
    assert running.logged() == 1
    (said,) = [record for record in caplog.records if record.message == "answers are not logged"]
    assert said.fields["error"] == str(error)  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    disk = Disk(fails=lambda operation, name: OSError(errno.EROFS, "Read-only file system"))
    running = a_log(tmp_path, disk)
    running.log.take(ANSWERS, an_answer(1))
    until(lambda: running.dropped() == {"failed": 1})
    disk.fails = lambda operation, name: None
    until(lambda: bool(segments_or_folder(running)))
    running.log.take(ANSWERS, an_answer(2))
    until(lambda: running.logged() == 1)
    assert running.log.close(30)
    assert requests(tmp_path) == names(2)


def segments_or_folder(running: Running) -> list[Path]:
    return list(running.root.iterdir())


def test_a_record_that_is_none_costs_its_batch_and_not_the_log(tmp_path: Path) -> None:
    running = a_log(tmp_path)
    running.log.take(ANSWERS, Impressions("request-1", (), 5))  # of the wrong table
    until(lambda: running.dropped() == {"failed": 1})
    running.log.take(ANSWERS, an_answer(2))
    until(lambda: running.logged() == 1)
    assert running.log.close(30)


def test_a_drain_loses_nothing_and_leaves_segments(tmp_path: Path) -> None:
    running = a_log(tmp_path, window_seconds=3600)
    for number in range(5):
        running.log.take(ANSWERS, an_answer(number))
    assert running.log.close(30)
    assert requests(tmp_path) == names(*range(5))
    assert [manifest.records for manifest in segments(tmp_path)] == [5]
    assert not running.log.take(ANSWERS, an_answer(9))
    assert running.dropped() == {"buffer": 1}


PROGRAM = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from answer_builders import a_log, an_answer
running = a_log(Path({root!r}))
number = 0
while True:
    running.log.take("answers", an_answer(number))
    number += 1
    print(int(running.logged()), flush=True)
    time.sleep(0.001)
"""


def test_a_process_that_is_killed_loses_no_answer_that_was_on_the_disk(tmp_path: Path) -> None:
    program = PROGRAM.format(path=[str(Path(__file__).parent)], root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    said = 0
    for line in process.stdout:
        said = int(line)
        if said >= 100:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    there = requests(tmp_path)
    assert len(there) >= said
    assert there == names(*range(len(there)))  # without a gap: all that were taken before
    assert segments(tmp_path) == []
    again = a_log(tmp_path, name="pod-a.2")
    until(lambda: bool(segments(tmp_path)))
    assert again.log.close(30)
    assert requests(tmp_path) == there
    assert not list(tmp_path.rglob(".*.arrows"))


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    running = a_log(tmp_path)
    running.log.take(ANSWERS, an_answer(1))
    assert running.log.close(30)
    (path,) = tmp_path.rglob("*.json")
    told = json.loads(path.read_text())
    assert (told["format"], told["rows"], told["minTime"], told["writer"]["tasks"]) == (1, 3, 1001, ["click", "like"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_real_device_without_room_says_what_the_log_understands(tmp_path: Path) -> None:
    from recast_server.answer_log.store import FULL

    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as device:
        device.write(b"x")
    assert caught.value.errno in FULL
