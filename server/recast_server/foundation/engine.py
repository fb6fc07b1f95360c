"""A loaded foundation version. Imports PyTorch; computes on the model thread alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
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
from recast_server.runtime.cost import Sample
from recast_server.runtime.inputs import Query, RequestEncoder, padded_to
from recast_server.runtime.warmup import measure


class FoundationEngine:
    """Implements :class:`recast_server.foundation.service.Engine` with the function that wrote the TAE log."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        loaded = load_foundation(folder, manifest)
        config = loaded.config
        self._model, self._config = loaded.model, config
        self._encoder = RequestEncoder(loaded.items, loaded.history, config.surfaces, config.tasks, config.context)
        self.metadata = FoundationMetadata(
            model=manifest.model,
            version=manifest.number,
            lineage=manifest.lineage,
            digest=manifest.digest,
            dim=config.tae_dim,
            dtype=torch.empty(0, dtype=TAE_DTYPE).numpy().dtype,
            surfaces=config.surfaces,
            tasks=config.tasks,
            cursor_ms=int(datetime.fromisoformat(manifest.watermark).timestamp() * 1000),
        )

    def units(self, query: Query) -> float:
        """See ``Engine``: floating-point operations."""
        return self._encoder.flops(query, self._config)

    def shape(self, query: Query) -> Hashable:
        """See ``Engine``: candidates are padded, histories are not."""
        return padded_to(len(query.candidates))

    def run(self, queries: Sequence[Query]) -> list[NDArray[np.floating]]:
        """See ``Engine``."""
        asked = [self._encoder.encode(query) for query in queries]
        tae = embed(self._model, RequestBatch.from_arrays(collate(asked, self._config.history_length)))  # (B, M, D)
        return [rows[: len(query.candidates)].numpy() for rows, query in zip(tae.contiguous(), queries, strict=True)]

    def warm_up(self) -> list[Sample]:
        """Runs small and large requests, so that the first real one meets warm memory, and measures them."""
        return measure(self, lambda query: query, self._config.surfaces[0], self._config.history_length, CANDIDATES)
