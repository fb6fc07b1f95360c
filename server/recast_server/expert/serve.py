"""An expert's server: the :class:`ModelServer` that :mod:`recast_server.runtime.process` runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from recast_api import names
from recast_api.answer_log import ANSWERS, IMPRESSIONS
from recast_api.manifest import Manifest
from recast_api.server import ExpertServerConfig, ServedHistories
from recast_server.answer_log.metrics import AnswerLogMetrics
from recast_server.answer_log.ranker import LoggedRanker
from recast_server.expert import impressions_api
from recast_server.expert.app import create_app
from recast_server.expert.edge import Identity
from recast_server.expert.events_api import PATH, events_route
from recast_server.expert.handshake import handshake
from recast_server.expert.model_ranker import Engine, ModelRanker
from recast_server.expert.open_inference.service import InferenceService
from recast_server.expert.ranker import Ranker
from recast_server.expert.schema import BODY_BYTES
from recast_server.expert.scoring import Scoring
from recast_server.expert.tae_cache import TaeCache
from recast_server.expert.tae_client import GrpcTaeClient
from recast_server.histories.metrics import HistoryMetrics
from recast_server.histories.opening import open_store
from recast_server.histories.reader import INLINE_EVENTS, HistoryReader, Snapshot
from recast_server.histories.store import HistoryStore
from recast_server.items.metrics import ItemMetrics
from recast_server.items.store import ItemStore
from recast_server.proto.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from recast_server.runtime import grpc_server
from recast_server.runtime.http import HttpServer, bind
from recast_server.runtime.metrics import FoundationCalls, ScoringRequests
from recast_server.runtime.process import Ports, Runtime

if TYPE_CHECKING:
    from recast_server.answer_log.log import AnswerLog

LOG_SHARE = 0.25
"""Of the time to drain, on top of it, for the log of answers to be written."""
_log = logging.getLogger("recast.expert")


class ExpertServer:
    """Loads one expert version, meets its foundation, answers requests for scores and takes events.

    What it answers is logged where it is configured to.
    """

    def __init__(
        self,
        config: ExpertServerConfig,
        verify: Callable[[], Manifest],
        runtime: Runtime,
        decorate: Callable[[Ranker], Ranker] | None,
    ) -> None:
        self._config, self._verify, self._runtime = config, verify, runtime
        self._decorate = decorate or (lambda ranker: ranker)
        self._metrics = ScoringRequests(runtime.registry, config.slo_milliseconds / 1000)
        self._calls = FoundationCalls(runtime.registry)
        self._histories = HistoryMetrics(runtime.registry)
        self._item_metrics = ItemMetrics(runtime.registry)
        self._items: ItemStore | None = None
        self._store: HistoryStore | None = None
        self._log_metrics = AnswerLogMetrics(runtime.registry)
        self._answers: AnswerLog | None = None
        self._engine: Engine | None = None
        self._client: GrpcTaeClient | None = None
        self._server: HttpServer | None = None
        self._grpc: grpc.aio.Server | None = None
        if config.concern:
            _log.warning(config.concern)

    def load(self) -> None:
        """See ``ModelServer``."""
        from recast_server.expert.engine import ExpertEngine  # imports PyTorch

        manifest = self._verify()
        artifact = self._config.artifact
        engine = ExpertEngine(Path(artifact.root) / artifact.path, manifest, self._config)
        self._runtime.scheduler.learn_cost(engine.warm_up())
        self._engine = engine
        if self._config.items is not None:
            self._items = ItemStore(self._config.items, engine, self._runtime.scheduler, self._item_metrics)

    async def start(self, ports: Ports) -> int:
        """See ``ModelServer``. Raises ``RecastError`` (``PairMismatch``) where another foundation answers."""
        assert self._engine is not None, "load comes first"
        config = self._config
        self._client = GrpcTaeClient(
            config.foundation_address,
            config.foundation,
            tae_dim=self._engine.tae_dim,
            deadline_seconds=config.foundation_deadline_milliseconds / 1000,
            calls=self._calls,
        )
        foundation = await handshake(self._client, config.foundation, self._engine.tae_dim)
        if self._items is not None:
            await self._items.start()
        histories = config.histories or ServedHistories()
        self._store = open_store(histories, os.environ.get(names.HISTORIES_PASSWORD_ENV))
        snapshot = self._engine.histories
        reader = HistoryReader(
            self._store,
            Snapshot(snapshot.until, lambda user: snapshot.length(user) > 0),
            self._engine.history_length,
            histories.max_age_seconds,
            self._histories,
            INLINE_EVENTS if foundation is None else foundation.history_events,
        )
        identity = Identity(
            config.model,
            config.surface,
            config.revision,
            config.artifact.version,
            config.foundation,
            self._engine.tasks,
            self._engine.context,
        )
        cache = TaeCache(config.tae_cache_mebibytes * 2**20, config.tae_cache_seconds)
        ranker = self._logged(
            self._decorate(
                ModelRanker(self._engine, config.surface, self._client, self._runtime.scheduler, reader, cache)
            ),
            self._engine,
        )
        report = None if self._answers is None else partial(self._answers.take, IMPRESSIONS)
        scoring = Scoring(
            ranker,
            config.slo_milliseconds / 1000,
            self._runtime.scheduler.require_room,
            lambda: self._runtime.lag.seconds,
        )
        app = create_app(
            identity,
            ranker,
            self._runtime.health,
            self._metrics,
            config.max_connection_age_seconds,
            scoring.slo_seconds,
            scoring.require_room,
            scoring.lag,
            {PATH: events_route(self._store), impressions_api.PATH: impressions_api.route(report)},
        )

        def refusal(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
            self._metrics.other(status)  # it never reaches the application, which counts what does
            return identity.refusal(status)

        self._server = HttpServer(app, bind(ports.host, ports.traffic), refusal)
        await self._server.start()
        self._grpc = grpc_server.make_server(config.max_connection_age_seconds, BODY_BYTES)
        service = InferenceService(identity, scoring, self._runtime.health, self._metrics)
        add_GRPCInferenceServiceServicer_to_server(service, self._grpc)
        grpc_port = grpc_server.listen(self._grpc, ports.host, ports.grpc)
        await self._grpc.start()
        _log.info("serving gRPC", extra={"fields": {"port": grpc_port}})
        return self._server.port

    def _logged(self, ranker: Ranker, engine: Engine) -> Ranker:
        """The ranker, with its answers logged where that is asked for."""
        asked = self._config.answer_log
        if asked is None:
            return ranker
        from recast_server.answer_log.opening import open_log  # imports PyArrow

        tasks = list(engine.tasks)
        self._answers = open_log(self._config, asked, tasks, engine.tae_dim, self._log_metrics)
        return LoggedRanker(ranker, partial(self._answers.take, ANSWERS), tasks, float(asked.share))

    async def drain(self, seconds: float) -> None:
        """See ``ModelServer``."""
        drains = [self._server.drain(seconds)] if self._server is not None else []
        if self._grpc is not None:
            drains.append(grpc_server.drain(self._grpc, seconds))
        await asyncio.gather(*drains)
        if self._answers is not None:
            await asyncio.to_thread(self._answers.close, LOG_SHARE * seconds)
        if self._client is not None:
            await self._client.close()
        if self._store is not None:
            await self._store.close()
        if self._items is not None:
            await self._items.close()
