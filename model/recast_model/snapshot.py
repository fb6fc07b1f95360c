"""Users' histories as a version ships them: ``history.safetensors``, jagged, by raw user id. NumPy only.

A server answers from it where a request brings no history of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recast_model.history import History, Ints
from recast_model.items import read_tensors

HISTORY_FILE = "history.safetensors"
_NAMES = ("users", "offsets", "items", "surfaces", "actions", "times", "until")


@dataclass(frozen=True)
class HistorySnapshot:
    """U users' windows: of the events that a request at ``until`` would see, those that its version reads."""

    users: NDArray[np.int64]  # (U,) raw ids, ascending
    offsets: NDArray[np.int64]  # (U + 1,)
    events: History  # offsets[-1] events
    until: int  # ms

    @classmethod
    def of(cls, users: Ints, events: History, lengths: Ints, until_ms: int) -> HistorySnapshot:
        """The windows of these users (U,), ascending: ``events``, window after window, and their ``lengths`` (U,).

        Users of whom nothing is known are left out.
        """
        keep = lengths > 0
        return cls(users[keep], np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64), events, until_ms)

    def lookup(self, user: int) -> History:
        """The user's window; empty for a user never seen."""
        place = int(np.searchsorted(self.users, user))
        if place == len(self.users) or self.users[place] != user:
            return History.empty()
        return self.events.take(slice(int(self.offsets[place]), int(self.offsets[place + 1])))

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
