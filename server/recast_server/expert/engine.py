"""A loaded expert version. Imports PyTorch; lives on the model thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api import server as contract
from recast_api.manifest import Manifest
from recast_api.run import RecastError
from recast_api.server import ExpertServerConfig
from recast_model.artifact import load_expert
from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.inference import score
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import CANDIDATES, HistoryEvent, RankRequest
from recast_server.runtime.inputs import Event, RequestEncoder


class ExpertEngine:
    """Implements :class:`recast_server.expert.model_ranker.Engine`."""

    def __init__(self, folder: Path, manifest: Manifest, served: ExpertServerConfig) -> None:
        loaded = load_expert(folder, manifest)
        config = loaded.config
        if config.surface != served.surface:
            raise RecastError(
                "SurfaceMismatch",
                f"{served.model} is configured for surface {served.surface}, but v{manifest.number} was trained on"
                f" {config.surface}: point the pod at a version of that surface",
            )
        self._model = loaded.model
        self._surface = config.surface
        self._history_length = config.history_length
        self._tasks = [task.name for task in config.tasks]
        self._encoder = RequestEncoder(loaded.items, loaded.history, config.surfaces, config.event_tasks)
        self.tae_dim = config.tae_dim
        # (T,) The weights of the resource as it is now, not as it was when the version trained: a team may change them.
        weights = {task.name: float(task.weight) for task in served.tasks}
        self._weights = np.array([weights.get(task.name, task.weight) for task in config.tasks])

    def rank(self, request: RankRequest, time_ms: int, tae: NDArray[np.floating] | None) -> Ranking:
        """See ``Engine``."""
        history = None
        if request.history is not None:
            history = [Event(e.item, e.surface, e.time, e.actions, e.available_at) for e in request.history]
        asked = self._encoder.encode(request.user, self._surface, time_ms, request.candidates, history)
        batch = RequestBatch.from_arrays(collate([asked], self._history_length, surface_only=True))
        given = np.zeros((len(request.candidates), self.tae_dim), np.float32) if tae is None else tae
        # A copy, because the bytes of a reply cannot be written to.
        vectors = torch.from_numpy(np.array(given, np.float32)).unsqueeze(0)  # (1, M, D)
        logits = score(self._model, batch, vectors, torch.tensor([tae is not None]))[0]  # (M, T)
        probabilities = torch.sigmoid(logits).double().numpy()
        return Ranking(
            scores=(probabilities @ self._weights).tolist(),
            probabilities={task: probabilities[:, column].tolist() for column, task in enumerate(self._tasks)},
            unknown_items=RequestEncoder.unknown_items(request.candidates, asked.candidates),
            tae=contract.TAE_ABSENT if tae is None else contract.TAE_FRESH,
        )

    def warm_up(self) -> None:
        """Runs the smallest and the largest request once, with and without embeddings."""
        past = [
            HistoryEvent(item=0, surface=self._surface, time=time_ms, actions=[])
            for time_ms in range(self._history_length)
        ]
        for count in (1, 16, CANDIDATES):
            request = RankRequest(user=0, candidates=[0] * count, history=past)
            self.rank(request, self._history_length, None)
            self.rank(request, self._history_length, np.zeros((count, self.tae_dim), np.float16))
