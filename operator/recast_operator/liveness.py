"""Is the operator alive? Judged by what reached it and what it finished, never by the fact that it answers.

Two ages count: of the last proof that the apiserver still speaks to us (a watch event, or a heartbeat's listing where
nothing happens), and of work that is due and not done. ``/healthz`` fails when either is too old, so that Kubernetes
restarts an operator whose connections are dead or whose workers hang. ``/readyz`` says whether the first listing is
complete.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from recast_operator.metrics import Metrics


class Liveness:
    """The two ages, in seconds of ``clock``."""

    def __init__(self, clock: Callable[[], float], limit_seconds: float, oldest_work: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = limit_seconds
        self._oldest_work = oldest_work
        self._heard = clock()
        self._progress = clock()
        self._busy = 0
        self.ready = False

    def heard(self) -> None:
        """A watch event or a heartbeat's answer arrived."""
        self._heard = self._clock()

    def began(self) -> None:
        """A worker took a key."""
        if self._busy == 0:
            self._progress = self._clock()
        self._busy += 1

    def finished(self) -> None:
        """A worker finished a pass, whatever came of it."""
        self._busy -= 1
        self._progress = self._clock()

    def silence(self) -> float:
        """Seconds since anything was heard."""
        return self._clock() - self._heard

    def stuck(self) -> float:
        """Seconds for which work waits, or is in hand, and none was finished; 0 where there is none."""
        return self._clock() - self._progress if self._busy else self._oldest_work()

    def problems(self) -> list[str]:
        """What is wrong, in words; empty for a healthy operator."""
        found = []
        if self.silence() > self._limit:
            found.append(f"no watch event and no heartbeat for {self.silence():.0f}s (limit {self._limit:.0f}s)")
        if self.stuck() > self._limit:
            found.append(f"work is due and no pass was finished for {self.stuck():.0f}s (limit {self._limit:.0f}s)")
        return found


async def serve(port: int, liveness: Liveness, metrics: Metrics) -> web.AppRunner:
    """Serve ``/healthz``, ``/readyz`` and ``/metrics`` until the runner is cleaned up."""

    async def healthz(_: web.Request) -> web.Response:
        problems = liveness.problems()
        return web.Response(status=503 if problems else 200, text="; ".join(problems) or "ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(
            status=200 if liveness.ready else 503, text="ok" if liveness.ready else "the first listing is not complete"
        )

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
