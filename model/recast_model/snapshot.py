"""Users' histories as a version ships them: ``history.safetensors``, jagged, by raw user id. NumPy only.

A server answers from it where a request brings no history of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from recast_model.history import Histories, History, Ints
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
    def of(cls, histories: Histories, limit: int, until_ms: int, surface: int | None = None) -> HistorySnapshot:
        """Every user's window of ``limit`` events; on one ``surface`` exactly where histories are kept by surface.

        Raises ``ValueError`` where only one of both is so.
        """
        if histories.by_surface != (surface is not None):
            raise ValueError("histories by surface give a snapshot of one surface, whole ones a snapshot of all")
        users = np.unique(histories.users)
        surfaces = np.full_like(users, 0 if surface is None else surface)
        starts, lengths = histories.window(users, surfaces, np.full_like(users, until_ms), limit)
        keep = lengths > 0
        users, starts, lengths = users[keep], starts[keep], lengths[keep]
        offsets: Ints = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return cls(users, offsets, histories.events.take(index), until_ms)

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
