"""A foundation's server: the :class:`ModelServer` that :mod:`recast_server.runtime.process` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc.aio

from recast_api.manifest import Manifest
from recast_api.server import FoundationServerConfig
from recast_server.foundation.memory import memory_limit
from recast_server.foundation.reuse_metrics import ReuseMetrics
from recast_server.foundation.service import Engine, FoundationService
from recast_server.items.metrics import ItemMetrics
from recast_server.items.store import PEAK_BYTES, ItemStore
from recast_server.proto.foundation_pb2_grpc import add_FoundationServicer_to_server
from recast_server.runtime import grpc_server
from recast_server.runtime.metrics import FoundationRequests
from recast_server.runtime.process import Ports, Runtime

CONNECTION_AGE_SECONDS = 60
"""After this, give or take gRPC's own 10 %, a connection is told to go away: experts find replicas that were added."""
MESSAGE_BYTES = 16 * 1024 * 1024
"""Of a call, or of questions that share a message: experts stop at an eighth of it, but for one question larger."""
PINGS = ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000)
"""Experts that wait for an answer ask every two seconds whether we are still there."""


class FoundationServer:
    """Loads one foundation version and answers TAE calls."""

    def __init__(self, config: FoundationServerConfig, verify: Callable[[], Manifest], runtime: Runtime) -> None:
        self._config, self._verify, self._runtime = config, verify, runtime
        self._calls, self._reuse = FoundationRequests(runtime.registry), ReuseMetrics(runtime.registry)
        self._item_metrics = ItemMetrics(runtime.registry)
        self._items: ItemStore | None = None
        self._engine: Engine | None = None
        self._server: grpc.aio.Server | None = None

    def load(self) -> None:
        """See ``ModelServer``."""
        from recast_server.foundation.engine import FoundationEngine  # imports PyTorch

        manifest = self._verify()
        artifact = self._config.artifact
        folder, room = Path(artifact.root) / artifact.path, self._config.kv_cache_mebibytes
        items = self._config.items
        engine = FoundationEngine(folder, manifest, room, memory_limit(), PEAK_BYTES if items else 0)
        self._runtime.scheduler.learn_cost(engine.warm_up())
        engine.metrics = self._reuse  # warm-up is no request
        self._engine = engine
        if items is not None:
            self._items = ItemStore(items, engine, self._runtime.scheduler, self._item_metrics)

    async def start(self, ports: Ports) -> int:
        """See ``ModelServer``."""
        assert self._engine is not None, "load comes first"
        if self._items is not None:
            await self._items.start()
        service = FoundationService(self._engine, self._runtime.scheduler, self._calls)
        server = grpc_server.make_server(CONNECTION_AGE_SECONDS, MESSAGE_BYTES, [PINGS])
        add_FoundationServicer_to_server(service, server)
        port = grpc_server.listen(server, ports.host, ports.traffic)
        await server.start()
        self._server = server
        return port

    async def drain(self, seconds: float) -> None:
        """See ``ModelServer``. Connections are told to go away; calls in flight are answered."""
        if self._server is not None:
            await grpc_server.drain(self._server, seconds)
        if self._items is not None:
            await self._items.close()
