"""One of two foundation servers hangs: what that costs in embeddings, and that nobody waits for it after."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from prometheus_client import CollectorRegistry
from server_world import NOW

from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.tae_client import GrpcTaeClient
from recast_server.runtime.context import RequestContext
from recast_server.runtime.inputs import Query
from recast_server.runtime.metrics import FoundationCalls

DEADLINE_SECONDS = 0.5
STEADY = 100
"""So many answers in a row are taken for all."""


class Asking:
    """Asks of one user after another."""

    def __init__(self, client: GrpcTaeClient) -> None:
        self._client = client
        self._asked = 0
        self.slowest = 0.0

    async def fresh(self) -> bool:
        begin = time.monotonic()
        self._asked += 1
        try:
            context = RequestContext("r", begin + 60)
            await self._client.tae(Query(self._asked % 20, "reels", NOW, [1007]), context, 60.0)
        except TaeUnavailableError:
            return False
        finally:
            self.slowest = max(self.slowest, time.monotonic() - begin)
        return True

    async def until_all_are_fresh(self) -> float:
        """Seconds until the first of :data:`STEADY` answers in a row that all have embeddings."""
        begin, row, since = time.monotonic(), 0, 0.0
        while row < STEADY:
            assert time.monotonic() < begin + 60, "embeddings did not come back"
            if row == 0:
                since = time.monotonic()
            row = row + 1 if await self.fresh() else 0
        return since - begin


async def test_a_frozen_replica_costs_some_deadlines_and_then_nobody_waits_for_it(world: Any) -> None:
    servers = [world.start(world.foundation_config(world.foundation)) for _ in range(2)]
    addresses = [f"127.0.0.1:{server.wait_serving().port}" for server in servers]
    registry = CollectorRegistry()

    async def resolve() -> list[str]:
        return addresses

    def sample(name: str, **labels: str) -> float:
        value = registry.get_sample_value(f"recast_foundation_{name}", labels)
        assert value is not None
        return value

    client = GrpcTaeClient(
        "foundation:9090", world.foundation.pin, tae_dim=16, deadline_seconds=DEADLINE_SECONDS,
        calls=FoundationCalls(registry), resolve=resolve,
    )  # fmt: skip
    asking = Asking(client)
    await asking.until_all_are_fresh()
    for server in servers:
        assert server.metric("recast_foundation_requests_total", code="OK") > 0, "users are spread over both"
    servers[0].popen.send_signal(signal.SIGSTOP)
    try:
        seconds = await asking.until_all_are_fresh()
        late = sample("calls_total", code="DEADLINE_EXCEEDED")
        assert sample("replicas", state="ejected") == sample("ejections_total") == 1
        asking.slowest = 0.0
        assert all([await asking.fresh() for _ in range(STEADY)])
        assert sample("calls_total", code="DEADLINE_EXCEEDED") == late, "no answer waits for the frozen one"
        print(f"\nfrozen: {late:.0f} answers without embeddings, all with them after {seconds:.2f} s, then the slowest"
              f" took {1000 * asking.slowest:.1f} ms of {1000 * DEADLINE_SECONDS:.0f}")  # fmt: skip
    finally:
        servers[0].popen.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 30
    while sample("replicas", state="used") < 2:
        assert time.monotonic() < deadline, "it did not come back"
        await asyncio.sleep(0.05)
    assert await asking.until_all_are_fresh() < 30
    await client.close()
