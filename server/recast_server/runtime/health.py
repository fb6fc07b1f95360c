"""Where a server is in its life, and the admin port that tells it: health for the kubelet, metrics for Prometheus.

=====================  ============================================================================================
``/healthz/startup``   200 once weights are loaded, warm and the pair was checked (or given up on for now)
``/healthz/ready``     200 while requests are welcome. Local only: a foundation that is down is no outage
``/healthz/live``      200 while the event loop answers and the model thread is not stuck
``/metrics``           Prometheus text format
=====================  ============================================================================================
"""

from __future__ import annotations

import enum

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from recast_server.runtime.scheduler import Scheduler

STUCK_SECONDS = 60.0
"""No forward pass takes this long; loading may, so liveness counts from the end of the start-up."""


class Phase(enum.Enum):
    """A server's life, in order."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Health:
    """The phase, shared by the admin port, the traffic port and the shutdown."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.phase = Phase.STARTING
        self._scheduler = scheduler

    @property
    def started(self) -> bool:
        """Whether start-up is over."""
        return self.phase is not Phase.STARTING

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.phase is Phase.SERVING and self._scheduler.running

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out."""
        return self.phase is Phase.DRAINING

    @property
    def live(self) -> bool:
        """Whether a restart would not help. That the loop runs is shown by its answering at all."""
        return not self.started or self._scheduler.alive(STUCK_SECONDS)


def admin_app(health: Health, registry: CollectorRegistry) -> Starlette:
    """The admin port's application."""

    def probe(name: str) -> Route:
        async def answer(_: Request) -> Response:
            return JSONResponse({"phase": health.phase.value}, status_code=200 if getattr(health, name) else 503)

        path = {"started": "startup", "ready": "ready", "live": "live"}[name]
        return Route(f"/healthz/{path}", answer)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[probe("started"), probe("ready"), probe("live"), Route("/metrics", metrics)])
