"""The operator without kopf: memory, queue, workers, heartbeat and resync, in one event loop.

:mod:`recast_operator.entry` feeds watch events into :meth:`Runtime.seen`; everything else happens here. A lost event is
not a lost change: every ``resync_seconds`` all objects are listed anew, and what the watches missed is counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from recast_api.names import LABEL_MANAGED_BY, MANAGED_BY
from recast_operator.adapters.errors import OutsideError
from recast_operator.adapters.kube import CHILDREN, FOUNDATIONS, MODELS, Kube, Resource
from recast_operator.adapters.prometheus import Prometheus
from recast_operator.adapters.torchx import Launcher
from recast_operator.controller import Controller
from recast_operator.liveness import Liveness
from recast_operator.metrics import Metrics
from recast_operator.observe import Key, Observer
from recast_operator.queue import WorkQueue
from recast_operator.store import Object, Store

logger = logging.getLogger(__name__)

OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
START_RETRY_SECONDS = 2.0
SECOND_LISTING_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    prometheus_url: str = ""
    resync_seconds: float = 300.0
    heartbeat_seconds: float = 10.0
    liveness_seconds: float = 90.0
    workers: int = 4


def selector(resource: Resource) -> str:
    """The label selector by which a kind is listed and watched."""
    return OURS if resource in CHILDREN else ""


class Runtime:
    """All parts, wired. Made inside the running event loop."""

    def __init__(self, settings: Settings, kube: Kube, metrics: Metrics) -> None:
        self._settings = settings
        self._kube = kube
        self._metrics = metrics
        self._store = Store(self._changed)
        self._observer = Observer(self._store)
        self._queue: WorkQueue[Key] = WorkQueue(time.monotonic)
        self._launcher = Launcher(kube.requester)
        self._prometheus = Prometheus(settings.prometheus_url)
        self._controller = Controller(self._store, kube, self._launcher, self._prometheus, metrics)
        self.liveness = Liveness(time.monotonic, settings.liveness_seconds, self._queue.oldest)
        metrics.gauge("recast_operator_queue_depth", "Models that are due and wait.", self._queue.depth)
        metrics.gauge("recast_operator_queue_oldest_seconds", "Age of the longest-waiting model.", self._queue.oldest)
        metrics.gauge("recast_operator_silence_seconds", "Age of the last event or heartbeat.", self.liveness.silence)
        self._tasks: list[asyncio.Task[None]] = []

    def seen(self, kind: str, event: str | None, raw: Object) -> None:
        """A watch told of an object: ``DELETED``, or anything else for one that is there."""
        self.liveness.heard()
        self._metrics.watch_event(kind)
        metadata = raw["metadata"]
        if event == "DELETED":
            self._store.remove(kind, metadata["namespace"], metadata["name"], metadata["uid"])
            self._observer.forget(kind, metadata["uid"])
        else:
            self._store.put(kind, raw)

    def _changed(self, kind: str, raw: Object) -> None:
        for key in self._observer.concerned(kind, raw):
            self._queue.add(key)

    async def start(self) -> None:
        """List everything, waiting for the apiserver and the definitions if need be; then begin to work."""
        self._spawn("heartbeat", self._heartbeat)
        while True:
            try:
                await self._list_all(first=True)
                break
            except OutsideError as error:
                logger.warning("cannot list yet, are the CustomResourceDefinitions installed? %s", error)
                await asyncio.sleep(START_RETRY_SECONDS)
        self.liveness.ready = True
        self._spawn("resync", self._resync)
        for number in range(self._settings.workers):
            self._spawn(f"worker-{number}", self._work)

    async def stop(self) -> None:
        """End all tasks. A pass that is cut off leaves nothing behind that the next start does not see."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._launcher.close()
        await self._prometheus.close()

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        async def guarded() -> None:
            while True:
                try:
                    await work()
                except OutsideError as error:
                    logger.warning("%s: %s", name, error)
                    await asyncio.sleep(START_RETRY_SECONDS)
                except Exception:
                    # A mistake of ours in one round must not silently end all rounds.
                    logger.exception("%s failed", name)
                    await asyncio.sleep(START_RETRY_SECONDS)

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    async def _heartbeat(self) -> None:
        while True:
            for namespace in self._scopes():
                await self._kube.list(FOUNDATIONS, namespace, limit=1, any_age=True)
            self.liveness.heard()
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _resync(self) -> None:
        # The watches begin after the first listing: a second one soon finds what fell between.
        await asyncio.sleep(min(SECOND_LISTING_SECONDS, self._settings.resync_seconds))
        while True:
            await self._list_all(first=False)
            for key in self._observer.models():
                self._queue.add(key)
            await asyncio.sleep(self._settings.resync_seconds)

    def _scopes(self) -> Sequence[str | None]:
        return self._settings.namespaces or (None,)

    async def _list_all(self, *, first: bool) -> None:
        for resource in (*MODELS, *CHILDREN):
            for namespace in self._scopes():
                found = await self._kube.list(resource, namespace, selector(resource))
                version = found["metadata"]["resourceVersion"]
                better = self._store.replace_all(resource.kind, found["items"], version, namespace)
                if not first:
                    for _ in range(better):
                        self._metrics.watch_missed(resource.kind)

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            self.liveness.began()
            began, failed = time.monotonic(), True
            result = "Error"
            try:
                requeue = await self._controller.reconcile(key)
                failed, result = False, "Success"
                if requeue is not None:
                    self._queue.add(key, requeue)
            except OutsideError as error:
                result = error.kind
                log = logger.info if error.kind == "Conflict" else logger.warning
                log("%s: %s: %s", key, error.kind, error)
            except Exception:
                logger.exception("%s: a pass failed", key)
            finally:
                self._queue.done(key, failed=failed)
                self._metrics.pass_ended(key.kind, result, time.monotonic() - began)
                self.liveness.finished()
