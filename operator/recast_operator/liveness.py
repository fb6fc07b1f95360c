"""Is the operator alive? Judged by what reached it and what it finished, never by the fact that it answers.

``/healthz`` fails where a restart would help, and only there:

- nothing comes through any more: neither a watch event nor an *answer* to a heartbeat, for too long. An apiserver that
  refuses a heartbeat has answered; it is away, and a restart would not bring it back. One that leaves it without an
  answer until its deadline has not: that is a dead connection.
- the apiserver answers well, yet a pass does not end, or work is due and no pass is finished: a worker hangs.

``/readyz`` says whether the first listing is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from aiohttp import web

from recast_operator.metrics import Metrics


class Liveness:
    """Ages in seconds of ``clock``."""

    def __init__(self, clock: Callable[[], float], limit_seconds: float, oldest_work: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = limit_seconds
        self._oldest_work = oldest_work
        self._heard = clock()
        self._answers = True
        self._progress = clock()
        self._passes: dict[Hashable, float] = {}
        self.ready = False

    def heard(self) -> None:
        """A watch event arrived, or a heartbeat was answered as it should be."""
        self._heard = self._clock()
        if not self._answers:
            # What did not end while the apiserver was away gets its full time from now on.
            self._answers, self._progress = True, self._heard
            self._passes = dict.fromkeys(self._passes, self._heard)

    def refused(self) -> None:
        """A heartbeat was answered with an error, or the connection was refused: the apiserver is away, we are not."""
        self._heard = self._clock()
        self._answers = False

    def began(self, key: Hashable) -> None:
        """A worker took a key."""
        if not self._passes:
            self._progress = self._clock()
        self._passes[key] = self._clock()

    def finished(self, key: Hashable) -> None:
        """A worker finished a pass, whatever came of it."""
        del self._passes[key]
        self._progress = self._clock()

    def silence(self) -> float:
        """Seconds since anything was heard."""
        return self._clock() - self._heard

    def problems(self) -> list[str]:
        """What is wrong, in words; empty for a healthy operator."""
        found, now = [], self._clock()
        if self.silence() > self._limit:
            found.append(f"no watch event and no answer for {self.silence():.0f}s (limit {self._limit:.0f}s)")
        if not self._answers:
            return found
        waited = now - self._progress if self._passes else self._oldest_work()
        if waited > self._limit:
            found.append(f"work is due and no pass was finished for {waited:.0f}s (limit {self._limit:.0f}s)")
        key, began = min(self._passes.items(), key=lambda item: item[1], default=("", now))
        if now - began > self._limit:
            found.append(f"{key}: a pass has not ended for {now - began:.0f}s (limit {self._limit:.0f}s)")
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
