"""Users' histories as a version ships them: ``history.safetensors``, jagged, by raw user id. NumPy only.

A server answers from it where a request brings no history of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recast_model.features import History
from recast_model.items import read_tensors

HISTORY_FILE = "history.safetensors"
_NAMES = ("users", "offsets", "items", "surfaces", "actions", "times", "until")


@dataclass(frozen=True)
class HistorySnapshot:
    """U users' windows, each oldest first: those events that were available at ``until``."""

    users: NDArray[np.int64]  # (U,) raw ids, ascending
    offsets: NDArray[np.int64]  # (U + 1,)
    events: History  # offsets[-1] events
    until: int  # ms

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
            "until": np.array([self.until], np.int64),
        }
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / HISTORY_FILE)
        return HISTORY_FILE

    @classmethod
    def load(cls, folder: Path) -> HistorySnapshot:
        """Read the snapshot of a version. Raises ``ArtifactTruncated`` where the file is damaged."""
        t = read_tensors(folder / HISTORY_FILE, _NAMES)
        events = History(t["items"], t["surfaces"], t["actions"], t["times"])
        return cls(t["users"], t["offsets"], events, int(t["until"][0]))
