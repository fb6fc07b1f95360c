"""The operator without kopf: memory, queue, workers, heartbeat and resync, in one event loop.

:mod:`recast_operator.watches` feeds events into :meth:`Runtime.seen`; everything else happens here. A lost event is not
a lost change: every ``resync_seconds`` all objects are listed anew, and what the watches missed is counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recast_operator.adapters.errors import OutsideError
from recast_operator.adapters.kube import FOUNDATIONS, Kube, Resource
from recast_operator.adapters.prometheus import Prometheus
from recast_operator.adapters.torchx import Launcher
from recast_operator.compact import MODEL_KINDS
from recast_operator.controller import Controller
from recast_operator.events import EventQueue
from recast_operator.fleet import Fleet
from recast_operator.garbage import collect_rarely
from recast_operator.keys import Key
from recast_operator.listing import Listing
from recast_operator.liveness import Liveness
from recast_operator.metrics import Metrics
from recast_operator.observe import Observer
from recast_operator.parsing import Parser
from recast_operator.places import Place, Places
from recast_operator.queue import Pace, WorkQueue
from recast_operator.store import Doubts, Store
from recast_operator.wakeups import Wakeups
from recast_operator.writes import Outside

logger = logging.getLogger(__name__)

START_RETRY_SECONDS = 2.0
SECOND_LISTING_SECONDS = 10.0
HEARTBEAT_DEADLINE_SECONDS = 8.0
"""Shorter than any other limit on a request: a heartbeat without an answer by then hangs."""
FLUSH_SECONDS = 2.0
ASKING = 32
"""Passes that may wait for Prometheus. Each is given an answer, or none, within seconds."""

PACES: Mapping[str, Pace] = {
    # Each of a thousand experts may wake it at once.
    "FoundationModel": Pace(urgent=True, interval_seconds=0.5),
    "ExpertModel": Pace(interval_seconds=0.1),
}


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    prometheus_url: str = ""
    resync_seconds: float = 300.0
    heartbeat_seconds: float = 10.0
    liveness_seconds: float = 90.0
    workers: int = 3
    """Passes at work at once, beside an urgent one and those that wait for Prometheus: see :mod:`places`."""


class Runtime:
    """All parts, wired. Made inside the running event loop."""

    def __init__(self, settings: Settings, kube: Kube, metrics: Metrics) -> None:
        self.settings = settings
        self.kube = kube
        self.metrics = metrics
        self._queue: WorkQueue[Key] = WorkQueue(time.monotonic, lambda key: PACES[key.kind])
        parser, fleet, doubts = Parser(), Fleet(), Doubts()
        self._store = Store(Wakeups(parser, fleet, self._queue.add).changed)
        self.listing = Listing(kube, self._store, self.scopes)
        self._launcher = Launcher(kube.requester)
        self._prometheus = Prometheus(settings.prometheus_url)
        self._events = EventQueue(kube, metrics)
        outside = Outside(self._store, doubts, kube, self._launcher, metrics)
        self._controller = Controller(Observer(self._store, parser, fleet), outside, self._prometheus, self._events)
        self.liveness = Liveness(time.monotonic, settings.liveness_seconds, self._queue.oldest)
        metrics.gauge("recast_operator_queue_depth", "Models that are due and wait.", self._queue.depth)
        metrics.gauge("recast_operator_queue_oldest_seconds", "Age of the longest-waiting model.", self._queue.oldest)
        metrics.gauge("recast_operator_silence_seconds", "Age of the last event or answer.", self.liveness.silence)
        metrics.gauge("recast_operator_events_waiting", "Events that are not posted yet.", self._events.depth)
        metrics.gauge("recast_operator_doubts", "Objects whose last write has no known outcome.", doubts.count)
        self._tasks: list[asyncio.Task[None]] = []
        self._passes: set[asyncio.Task[None]] = set()

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """The namespaces that are worked in; None stands for all."""
        return self.settings.namespaces or (None,)

    def seen(self, kind: str, event: str | None, raw: Mapping[str, Any]) -> None:
        """A watch saw an object: ``DELETED``, or anything else for one that is there. On the event loop only."""
        self.liveness.heard()
        self.metrics.watch_event(kind)
        if event == "DELETED":
            metadata = raw["metadata"]
            self._store.remove(kind, metadata["namespace"], metadata["name"], metadata["uid"])
        else:
            self._store.put(kind, raw)

    async def start(self) -> None:
        """List everything, waiting for the apiserver and the definitions if need be; then begin to work."""
        self._spawn("heartbeat", self._heartbeat)
        while True:
            try:
                await self.listing.everything()
                break
            except OutsideError as error:
                logger.warning("cannot list yet, are the CustomResourceDefinitions installed? %s", error)
                await asyncio.sleep(START_RETRY_SECONDS)
        self.liveness.ready = True
        self._spawn("resync", self._resync)
        self._spawn("garbage", collect_rarely)
        self._spawn("events", self._events.run)
        # One place is for urgent keys alone, so that these never wait for a free one.
        self._spawn("urgent-passes", lambda: self._work(Places(1, 0), urgent_only=True))
        self._spawn("passes", lambda: self._work(Places(self.settings.workers, ASKING)))

    async def served(self, resource: Resource) -> None:
        """Wait until a kind is served (again), and list it. Returns once the memory has it."""
        while True:
            try:
                await self.listing.kind(resource)
                return
            except OutsideError as error:
                logger.warning("waiting for %s: %s", resource.plural, error)
                await asyncio.sleep(START_RETRY_SECONDS)

    async def stop(self) -> None:
        """End all tasks. A pass that is cut off leaves nothing behind that the next start does not see."""
        tasks = (*self._tasks, *self._passes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._events.flush(FLUSH_SECONDS)
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
            await self._beat()
            await asyncio.sleep(self.settings.heartbeat_seconds)

    async def _beat(self) -> None:
        try:
            async with asyncio.timeout(HEARTBEAT_DEADLINE_SECONDS):
                for namespace in self.scopes:
                    await self.kube.exists(FOUNDATIONS, namespace)
        except TimeoutError:
            logger.warning("a heartbeat got no answer within %.0f s", HEARTBEAT_DEADLINE_SECONDS)
        except OutsideError as error:
            self.liveness.refused()
            logger.warning("the apiserver is away: %s", error)
        else:
            self.liveness.heard()

    async def _resync(self) -> None:
        # The watches begin after the first listing: a second one soon finds what fell between.
        await asyncio.sleep(min(SECOND_LISTING_SECONDS, self.settings.resync_seconds))
        while True:
            for kind, better in (await self.listing.again()).items():
                self.metrics.watch_missed(kind, better)
            for kind in MODEL_KINDS:
                for address in self._store.addresses(kind):
                    self._queue.add(Key(kind, address.namespace, address.name))
            await asyncio.sleep(self.settings.resync_seconds)

    async def _work(self, places: Places, *, urgent_only: bool = False) -> None:
        """Begin a pass whenever a model is due and there is a place for it."""
        while True:
            await self._queue.due(urgent_only=urgent_only)
            place = await places.place()
            key = self._queue.take(urgent_only=urgent_only)
            if key is None:  # another one has taken it
                place.end()
                continue
            task = asyncio.create_task(self._pass(key, place), name=f"pass over {key}")
            self._passes.add(task)
            task.add_done_callback(self._passes.discard)

    async def _pass(self, key: Key, place: Place) -> None:
        self.liveness.began(key)
        failed, result = True, "Error"
        try:
            requeue = await self._controller.reconcile(key, place.away)
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
            place.end()
            self._queue.done(key, failed=failed)
            self.metrics.pass_ended(key.kind, result, place.seconds)
            if place.away_seconds:
                self.metrics.waited_for_prometheus(place.away_seconds)
            self.liveness.finished(key)
