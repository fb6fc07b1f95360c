"""One watch on the three kinds, for two uses: it prints the timeline, and every wait looks at what it has seen.

A line is printed because the cluster's state has changed, never because the script did something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dev.demo.screen import Screen
from recast_cli.cluster import Cluster as Reader
from recast_cli.timeline import Timeline
from recast_cli.world import Resource, World

Predicate = Callable[[World], bool]


class WaitError(Exception):
    """A state did not come in time."""


class Live:
    """The newest known state of a namespace, kept by a thread."""

    def __init__(self, reader: Reader, screen: Screen) -> None:
        self._reader, self._screen = reader, screen
        self._resources: dict[tuple[str, str], Resource] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    def start(self) -> Live:
        """Begin to watch."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop watching; the last state stays readable."""
        self._stop.set()
        self._thread.join(timeout=5)

    @property
    def world(self) -> World:
        """What is known now."""
        with self._changed:
            return World.of(self._resources.values())

    def wait(self, what: str, predicate: Predicate, seconds: float) -> World:
        """The first state in which ``predicate`` holds. Raises :class:`WaitError` after the deadline."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                if self._error:
                    raise WaitError(f"{what}: the watch broke: {self._error}")
                world = World.of(self._resources.values())
                if predicate(world):
                    return world
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WaitError(f"{what}: not within {seconds:.0f} s")
                self._changed.wait(timeout=min(left, 1))

    def becomes(self, predicate: Predicate, seconds: float) -> bool:
        """Whether ``predicate`` comes to hold within the time: for what must not happen."""
        try:
            self.wait("", predicate, seconds)
        except WaitError:
            return False
        return True

    def _follow(self) -> None:
        timeline = Timeline()
        try:
            for change in self._reader.watch(self._stop):
                key = (change.resource.kind, change.resource.metadata.name)
                with self._changed:
                    if change.deleted:
                        self._resources.pop(key, None)
                    else:
                        self._resources[key] = change.resource
                    self._changed.notify_all()
                for line in timeline.feed(change.resource, deleted=change.deleted):
                    self._screen.line(line)
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
