"""The life of a server's process, the same for both kinds: load, announce, serve until SIGTERM, drain.

A :class:`ModelServer` is what differs: what to load on the model thread and which port to open for traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry

from recast_api import names
from recast_server.runtime.cpu import limit_threads, model_threads
from recast_server.runtime.health import Health, Phase, admin_app
from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.logs import LogWriter
from recast_server.runtime.loop_lag import LoopLag
from recast_server.runtime.metrics import new_registry
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler

QUEUE = 256
"""Requests that may be admitted at once. Overload is shed by deadlines, long before; this bounds memory."""
SWITCH_INTERVAL_SECONDS = 0.001
"""How long the model thread may keep the interpreter from the event loop: a fifth of Python's default."""
FILES = 8192
"""Open files that a server needs to keep as many connections as its ports allow, those to be refused included."""
DRAIN_SHARE = 0.6
"""Of the time from SIGTERM to SIGKILL, for the clients. The rest is for the end itself, with some to spare."""
_log = logging.getLogger("recast.process")
T = TypeVar("T")


@dataclass(frozen=True)
class Ports:
    """Where to listen: an empty host is every interface, port 0 takes a free one and logs it."""

    host: str = ""
    traffic: int = 0
    admin: int = names.ADMIN_PORT
    grpc: int = names.EXPERT_GRPC_PORT
    """An expert's second port for traffic; a foundation has none."""


class ModelServer(Protocol):
    """One kind of server, as this module drives it."""

    def load(self) -> None:
        """Verifies, loads and warms up. Runs on the model thread."""
        ...

    async def start(self, ports: Ports) -> int:
        """Checks its dependencies, opens the traffic port and returns it: requests may come from here on."""
        ...

    async def drain(self, seconds: float) -> None:
        """Finishes what is in flight and closes the traffic port, in so long at most."""
        ...


@dataclass(frozen=True)
class Runtime:
    """What every server of this process shares."""

    health: Health
    scheduler: Scheduler
    registry: CollectorRegistry
    lag: LoopLag


async def run_server(
    make: Callable[[Runtime], ModelServer], ports: Ports, grace_seconds: float, log: LogWriter
) -> None:
    """Runs a server until SIGTERM or SIGINT, and then for less than ``grace_seconds``: SIGKILL comes after that.

    Raises ``RecastError`` where it must not start.
    """
    begin = time.monotonic()
    allow_files(FILES)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    registry = new_registry(lambda: log.dropped)
    lag = LoopLag()
    scheduler = Scheduler(QUEUE, QueueMetrics(registry), lambda: lag.seconds)
    scheduler.start()
    health = Health(scheduler)
    admin = HttpServer(admin_app(health, registry), bind(ports.host, ports.admin))
    await admin.start()
    _log.info("starting", extra={"fields": {"adminPort": admin.port}})
    server = make(Runtime(health, scheduler, registry, lag))
    try:
        port = await _unless(stop, _start(server, scheduler, ports))
        if port is not None:
            lag.start()
            health.phase = Phase.SERVING
            seconds = round(time.monotonic() - begin, 2)
            _log.info("serving", extra={"fields": {"port": port, "adminPort": admin.port, "startSeconds": seconds}})
            await stop.wait()
        health.phase = Phase.DRAINING
        _log.info("draining")
        await server.drain(DRAIN_SHARE * grace_seconds)
    finally:
        lag.stop()
        await asyncio.to_thread(scheduler.close, (1 - DRAIN_SHARE) / 4 * grace_seconds)
        await admin.stop()
    _log.info("stopped")


def allow_files(count: int) -> None:
    """Raises this process's own limit of open files, as far as it may: some runtimes start containers with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


async def _start(server: ModelServer, scheduler: Scheduler, ports: Ports) -> int:
    def load() -> None:
        limit_threads(model_threads())
        server.load()

    await scheduler.run_exclusively(load)
    port = await server.start(ports)
    # What exists now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    return port


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The work's result, or None where the process was told to stop before it was done."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None
