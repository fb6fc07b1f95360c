"""A loaded foundation version. Imports PyTorch; lives on the model thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.manifest import Manifest
from recast_model.artifact import load_foundation
from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.inference import TAE_DTYPE, embed
from recast_server.foundation.service import CANDIDATES, FoundationMetadata
from recast_server.runtime.inputs import Event, RequestEncoder


class FoundationEngine:
    """Implements :class:`recast_server.foundation.service.Engine` with the function that wrote the TAE log."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        loaded = load_foundation(folder, manifest)
        config = loaded.config
        self._model = loaded.model
        self._history_length = config.history_length
        self._encoder = RequestEncoder(loaded.items, loaded.history, config.surfaces, config.tasks)
        self.metadata = FoundationMetadata(
            model=manifest.model,
            version=manifest.number,
            lineage=manifest.lineage,
            digest=manifest.digest,
            dim=config.tae_dim,
            dtype=torch.empty(0, dtype=TAE_DTYPE).numpy().dtype,
            surfaces=config.surfaces,
            tasks=config.tasks,
        )

    def tae(
        self, user: int, surface: str, time_ms: int, candidates: Sequence[int], history: Sequence[Event] | None
    ) -> NDArray[np.floating]:
        """See ``Engine``."""
        request = self._encoder.encode(user, surface, time_ms, candidates, history)
        batch = RequestBatch.from_arrays(collate([request], self._history_length))
        tae = embed(self._model, batch)  # (1, M, D)
        rows: NDArray[np.floating] = tae[0].contiguous().numpy()
        return rows

    def warm_up(self) -> None:
        """Runs the smallest and the largest request once, so that the first real one meets warm memory."""
        surface = self._encoder.surfaces[0]
        longest = [Event(0, surface, time_ms, ()) for time_ms in range(self._history_length)]
        for count in (1, 16, CANDIDATES):
            self.tae(0, surface, self._history_length, [0] * count, longest)
