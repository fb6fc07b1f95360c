"""The real servers as processes on loopback, for tests that ask them over the wire."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from recast_api.server import ExpertServerConfig, FoundationServerConfig

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(repr=False)
class Process:
    """A server under test."""

    popen: subprocess.Popen[bytes]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        parsed = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return [line for line in parsed if line.get("event") == event]

    def wait_serving(self, timeout_seconds: float = 60.0) -> Process:
        def serving() -> bool:
            assert self.popen.poll() is None, self.text
            return bool(self.lines("serving"))

        until(serving, timeout_seconds)
        self.facts = self.lines("serving")[0]
        return self

    @property
    def port(self) -> int:
        return int(self.facts["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_port(self) -> int:
        return int(self.lines("serving gRPC")[0]["port"])

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.facts['adminPort']}"

    def metric(self, name: str, **labels: str) -> float:
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}" if labels else "")
        for line in httpx.get(f"{self.admin}/metrics").text.splitlines():
            if line.rsplit(" ", 1)[0] == wanted:
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {wanted}")

    def terminate(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(60)


def until(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
    """Waits for a condition. Raises AssertionError where it does not come true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


Start = Callable[..., Process]


def starter(folder: Path, running: list[Process]) -> Start:
    """A function that starts a server, which listens where its arguments say, and adds it to ``running``."""

    def start(
        config: FoundationServerConfig | ExpertServerConfig, *arguments: str, program: tuple[str, ...] = ()
    ) -> Process:
        log = folder / f"{len(running)}.log"
        command = [sys.executable, *(program or ("-m", "recast_server")), "--host", "127.0.0.1"]
        command += arguments or ("--port", "0", "--admin-port", "0", "--grpc-port", "0")
        with log.open("wb") as stream:
            popen = subprocess.Popen(
                command, stderr=stream, stdout=stream, cwd=folder,
                env={
                    **os.environ,
                    "RECAST_SERVER": json.dumps(config.wire()),
                    "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("api", "model", "server")),
                },
            )  # fmt: skip
        running.append(Process(popen, log))
        return running[-1]

    return start


def stop(running: list[Process]) -> None:
    """End those that still run."""
    for process in running:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(30)
