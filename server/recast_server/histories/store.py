"""The seam to where histories are kept: read this file first; a store is what :class:`HistoryStore` says.

A store that cannot answer raises one of the errors below, each with a ``reason`` that metrics and logs name. What a
request does then is :mod:`recast_server.histories.reader`'s to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from recast_server.histories.user_history import UserHistory
from recast_server.runtime.events import Events

EVENTS_AN_APPEND = 1024
KEY_LENGTH = 128
AHEAD_MILLISECONDS = 5 * 60 * 1000
"""How far clocks may differ: nobody knows now what becomes known later than that."""
REMEMBERED_APPENDS = 64
REMEMBERED_SECONDS = 24 * 3600
"""An append sent again is known by its key while it is among the last 64 of its user and not older than a day."""


@dataclass(frozen=True)
class Read:
    """What a store has of a user."""

    history: UserHistory
    until_ms: int
    """What became known before this is in the store, so far as its writers append in order. 0 for an empty store."""


@dataclass(frozen=True)
class Behind:
    """The store has not yet what was asked for."""

    sequence: int
    """As far as it is."""


@dataclass(frozen=True)
class Append:
    """Events of one user that became known, and the name under which its sender may send them again."""

    user: int
    events: Events
    key: str
    before: UserHistory | None = None
    """What the user had done before, elsewhere: only who is not in the store yet is taken in, and begins with it."""


@dataclass(frozen=True)
class Appended:
    """An append that is in the store."""

    sequence: int
    total: int
    """Events of the user, ever."""
    repeated: bool = False
    """Whether an earlier call had made it."""


class StoreError(Exception):
    """A store did not do what it was asked."""

    reason: ClassVar[str] = "down"


class DownError(StoreError):
    """It cannot be reached, or it failed."""


class CorruptError(StoreError):
    """It gave what no store of histories holds: damaged, another user's, or out of order."""

    reason = "corrupt"


class ConflictError(StoreError):
    """The key of an append was used for other events."""

    reason = "conflict"


class RefusedAppendError(StoreError):
    """The events cannot be kept, now or later."""

    reason = "refused"


class FullError(StoreError):
    """There is no room."""

    reason = "full"


class ReadOnlyError(StoreError):
    """This store takes no events."""

    reason = "readonly"


class HistoryStore(Protocol):
    """Users' histories. Every method may raise :class:`StoreError`, and may be cancelled at any time."""

    @property
    def writable(self) -> bool:
        """Whether it takes appends."""
        ...

    async def read(self, user: int, at_least_sequence: int | None = None) -> Read | Behind:
        """The user's history, of that append or a later one. A user never heard of has an empty one."""
        ...

    async def append(self, append: Append, now_ms: int) -> Appended:
        """Adds events, all or none, and once: a call with a remembered key and the same events changes nothing.

        When it returns, the append is as durable as the store says. Raises :class:`ConflictError`,
        :class:`RefusedAppendError`, :class:`FullError` and :class:`ReadOnlyError`.
        """
        ...

    def users(self) -> AsyncIterator[int]:
        """Everyone it has a history of, in any order, each at least once."""
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...
