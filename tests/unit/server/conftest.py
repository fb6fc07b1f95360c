"""An application with a ranker that needs no model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from fake_ranker import IDENTITY, FakeRanker
from prometheus_client import CollectorRegistry

from recast_server.expert import impressions_api
from recast_server.expert.app import create_app
from recast_server.expert.edge import Identity
from recast_server.expert.events_api import PATH, events_route
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler


@dataclass
class Served:
    ranker: FakeRanker
    health: Health
    registry: CollectorRegistry
    client: httpx.AsyncClient
    state: dict[str, object]
    identity: Identity = IDENTITY

    def count(self, code: str) -> float:
        value = self.registry.get_sample_value("recast_requests_total", {"code": code})
        assert value is not None
        return value


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    ranker, registry = FakeRanker(), CollectorRegistry()
    scheduler = Scheduler(1, QueueMetrics(CollectorRegistry()))
    scheduler.start()
    health = Health(scheduler)
    health.phase = Phase.SERVING
    metrics, more = (
        ScoringRequests(registry, 0.2),
        {PATH: events_route(None), impressions_api.PATH: impressions_api.route(None)},
    )
    app = create_app(IDENTITY, ranker, health, metrics, 30.0, 0.2, more=more)
    state: dict[str, object] = {}

    async def with_state(scope: dict[str, object], receive: Callable[..., Awaitable[object]], send: object) -> None:
        await app({**scope, "state": dict(state)}, receive, send)  # type: ignore[arg-type]

    transport = httpx.ASGITransport(app=with_state, raise_app_exceptions=True)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://expert") as client:
        yield Served(ranker, health, registry, client, state)
    scheduler.close()
