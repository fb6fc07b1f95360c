"""Instants as they stand in a status: UTC, RFC 3339, whole seconds."""

from __future__ import annotations

from datetime import datetime

from recast_api.base import timestamp


def stamp(now: datetime) -> str:
    """``2026-11-21T12:00:00Z``."""
    return timestamp(now)


def parse(text: str) -> datetime:
    """The instant that :func:`stamp` or the apiserver wrote."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def elapsed(since: str, now: datetime) -> float:
    """Seconds from ``since`` to ``now``; negative where ``since`` lies ahead."""
    return (now - parse(since)).total_seconds()


def not_ahead(since: str, now: datetime) -> str:
    """``since``, or ``now`` where that lies before it: the clock was set back, and no wait may grow by that."""
    return since if elapsed(since, now) >= 0 else stamp(now)


def earliest(*waits: float | None) -> float | None:
    """The shortest of these waits in seconds; None where nothing is waited for."""
    return min((wait for wait in waits if wait is not None), default=None)
