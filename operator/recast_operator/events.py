"""Events on their way to the apiserver, beside the passes: neither a slow nor a failing event API delays a pass.

A pass hands its events over as soon as the write that they tell of has returned, so that what fails afterwards does not
lose them. The queue is bounded; what finds no room, and what the apiserver refuses, is counted. Each event is one line
of the log, and transitions are logged nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from recast_api.names import FIELD_MANAGER
from recast_api.resources import API_VERSION
from recast_operator.adapters.errors import OutsideError, Transient
from recast_operator.adapters.kube import EVENTS, Kube, Object
from recast_operator.keys import Key
from recast_operator.metrics import Metrics
from recast_operator.planning.plan import Event

logger = logging.getLogger(__name__)

NOTE_BYTES = 1024
"""The apiserver counts bytes, and refuses a longer note."""
ROOM = 2000
ATTEMPTS = 4
RETRY_SECONDS = 1.0


class EventQueue:
    """Holds events and posts them in order. ``clock`` gives aware UTC instants."""

    def __init__(
        self,
        kube: Kube,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        room: int = ROOM,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._kube = kube
        self._metrics = metrics
        self._clock = clock
        self._room = room
        self._retry_seconds = retry_seconds
        self._waiting: deque[Object] = deque()
        self._changed = asyncio.Event()

    def add(self, key: Key, uid: str, events: Iterable[Event]) -> None:
        """Take events about a model over, and log each."""
        for event in events:
            level = logging.WARNING if event.type == "Warning" else logging.INFO
            logger.log(level, "%s: %s: %s", key, event.reason, event.message)
            if len(self._waiting) >= self._room:
                self._metrics.event_lost("overflow")
                continue
            self._waiting.append(self._body(key, uid, event))
            self._changed.set()

    def depth(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    async def run(self) -> None:
        """Post for ever, one after the other."""
        while True:
            await self._changed.wait()
            await self.drain()

    async def flush(self, seconds: float) -> None:
        """At the end of the process: post what waits, for at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.drain()
        except TimeoutError:
            for _ in self._waiting:
                self._metrics.event_lost("shutdown")

    async def drain(self) -> None:
        """Post what waits."""
        while self._waiting:
            await self._post(self._waiting[0])
            self._waiting.popleft()
        self._changed.clear()

    async def _post(self, body: Object) -> None:
        """One event. It is lost once it is refused, or has failed a few times: a loss of words only."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._kube.create(EVENTS, body["metadata"]["namespace"], body)
                return
            except Transient as error:
                if attempt == ATTEMPTS:
                    self._lost(body, error)
                    return
                await asyncio.sleep(self._retry_seconds * 2 ** (attempt - 1))
            except OutsideError as error:
                self._lost(body, error)
                return

    def _lost(self, body: Object, error: OutsideError) -> None:
        self._metrics.event_lost(error.kind)
        logger.warning("%s %s: an event was lost: %s", body["regarding"]["name"], body["reason"], error)

    def _body(self, key: Key, uid: str, event: Event) -> Object:
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"generateName": f"{key.name}-", "namespace": key.namespace},
            "eventTime": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "recast.dev/operator",
            "reportingInstance": FIELD_MANAGER,
            "action": "Reconcile",
            "type": event.type,
            "reason": event.reason,
            "note": event.message.encode()[:NOTE_BYTES].decode(errors="ignore"),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid,
            },
        }
