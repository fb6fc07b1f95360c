"""A real Redis of a test's own, from Debian's package, on a socket or on a free port of loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from server_processes import until

from dev.cluster import assets
from recast_server.histories.redis_store import RedisAddress


@dataclass
class RedisProcess:
    """A server under test; it keeps nothing on the disk unless its options say so."""

    folder: Path
    options: tuple[str, ...] = ()
    tcp: bool = False
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> RedisAddress:
        return RedisAddress("127.0.0.1", self.port) if self.tcp else RedisAddress(str(self.folder / "redis.sock"))

    def start(self) -> RedisProcess:
        if self.tcp and not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        program = assets.debian() / "usr/bin/redis-server"
        where = ["--bind", "127.0.0.1"] if self.tcp else ["--unixsocket", self.address.host]
        options = ["--port", str(self.port), "--dir", str(self.folder), "--save", "", *where, *self.options]
        log = (self.folder / "redis.log").open("ab")
        self._process = subprocess.Popen([str(program), *options], env=assets.environment(), stdout=log, stderr=log)
        log.close()
        until(self._answers)
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            with socket.socket(socket.AF_INET if self.tcp else socket.AF_UNIX) as asking:
                asking.connect(("127.0.0.1", self.port) if self.tcp else self.address.host)
                asking.sendall(b"PING\r\n")
                return asking.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False

    def freeze(self) -> None:
        """It stays connected and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
