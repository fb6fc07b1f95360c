"""A user's history as bytes: packed columns, a few bytes an event. Pure.

An event becomes known after those before it, by a gap that is small, and after it happened, by a delay that is mostly
0; each column is stored in the fewest bytes that hold its largest value. A checksum guards all of it, and the first
:data:`STAMP` bytes change with every append, so that a store can tell whether a record is still the one that was read.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recast_model.history import Ints
from recast_server.histories.user_history import UserHistory
from recast_server.runtime.events import Events

_MAGIC = b"RUH1"
_HEAD = struct.Struct("<4sIQ")
"""Magic, checksum of what follows it, sequence."""
_BODY = struct.Struct("<QQIIqqHH")
"""User, total, tail, events, first item, first time known (ms), bytes of names, appends remembered."""
_WIDTHS = struct.Struct("<5B")
_APPLIED = struct.Struct("<16s8sII")
_CHECKED = 8
STAMP = _HEAD.size


class CorruptRecordError(Exception):
    """The bytes are not a history that was packed here."""


@dataclass(frozen=True)
class Applied:
    """An append that is remembered, so that it is not made twice."""

    key: bytes  # 16 bytes
    content: bytes  # 8 bytes
    sequence: int
    seconds: int
    """When it was made, since 1970."""


def pack(history: UserHistory, applied: tuple[Applied, ...]) -> bytes:
    """The record of a user."""
    events = history.events
    first_item, first_known = (int(events.item.min()), int(events.available_ms[0])) if len(events) else (0, 0)
    columns = [
        events.item - first_item,
        events.surface,
        events.actions,
        np.diff(events.available_ms, prepend=first_known),
        events.available_ms - events.time_ms,
    ]
    widths = [_width(column) for column in columns]
    names = json.dumps([events.surfaces, history.surface_totals, events.tasks], ensure_ascii=False).encode()
    sizes = (len(names), len(applied))
    parts = [
        _BODY.pack(history.user, history.total, history.tail, len(events), first_item, first_known, *sizes),
        _WIDTHS.pack(*widths),
        names,
        *(_APPLIED.pack(each.key, each.content, each.sequence, each.seconds) for each in applied),
        *(column.astype(f"<u{width}").tobytes() for column, width in zip(columns, widths, strict=True) if width),
    ]
    checked = struct.pack("<Q", history.sequence) + b"".join(parts)
    return _MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked


def unpack(record: bytes, user: int) -> UserHistory:
    """The history in a user's record. Raises :class:`CorruptRecordError` where it is damaged, or another user's."""
    try:
        sequence, body, rest = _checked(record)
        owner, total, tail, count, first_item, first_known, names_size, applied = body
        if owner != user:
            raise CorruptRecordError(f"the record of user {user} is that of user {owner}")
        widths = _WIDTHS.unpack_from(rest)
        surfaces, totals, tasks = json.loads(rest[_WIDTHS.size : _WIDTHS.size + names_size])
        place = _WIDTHS.size + names_size + applied * _APPLIED.size
        columns: list[Ints] = []
        for width in widths:
            raw: NDArray[Any] = np.frombuffer(rest, f"<u{width}", count, place) if width else np.zeros(count, np.int64)
            columns.append(raw.astype(np.int64))
            place += width * count
        if place != len(rest):
            raise CorruptRecordError(f"the record of user {user} has {len(rest)} bytes, and should have {place}")
        item, surface, actions, gaps, delays = columns
        known = first_known + np.cumsum(gaps)
        events = Events(item + first_item, surface, actions, known - delays, known, tuple(surfaces), tuple(tasks))
        return UserHistory(user, sequence, total, tail, events, tuple(totals))
    except (ValueError, TypeError, struct.error) as error:
        raise CorruptRecordError(f"the record of user {user} cannot be read: {error}") from error


def unpack_applied(record: bytes) -> tuple[Applied, ...]:
    """The appends that a record remembers, oldest first. Raises :class:`CorruptRecordError`."""
    try:
        _, (*_, names_size, count), rest = _checked(record)
        begin = _WIDTHS.size + names_size
        found = _APPLIED.iter_unpack(rest[begin : begin + count * _APPLIED.size])
        return tuple(Applied(*each) for each in found)
    except struct.error as error:
        raise CorruptRecordError(f"a record cannot be read: {error}") from error


def _checked(record: bytes) -> tuple[int, tuple[Any, ...], bytes]:
    """Sequence, body and what follows them."""
    if len(record) < _HEAD.size + _BODY.size + _WIDTHS.size:
        raise CorruptRecordError(f"a record of {len(record)} bytes is too short")
    magic, checksum, sequence = _HEAD.unpack_from(record)
    if magic != _MAGIC or zlib.crc32(record[_CHECKED:]) != checksum:
        raise CorruptRecordError("a record is damaged, or was not written by this release or an earlier one")
    return sequence, _BODY.unpack_from(record, _HEAD.size), record[_HEAD.size + _BODY.size :]


def _width(column: Ints) -> int:
    """The fewest bytes that hold every value, which is not negative: 0 where all are 0."""
    largest = int(column.max(initial=0))
    return next(width for width in (0, 1, 2, 4, 8) if largest < 1 << 8 * width)
