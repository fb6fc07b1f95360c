"""The items a version knows: raw ids to dense indices, and content vectors, in ``items.safetensors``. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recast_api.run import RecastError

ITEMS_FILE = "items.safetensors"


@dataclass(frozen=True)
class ItemTable:
    """I items. Dense index i + 1 belongs to ``ids[i]``; index 0 is every item that the table does not know."""

    ids: NDArray[np.int64]  # (I,) raw ids, ascending
    content: NDArray[np.float32]  # (I, C)

    def __post_init__(self) -> None:
        if self.content.ndim != 2 or len(self.content) != len(self.ids):
            raise ValueError(f"content {self.content.shape} does not hold one vector for each of {len(self.ids)} items")
        if (np.diff(self.ids) <= 0).any():
            raise ValueError("item ids must ascend without repetition")

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, raw: NDArray[np.int64]) -> NDArray[np.int64]:
        """Dense indices of raw ids, of any shape; 0 for the unknown."""
        if not len(self.ids):
            return np.zeros(raw.shape, np.int64)
        place = np.minimum(np.searchsorted(self.ids, raw), len(self.ids) - 1)
        return np.where(self.ids[place] == raw, place + 1, 0)

    def content_matrix(self) -> NDArray[np.float32]:
        """(I + 1, C) by dense index; row 0, the unknown item, is zero."""
        return np.concatenate([np.zeros((1, self.content.shape[1]), np.float32), self.content])

    def without(self, known: ItemTable) -> ItemTable:
        """The items that ``known`` does not have."""
        new = known.index(self.ids) == 0
        return ItemTable(self.ids[new], self.content[new])

    def save(self, folder: Path) -> str:
        """Write the table; returns the file's name."""
        save_file({"ids": self.ids, "content": self.content}, folder / ITEMS_FILE)
        return ITEMS_FILE

    @classmethod
    def load(cls, folder: Path) -> ItemTable:
        """Read the table of a version. Raises ``ArtifactTruncated`` where the file is damaged."""
        tensors = read_tensors(folder / ITEMS_FILE, ("ids", "content"))
        return cls(tensors["ids"], tensors["content"])


@dataclass(frozen=True)
class ExtendedItems:
    """A version's items, and behind them others that it has no row for: what is known of those is their content.

    Dense index ``len(own) + i + 1`` belongs to ``new.ids[i]``, for a model that was given ``new.content``
    (:meth:`recast_model.tokens.TokenEncoder.extend`). Those of the version's items are as without the others.
    """

    own: ItemTable
    new: ItemTable  # of none of the same ids

    def index(self, raw: NDArray[np.int64]) -> NDArray[np.int64]:
        """Dense indices of raw ids, of any shape; 0 for those that neither table knows."""
        own, new = self.own.index(raw), self.new.index(raw)
        return np.where(new > 0, len(self.own) + new, own)


def read_tensors(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The named arrays of a safetensors file. Raises ``ArtifactTruncated`` or ``ArtifactMissing``."""
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise RecastError("ArtifactMissing", f"{path} is not there: restore it or land a new version") from error
    except SafetensorError as error:
        raise RecastError(
            "ArtifactTruncated", f"{path} cannot be read ({error}): restore it or land a new version"
        ) from error
    missing = [name for name in names if name not in tensors]
    if missing:
        raise RecastError("ArtifactTruncated", f"{path} lacks {', '.join(missing)}: land a new version")
    return tensors
