"""Events and ids on the wire: columns of bytes, copied in and out and never parsed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recast_model.history import Ints
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.events import Events

_INT64 = np.dtype("<i8")
ID_BYTES = _INT64.itemsize


def pack(events: Events) -> wire.Events:
    """The message of these events."""
    known_late = events.available_ms is not events.time_ms and (events.available_ms != events.time_ms).any()
    return wire.Events(
        item=pack_ids(events.item),
        surface=pack_ids(events.surface),
        actions=pack_ids(events.actions),
        time_milliseconds=pack_ids(events.time_ms),
        available_at_milliseconds=pack_ids(events.available_ms) if known_late else b"",
        surfaces=events.surfaces,
        tasks=events.tasks,
    )


def pack_ids(ids: Sequence[int] | Ints) -> bytes:
    """The bytes of ids (N,)."""
    return np.asarray(ids, _INT64).tobytes()


def unpack(message: wire.Events) -> Events:
    """The events of a message. Raises :class:`ValueError` as :class:`Events` does."""
    time_ms = unpack_ids(message.time_milliseconds)
    late = message.available_at_milliseconds
    return Events(
        unpack_ids(message.item),
        unpack_ids(message.surface),
        unpack_ids(message.actions),
        time_ms,
        unpack_ids(late) if late else time_ms,
        tuple(message.surfaces),
        tuple(message.tasks),
    )


def unpack_ids(data: bytes) -> Ints:
    """The ids (N,) of bytes. Raises :class:`ValueError` where they are no whole numbers of ids."""
    return np.frombuffer(data, _INT64).astype(np.int64, copy=False)


def unpack_messages(message: wire.History) -> Events:
    """The events of a history of an older expert, a message an event. Raises as :func:`unpack` does."""
    events = message.events
    return Events.named(
        [event.item for event in events],
        [event.surface for event in events],
        [event.actions for event in events],
        [event.time_milliseconds for event in events],
        [event.available_at_milliseconds if event.HasField("available_at_milliseconds") else None for event in events],
    )
