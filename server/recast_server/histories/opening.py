"""A store from a server's configuration."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

from recast_api.server import ServedHistories
from recast_server.histories.embedded import EmbeddedStore
from recast_server.histories.redis_store import RedisAddress, RedisStore
from recast_server.histories.store import Append, Appended, Behind, DownError, HistoryStore, Read
from recast_server.histories.user_history import Bounds

_log = logging.getLogger("recast.histories")


def open_store(config: ServedHistories, password: str | None) -> HistoryStore | None:
    """The store; None where histories come with the version.

    One that cannot be opened does not keep the server from answering: it is down, and the log has the cause.
    """
    bounds = Bounds(config.max_events)
    if config.store == "Redis" and (redis := config.redis) is not None:
        address = RedisAddress(redis.host, redis.port, redis.username, password, redis.tls, redis.authority)
        return RedisStore(address, bounds, prefix=redis.prefix, ttl_seconds=redis.ttl_seconds)
    if config.store == "Embedded" and config.embedded is not None:
        try:
            return EmbeddedStore(Path(config.embedded.path), config.embedded.size_bytes, bounds)
        except DownError as error:
            _log.error("the store of histories cannot be opened", extra={"fields": {"problem": str(error)}})
            return Unopened(str(error))
    return None


class Unopened:
    """A :class:`recast_server.histories.store.HistoryStore` that could not be opened."""

    writable = True

    def __init__(self, problem: str) -> None:
        self._problem = problem

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        """Always raises :class:`DownError`."""
        raise DownError(self._problem)

    async def append(self, append: Append, now_ms: int) -> Appended:
        """Always raises :class:`DownError`."""
        raise DownError(self._problem)

    async def users(self) -> AsyncIterator[int]:
        """Always raises :class:`DownError`."""
        raise DownError(self._problem)
        yield  # pragma: no cover - what makes it an iterator

    async def close(self) -> None:
        """See ``HistoryStore``."""
