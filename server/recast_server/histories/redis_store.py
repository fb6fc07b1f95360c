"""Histories in a Redis or Valkey that all replicas share.

Durable: an append is acknowledged when the server has executed it. Whether it outlives that server is the server's to
say: with ``appendonly yes`` and ``appendfsync always`` it is on the disk; with ``everysec`` a crash of the node loses a
second; without them, what came after the last snapshot. Give it ``maxmemory-policy noeviction``: an evicted user looks
like one never heard of. One primary, no cluster: a script writes two keys.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from recast_server.histories.packing import STAMP
from recast_server.histories.records import appended, history_in
from recast_server.histories.store import (
    AHEAD_MILLISECONDS,
    Append,
    Appended,
    Behind,
    CorruptError,
    DownError,
    FullError,
    Read,
)
from recast_server.histories.user_history import Bounds

ATTEMPTS = 16
"""Of an append that others of the same user came in between of."""
_PAGE = 512
_SWAP = """
if redis.call('GETRANGE', KEYS[1], 0, ARGV[1] - 1) ~= ARGV[2] then return 0 end
local known = tonumber(redis.call('GET', KEYS[2]) or '0')
redis.call('SET', KEYS[1], ARGV[3])
if ARGV[5] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
if not (known and known >= tonumber(ARGV[4]) and known <= tonumber(ARGV[6])) then
  redis.call('SET', KEYS[2], ARGV[4])
end
return 1
"""
"""Writes a record where the old one's stamp is still what was read. The newest time known only grows, unless it is no
number or lies in the future: somebody else wrote that."""
_USER = struct.Struct(">Q")


@dataclass(frozen=True)
class RedisAddress:
    """Where a server is. ``host`` may be the path of a Unix socket, which begins with a slash."""

    host: str
    port: int = 6379
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    authority: str | None = None
    """PEM file of the authority that vouches for the server; the system's own without one."""


class RedisStore:
    """A :class:`recast_server.histories.store.HistoryStore` on one server."""

    writable = True

    def __init__(
        self,
        address: RedisAddress,
        bounds: Bounds | None = None,
        *,
        prefix: str = "recast",
        ttl_seconds: int = 0,
        timeout_seconds: float = 1.0,
        connections: int = 64,
    ) -> None:
        """Users who had no append for ``ttl_seconds`` are forgotten; 0: none is.

        ``timeout_seconds`` bounds what a reader's own deadline does not: connecting, and each answer of an append.
        """
        self._bounds, self._ttl = bounds or Bounds(), ttl_seconds
        self._prefix, self._until = f"{prefix}:history:".encode(), f"{prefix}:history-until".encode()
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "max_connections": connections,
            "timeout": timeout_seconds,  # for a free connection
            "retry": Retry(NoBackoff(), 0),  # whoever asks has a deadline; the breaker decides when to try again
        }
        if address.host.startswith("/"):
            options |= {"connection_class": client.UnixDomainSocketConnection, "path": address.host}
        else:
            options |= {"host": address.host, "port": address.port}
            if address.tls:
                options |= {"connection_class": client.SSLConnection, "ssl_ca_certs": address.authority}
        self._client = client.Redis(connection_pool=client.BlockingConnectionPool(**options))
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._swap = self._client.register_script(_SWAP)

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        """See ``HistoryStore``. One round trip."""
        record, until = await self._get(user)
        found = Read(history_in(record, user), until)
        sequence = found.history.sequence
        return Behind(sequence) if at_least_sequence is not None and sequence < at_least_sequence else found

    async def append(self, append: Append, now_ms: int) -> Appended:
        """See ``HistoryStore``. Two round trips, and two more each time that another append came in between."""
        # One after the other in this process: else those that come at once would spoil each other's attempts.
        async with self._locks.setdefault(append.user, asyncio.Lock()):
            return await self._append(append, now_ms)

    async def _append(self, append: Append, now_ms: int) -> Appended:
        for _ in range(ATTEMPTS):
            (record,) = await self._mget(self._key(append.user))
            written = appended(record, append, now_ms, self._bounds)
            if written.record is None:
                return written.answer
            stamp = b"" if record is None else record[:STAMP]
            with _errors():
                swapped = await self._swap(
                    keys=[self._key(append.user), self._until],
                    args=[STAMP, stamp, written.record, written.until_ms, self._ttl, now_ms + AHEAD_MILLISECONDS],
                )
            if swapped:
                return written.answer
        raise DownError(f"{ATTEMPTS} times another append of user {append.user} came in between")

    async def users(self) -> AsyncIterator[int]:
        """See ``HistoryStore``."""
        cursor = 0
        while True:
            with _errors():
                page: Any = await self._client.scan(cursor, match=_escaped(self._prefix) + b"*", count=_PAGE)
            cursor, keys = page
            for key in keys:
                if len(key) == len(self._prefix) + _USER.size:  # others may have keys that begin alike
                    yield _USER.unpack(key[len(self._prefix) :])[0]
            if cursor == 0:
                return

    async def close(self) -> None:
        """See ``HistoryStore``."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _get(self, user: int) -> tuple[bytes | None, int]:
        record, until = await self._mget(self._key(user), self._until)
        try:
            return record, int(until or 0)
        except ValueError as error:
            raise CorruptError(f"{self._until.decode()} is no number of milliseconds") from error

    async def _mget(self, *keys: bytes) -> list[bytes | None]:
        with _errors():
            answer: Any = await self._client.mget(*keys)
        return list(answer)

    def _key(self, user: int) -> bytes:
        return self._prefix + _USER.pack(user)


def _escaped(prefix: bytes) -> bytes:
    """As a pattern that matches itself alone."""
    return b"".join(b"\\" + bytes([each]) if each in b"*?[]\\^-" else bytes([each]) for each in prefix)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise FullError(f"the server of histories has no memory left: {error}") from error
    except (RedisError, OSError) as error:
        raise DownError(f"the server of histories failed: {type(error).__name__}: {error}") from error
