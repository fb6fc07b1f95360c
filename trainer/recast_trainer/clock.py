"""Instants: integer milliseconds since 1970 inside, RFC 3339 in UTC on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recast_api.base import duration_seconds, timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_rfc3339(milliseconds: int) -> str:
    """``2026-11-21T12:00:00.000Z``."""
    instant = _EPOCH + timedelta(milliseconds=milliseconds)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


def from_rfc3339(text: str) -> int:
    """Milliseconds since 1970."""
    delta = datetime.fromisoformat(text) - _EPOCH
    return delta // timedelta(milliseconds=1)


def duration_ms(text: str) -> int:
    """Milliseconds in a duration such as ``90s`` or ``30d``."""
    return 1000 * duration_seconds(text)


def now() -> str:
    """The wall clock, for ``created`` stamps alone: nothing that is learned depends on it."""
    return timestamp(datetime.now(UTC))
