"""Users' histories as a version ships them: ``history.safetensors``, jagged, by raw user id. NumPy only.

A server answers from it where a request brings no history of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recast_model.history import History, Ints
from recast_model.items import read_tensors

HISTORY_FILE = "history.safetensors"
_TYPES = {"items": np.int32, "surfaces": np.uint8, "actions": np.uint32, "times": np.int64, "available": np.int64}
"""Columns of events as a version ships them: a server holds all users' in memory."""
_NAMES = ("users", "offsets", "items", "surfaces", "actions", "times", "until")


@dataclass(frozen=True)
class HistorySnapshot:
    """U users' windows: of the events that a request at ``until`` would see, those that its version reads."""

    users: NDArray[np.int64]  # (U,) raw ids, ascending
    offsets: NDArray[np.int64]  # (U + 1,)
    events: History  # offsets[-1] events, of any integer types
    until: int  # ms

    @classmethod
    def of(cls, users: Ints, events: History, lengths: Ints, until_ms: int) -> HistorySnapshot:
        """The windows of these users (U,), ascending: ``events``, window after window, and their ``lengths`` (U,).

        Users of whom nothing is known are left out.
        """
        keep = lengths > 0
        compact = History(*(getattr(events, name).astype(kind) for name, kind in _TYPES.items()))
        return cls(users[keep], np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64), compact, until_ms)

    @classmethod
    def concatenate(cls, parts: Sequence[HistorySnapshot], until_ms: int) -> HistorySnapshot:
        """The users of several snapshots, those of a later one above those of an earlier one."""
        if not parts:
            return cls(np.empty(0, np.int64), np.zeros(1, np.int64), History.empty(), until_ms)
        begins = np.cumsum([0, *(len(part.events) for part in parts)])
        return cls(
            np.concatenate([part.users for part in parts]),
            np.concatenate([[0], *(part.offsets[1:] + begin for part, begin in zip(parts, begins, strict=False))]),
            History.concatenate([part.events for part in parts]),
            until_ms,
        )

    def lookup(self, user: int) -> History:
        """The user's window; empty for a user never seen."""
        window = self._slice(user)
        return self.events.take(window).map(lambda values: values.astype(np.int64)) if window else History.empty()

    def length(self, user: int) -> int:
        """Events in the user's window."""
        window = self._slice(user)
        return window.stop - window.start if window else 0

    def _slice(self, user: int) -> slice | None:
        place = int(np.searchsorted(self.users, user))
        if place == len(self.users) or self.users[place] != user:
            return None
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def save(self, folder: Path) -> str:
        """Write the snapshot; returns the file's name."""
        arrays = {
            "users": self.users,
            "offsets": self.offsets,
            "items": self.events.items,
            "surfaces": self.events.surfaces,
            "actions": self.events.actions,
            "times": self.events.times,
            "available": self.events.available,
            "until": np.array([self.until], np.int64),
        }
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / HISTORY_FILE)
        return HISTORY_FILE

    @classmethod
    def load(cls, folder: Path) -> HistorySnapshot:
        """Read the snapshot of a version. Raises ``ArtifactTruncated`` where the file is damaged."""
        t = read_tensors(folder / HISTORY_FILE, _NAMES)
        # Versions that landed before events had two times go on serving.
        events = History(t["items"], t["surfaces"], t["actions"], t["times"], t.get("available", t["times"]))
        return cls(t["users"], t["offsets"], events, int(t["until"][0]))
