"""What a server logs, and what becomes of it where nobody reads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import generate_latest
from real_edge import message, post, real_edge

from recast_server.runtime import logs
from recast_server.runtime.health import admin_app
from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.logs import JsonLines, LogWriter, configured
from recast_server.runtime.metrics import new_registry

PIPE_BYTES = 65_536


@dataclass
class Pipe:
    """A pipe that is read when a test says so."""

    reader: int
    writer: int
    text: bytes = b""
    thread: threading.Thread | None = None
    lines: list[dict[str, object]] = field(default_factory=list)

    def read(self) -> None:
        """Reads to the end, in a thread, from now on."""

        def work() -> None:
            while part := os.read(self.reader, 1 << 20):
                self.text += part

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def end(self) -> list[dict[str, object]]:
        """What was written in all."""
        if self.thread is None:
            self.read()
        assert self.thread is not None
        os.close(self.writer)
        self.thread.join(30)
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(*os.pipe())
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield made
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    os.close(made.reader)


async def test_requests_and_probes_are_answered_while_nobody_reads_the_log(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BUFFER_BYTES", 64 * 1024)
    count = 1500  # some 200 bytes each: more than pipe and buffer hold together
    with configured(pipe.writer) as log:
        async with real_edge() as edge:
            admin = HttpServer(admin_app(edge.health, edge.registry), bind("127.0.0.1", 0))
            await admin.start()
            reader, writer = await edge.connect()
            for _ in range(count):
                writer.write(post())
                assert (await message(reader)).startswith(b"HTTP/1.1 200")
            writer.close()
            for probe in ("startup", "ready"):
                reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
                writer.write(b"GET /healthz/%s HTTP/1.1\r\nhost: x\r\n\r\n" % probe.encode())
                assert (await message(reader)).startswith(b"HTTP/1.1 200")
                writer.close()
            await admin.stop()
        assert log.dropped > 0
        exported = generate_latest(new_registry(lambda: log.dropped)).decode()
        assert f"recast_log_lines_dropped_total {float(log.dropped)}" in exported
        pipe.read()
    lines = pipe.end()
    told = [line["dropped"] for line in lines if line["event"] == "log lines were dropped"]
    assert sum(int(str(number)) for number in told) == log.dropped
    assert len([line for line in lines if line["event"] == "request"]) == count - log.dropped


def test_what_a_reader_takes_in_time_is_written_whole_and_in_order(pipe: Pipe) -> None:
    pipe.read()
    with configured(pipe.writer) as log:
        for number in range(20_000):
            logging.getLogger("recast.test").info("line", extra={"fields": {"number": number}})
            if log.dropped:
                break
    assert log.dropped == 0
    assert [line["number"] for line in pipe.end()] == list(range(20_000))


def test_the_end_does_not_wait_for_ever_for_someone_who_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CLOSE_SECONDS", 0.05)
    with configured(pipe.writer) as log:
        log.line("x" * 2 * PIPE_BYTES)  # nobody reads: the thread waits with half of it
        log.line("never written")
    log.line("too late")
    assert log.dropped == 1


def test_the_last_words_are_written_before_the_end(pipe: Pipe) -> None:
    with configured(pipe.writer) as log:
        log.line('"' + "x" * 2 * PIPE_BYTES + '"')
        logging.getLogger("recast").error("the last words")
        pipe.read()
    assert isinstance(last := pipe.end()[-1], dict)
    assert last["event"] == "the last words"


def test_a_drop_is_told_as_soon_as_someone_reads_also_when_nothing_more_is_logged(pipe: Pipe) -> None:
    log = LogWriter(pipe.writer, buffer_bytes=4 * PIPE_BYTES)
    log.line("x" * 2 * PIPE_BYTES)
    for _ in range(3):
        log.line("y" * 3 * PIPE_BYTES)
    assert log.dropped == 3
    pipe.read()
    end = time.monotonic() + 30
    while b'"dropped": 3' not in pipe.text:
        assert time.monotonic() < end
        time.sleep(0.001)
    log.line("z" * 3 * PIPE_BYTES)  # there is room again
    log.close()
    assert log.dropped == 3
    os.close(pipe.writer)
    pipe.thread.join(30)  # type: ignore[union-attr]


def test_a_reader_that_is_gone_costs_its_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = LogWriter(writer)
    for number in range(3):
        log.line("nobody")
        end = time.monotonic() + 30
        while log.dropped <= number:
            assert time.monotonic() < end
            time.sleep(0.001)
    assert log.dropped == 3
    log.close()
    os.close(writer)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    log = LogWriter(pipe.writer)
    log.line("x" * 4 * PIPE_BYTES)
    log.line('{"last": true}')
    pipe.read()
    log.close()
    os.close(pipe.writer)
    assert pipe.thread is not None
    pipe.thread.join(30)
    assert pipe.text.splitlines() == [b"x" * 4 * PIPE_BYTES, b'{"last": true}']


def test_a_record_that_cannot_be_written_and_a_warning_of_a_library_are_lines_too(pipe: Pipe) -> None:
    with configured(pipe.writer):
        logging.getLogger("recast").info("%d", "no number")
        warnings.warn("old", UserWarning, stacklevel=1)
        logging.getLogger("library").info("not said")
    first, second = pipe.end()
    assert "a record of recast cannot be written" in str(first["event"])
    assert "old" in str(second["event"])


def test_a_server_that_must_not_start_ends_also_where_nobody_reads_why(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    with pytest.raises(BlockingIOError):
        assert all(os.write(pipe.writer, b"x" * 4096) for _ in range(1000))
    os.set_blocking(pipe.writer, True)
    environment = {key: value for key, value in os.environ.items() if key != "RECAST_SERVER"}
    done = subprocess.run([sys.executable, "-m", "recast_server"], env=environment, stderr=pipe.writer, timeout=60)
    assert done.returncode == 1


def test_a_log_record_is_one_line_of_json() -> None:
    record = logging.makeLogRecord(
        {
            "msg": "two\nlines of %s",
            "args": ("text",),
            "levelname": "INFO",
            "created": 1_767_225_600.25,
            "fields": {"code": 200},
        }
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250+00:00", "level": "info", "event": "two\nlines of text", "code": 200,
    }  # fmt: skip
