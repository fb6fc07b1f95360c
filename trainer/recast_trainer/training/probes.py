"""Requests from all along a run, kept with the TAE that they were given, to be embedded once more at its end.

How like the two are tells from when on the foundation's embedding was what it is now
(:mod:`recast_trainer.evaluation.burnin`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from recast_model.foundation import FoundationModel
from recast_model.items import ItemTable
from recast_trainer.data.requests import Requests
from recast_trainer.evaluation.burnin import similarity
from recast_trainer.evaluation.scoring import RequestTae, computed
from recast_trainer.files import replace, sync_file
from recast_trainer.training.process_group import ProcessGroup

PROBES = 64
"""Requests of each segment."""
MIN_ROWS = 16
"""With fewer, what rows do not have in common tells nothing of an embedding."""
FOLDER = "probes"


class Probes:
    """One file a segment, which the leader writes and reads."""

    def __init__(self, folder: Path, group: ProcessGroup) -> None:
        self.folder, self.group = folder, group

    def keep(self, index: int, requests: Requests, tae: NDArray[np.float16]) -> None:
        """Keep some of a segment's requests, from all over it, with their TAE (R, D): inputs, no prediction."""
        if not self.group.is_leader:
            return
        chosen = np.arange(len(requests))[:: max(1, len(requests) // PROBES)][:PROBES]
        values = RequestTae(tae, np.ones(len(requests), np.bool_)).take(requests, chosen).values
        if len(values) < MIN_ROWS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._path(index).with_suffix(".tmp")
        save_file(requests.take(chosen).arrays() | {"tae": np.ascontiguousarray(values)}, temporary)
        sync_file(temporary)
        replace(temporary, self._path(index))

    def similarities(self, model: FoundationModel, items: ItemTable, segments: range) -> list[float]:
        """For each of these segments, how like the model's TAE theirs were; the same on every process.

        A segment with too few rows to tell counts as the next one that has enough.
        """
        result: list[float] = []
        for index in reversed(segments):
            kept = self.group.broadcast(self._read(index))
            if kept:
                arrays = load(kept)
                now = computed(model, Requests.from_arrays(arrays), items, self.group).values
                result.append(similarity(arrays["tae"].astype(np.float32), now.astype(np.float32)))
            else:
                result.append(result[-1] if result else 1.0)
        return result[::-1]

    def _read(self, index: int) -> bytes:
        return self._path(index).read_bytes() if self.group.is_leader and self._path(index).exists() else b""

    def clear(self) -> None:
        """Forget those of an earlier attempt."""
        if self.group.is_leader:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"
