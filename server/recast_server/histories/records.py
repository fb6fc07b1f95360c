"""What an append makes of a user's record. Pure: stores read bytes, call this and write bytes, atomically."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from recast_server.histories.packing import Applied, CorruptRecordError, pack, unpack, unpack_applied
from recast_server.histories.store import (
    REMEMBERED_APPENDS,
    REMEMBERED_SECONDS,
    Append,
    Appended,
    ConflictError,
    CorruptError,
    RefusedAppendError,
)
from recast_server.histories.user_history import COLUMNS, Bounds, UserHistory


@dataclass(frozen=True)
class Written:
    """What to write in place of a record, and what to answer once that is done."""

    record: bytes | None
    """None where nothing changes."""
    until_ms: int
    """When the newest of these events became known; never in the future."""
    answer: Appended


def history_in(record: bytes | None, user: int) -> UserHistory:
    """The history in a user's record; empty without one. Raises :class:`CorruptError`."""
    try:
        return UserHistory(user) if record is None else unpack(record, user)
    except CorruptRecordError as error:
        raise CorruptError(str(error)) from error


def appended(record: bytes | None, append: Append, now_ms: int, bounds: Bounds) -> Written:
    """The record with the events in it. Raises as :meth:`recast_server.histories.store.HistoryStore.append`."""
    history, seconds = history_in(record, append.user), now_ms // 1000
    if append.before is not None:
        if record is not None:
            return Written(None, 0, Appended(history.sequence, history.total, repeated=True))
        history = append.before
    remembered = () if record is None else unpack_applied(record)
    key, content = hashlib.blake2b(append.key.encode(), digest_size=16).digest(), _digest(append)
    for each in remembered:
        if each.key == key and seconds - each.seconds <= REMEMBERED_SECONDS:
            if each.content != content:
                raise ConflictError(f"the key {append.key!r} was used for other events of user {append.user}")
            return Written(None, 0, Appended(each.sequence, history.total, repeated=True))
    try:
        grown = history.with_events(append.events, bounds)
    except ValueError as error:
        raise RefusedAppendError(str(error)) from error
    recent = [each for each in remembered if seconds - each.seconds <= REMEMBERED_SECONDS and each.key != key]
    applied = (*recent[-(REMEMBERED_APPENDS - 1) :], Applied(key, content, grown.sequence, seconds))
    known = [append.events, *([append.before.events] if append.before is not None else [])]
    until_ms = min(max(int(events.available_ms.max(initial=0)) for events in known), now_ms)
    return Written(pack(grown, applied), until_ms, Appended(grown.sequence, grown.total))


def _digest(append: Append) -> bytes:
    events = append.events
    tasks = sorted(events.tasks)  # in whatever order a sender names them
    actions = sum(
        ((events.actions >> events.tasks.index(name) & 1) << bit for bit, name in enumerate(tasks)),
        start=np.zeros(len(events), np.int64),
    )
    digest = hashlib.blake2b(repr((events.surfaces, tuple(tasks))).encode(), digest_size=8)
    for name in COLUMNS:
        digest.update((actions if name == "actions" else getattr(events, name)).tobytes())
    return digest.digest()
