"""Histories in a file of the pod's own volume: LMDB, one writer, readers that never wait for it.

Durable: an append is acknowledged when its transaction is synced to the disk, so that it outlives the pod and the
node; the loss of the volume loses all. Appends that wait share one transaction, and so one sync. LMDB corrupts on
volumes that two nodes mount, hence one replica and ReadWriteOncePod (docs/operations.md).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import lmdb

from recast_server.histories.records import appended, history_in
from recast_server.histories.store import Append, Appended, Behind, CorruptError, DownError, FullError, Read, StoreError
from recast_server.histories.user_history import Bounds

AT_ONCE = 256
"""Appends that one transaction holds at most."""
_UNTIL = b"until"
_USER, _MILLISECONDS = struct.Struct(">Q"), struct.Struct("<Q")
_PAGE = 1024
"""Users that are listed in one transaction: one that stays open keeps the file growing."""
_log = logging.getLogger("recast.histories")
T = TypeVar("T")
_Waiting = tuple[Append, int, "asyncio.Future[Appended]"]


class EmbeddedStore:
    """A :class:`recast_server.histories.store.HistoryStore` in a folder; one process at a time may open it."""

    writable = True

    def __init__(self, folder: Path, size_bytes: int, bounds: Bounds | None = None) -> None:
        """``size_bytes`` is the most that the file may grow to. Raises :class:`DownError` where it cannot be opened."""
        self._bounds = bounds or Bounds()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._environment = lmdb.open(str(folder), map_size=size_bytes, readahead=False, max_readers=16)
        except (lmdb.Error, OSError) as error:
            raise DownError(f"no histories can be kept in {folder}: {error}") from error
        self._readers = ThreadPoolExecutor(2, "histories-read")
        self._writer = ThreadPoolExecutor(1, "histories-write")
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        """See ``HistoryStore``."""
        record, until = await self._run(self._readers, lambda: self._get(user))
        found = Read(history_in(record, user), until)
        sequence = found.history.sequence
        return Behind(sequence) if at_least_sequence is not None and sequence < at_least_sequence else found

    async def append(self, append: Append, now_ms: int) -> Appended:
        """See ``HistoryStore``. A call that is cancelled may still be made: its key tells when it is sent again."""
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((append, now_ms, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_what_waits())
        return await answer

    async def users(self) -> AsyncIterator[int]:
        """See ``HistoryStore``; ascending."""
        after = -1
        while page := await self._run(self._readers, functools.partial(self._page, after)):
            for user in page:
                yield user
            after = page[-1]

    async def close(self) -> None:
        """See ``HistoryStore``. What waits is written first."""
        if self._writing is not None:
            await self._writing
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        self._environment.close()

    async def _write_what_waits(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                results = await self._run(self._writer, functools.partial(self._write, batch))
            except StoreError as error:
                results = [error] * len(batch)
            except Exception as error:  # nobody may wait for ever
                _log.exception("appends failed")
                results = [DownError(f"the append failed: {error}")] * len(batch)
            for (_, _, answer), result in zip(batch, results, strict=True):
                if answer.done():  # its caller no longer waits
                    continue
                if isinstance(result, StoreError):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _write(self, batch: Sequence[_Waiting]) -> list[Appended | StoreError]:
        """One transaction for all of them; each sees those before it, and one that is refused stops no other."""
        results: list[Appended | StoreError] = []
        with self._environment.begin(write=True) as transaction:
            newest = _until(transaction.get(_UNTIL))
            for append, now_ms, _ in batch:
                key = _USER.pack(append.user)
                try:
                    written = appended(transaction.get(key), append, now_ms, self._bounds)
                except StoreError as error:
                    results.append(error)
                    continue
                results.append(written.answer)
                if written.record is not None:
                    transaction.put(key, written.record)
                    newest = max(newest, written.until_ms)
            transaction.put(_UNTIL, _MILLISECONDS.pack(newest))
        return results

    def _get(self, user: int) -> tuple[bytes | None, int]:
        with self._environment.begin() as transaction:
            return transaction.get(_USER.pack(user)), _until(transaction.get(_UNTIL))

    def _page(self, after: int) -> list[int]:
        with self._environment.begin() as transaction:
            cursor = transaction.cursor()
            found: list[int] = []
            if cursor.set_range(_USER.pack(after + 1)):
                for key in cursor.iternext(keys=True, values=False):
                    if len(key) == _USER.size:
                        found.append(_USER.unpack(key)[0])
                    if len(found) == _PAGE:
                        break
            return found

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except lmdb.MapFullError as error:
            raise FullError("the volume of histories is full: raise spec.serving.histories.embedded.size") from error
        except lmdb.CorruptedError as error:
            raise CorruptError(str(error)) from error
        except (lmdb.Error, RuntimeError) as error:  # RuntimeError: it is closed
            raise DownError(str(error)) from error


def _until(value: bytes | None) -> int:
    return int(_MILLISECONDS.unpack(value)[0]) if value is not None else 0
