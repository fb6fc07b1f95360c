"""A loaded expert version. Imports PyTorch; computes on the model thread alone."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recast_api import server as contract
from recast_api.manifest import Manifest
from recast_api.run import RecastError
from recast_api.server import ExpertServerConfig
from recast_model.artifact import load_expert
from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.inference import score
from recast_model.items import ExtendedItems, ItemTable
from recast_server.expert.model_ranker import Embedded
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import CANDIDATES
from recast_server.runtime.cost import Sample
from recast_server.runtime.inputs import Query, RequestEncoder, padded_to
from recast_server.runtime.warmup import measure, probe

_log = logging.getLogger("recast.engine")


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
        self._model, self._config = loaded.model, config
        self.items = loaded.items
        self.tasks = tuple(task.name for task in config.tasks)
        self._encoder = RequestEncoder(
            loaded.items, loaded.history, config.surfaces, config.event_tasks, config.context
        )
        self.tae_dim = config.tae_dim
        self.history_length, self.histories = config.history_length, loaded.history
        self.context = config.context
        # (T,) The weights of the resource as it is now, not as it was when the version trained: a team may change them.
        weights = {task.name: float(task.weight) for task in served.tasks}
        self._weights = np.array([weights.get(task.name, task.weight) for task in config.tasks])

    def units(self, asked: Embedded) -> float:
        """See ``Engine``: floating-point operations."""
        return self._encoder.flops(asked.query, self._config)

    def shape(self, asked: Embedded) -> Hashable:
        """See ``Engine``: candidates are padded, histories are not."""
        return padded_to(len(asked.query.candidates))

    def run(self, asked: Sequence[Embedded]) -> list[Ranking]:
        """See ``Engine``."""
        rankings = self._rank(asked)
        # Embeddings so large that the network overflows on them are none.
        again = [place for place, one in enumerate(asked) if one.tae is not None and not rankings[place].finite]
        if again:
            _log.error("the foundation's embeddings give scores that are not finite; ranked without them")
            without = self._rank([Embedded(asked[place].query, None) for place in again])
            for place, ranking in zip(again, without, strict=True):
                rankings[place] = ranking
        return rankings

    def _rank(self, asked: Sequence[Embedded]) -> list[Ranking]:
        requests = [self._encoder.encode(one.query) for one in asked]
        batch = RequestBatch.from_arrays(collate(requests, self._config.history_length, surface_only=True))
        given = np.zeros((*batch.candidates.shape, self.tae_dim), np.float32)  # (B, M, D)
        for rows, one in zip(given, asked, strict=True):
            if one.tae is not None:
                rows[: len(one.tae)] = one.tae
        present = torch.tensor([one.tae is not None for one in asked])
        logits = score(self._model, batch, torch.from_numpy(given), present)  # (B, M, T)
        probabilities = torch.sigmoid(logits).double().numpy()
        scores = probabilities @ self._weights  # (B, M)
        return [
            Ranking(
                scores=scores[place, : len(one.query.candidates)].tolist(),
                probabilities={
                    task: probabilities[place, : len(one.query.candidates), column].tolist()
                    for column, task in enumerate(self.tasks)
                },
                unknown_items=RequestEncoder.unknown_items(one.query.candidates, requests[place].candidates),
                tae=contract.TAE_ABSENT if one.tae is None else one.source,
                unknown_context=self._encoder.unknown_context(one.query.context),
            )
            for place, one in enumerate(asked)
        ]

    def extend(self, new: ItemTable) -> None:
        """See ``Extendable``."""
        self._model.tokens.extend(torch.from_numpy(new.content))
        self._encoder = replace(self._encoder, items=ExtendedItems(self.items, new))

    def warm_up(self) -> list[Sample]:
        """Runs small and large requests, with and without embeddings, and measures those with."""
        surface, length = self._config.surface, self._config.history_length

        def embedded(query: Query) -> Embedded:
            return Embedded(query, np.zeros((len(query.candidates), self.tae_dim), np.float16))

        self.run([Embedded(probe(surface, length, CANDIDATES), None)])
        return measure(self, embedded, surface, length, CANDIDATES)
