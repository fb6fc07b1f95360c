"""A loaded foundation version, with the keys and values that it keeps. Imports PyTorch.

It computes on the model thread alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.manifest import Manifest
from recast_model.artifact import load_foundation
from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.flops import forward_flops
from recast_model.history import Ints, anchored_start
from recast_model.incremental import IncrementalFoundation
from recast_model.inference import TAE_DTYPE
from recast_model.items import ExtendedItems, ItemTable
from recast_server.foundation.kv_cache import BLOCK, KvCache, Lease, blocks_for, windows
from recast_server.foundation.memory import MIB, plan_memory, resident_bytes
from recast_server.foundation.reuse_metrics import ReuseMetrics
from recast_server.foundation.service import CANDIDATES, HISTORY_EVENTS, FoundationMetadata
from recast_server.runtime.cost import Sample
from recast_server.runtime.inputs import Query, RequestEncoder
from recast_server.runtime.warmup import measure

UNUSED_SECONDS = 3600.0
"""After which a user's keys and values go, though nobody needs their room."""
LEAST_BYTES = 16 * MIB
"""Room for the histories of a batch, also where none is kept between batches; never less than one history's."""
_log = logging.getLogger("recast.engine")
_Rows = NDArray[np.floating]


class FoundationEngine:
    """Implements :class:`recast_server.foundation.service.Engine`: what a request's history shares with what is kept is
    not computed again (:mod:`recast_model.incremental`).

    ``kv_cache_mebibytes`` is :attr:`FoundationServerConfig.kv_cache_mebibytes`, and ``new_items_bytes`` what must be
    left for reading new items. Raises :class:`RecastError` where the version cannot be loaded, or does not fit into the
    container's memory.
    """

    metrics: ReuseMetrics | None = None
    """Where what is reused is counted, once there is such a place."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        kv_cache_mebibytes: int | None = None,
        limit: int | None = None,
        new_items_bytes: int = 0,
    ) -> None:
        loaded = load_foundation(folder, manifest)
        self._config = config = loaded.config
        self._model = IncrementalFoundation(loaded.model)
        self.items = loaded.items
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
            history_events=max(HISTORY_EVENTS, config.history_length),
            cursor_ms=int(datetime.fromisoformat(manifest.watermark).timestamp() * 1000),
        )
        self._keeps = kv_cache_mebibytes != 0
        block_bytes = BLOCK * self._model.event_bytes
        plan = plan_memory(
            kv_cache_mebibytes,
            max(LEAST_BYTES, blocks_for(config.history_length) * block_bytes),
            limit,
            resident_bytes(),
            sum(tensor.nbytes for tensor in (*loaded.model.parameters(), *loaded.model.buffers())),
            self._model.activation_bytes,
            new_items_bytes,
        )
        _log.info("memory", extra={"fields": plan.log_fields()})
        blocks = plan.kept // block_bytes
        self._slab = self._model.room(blocks * BLOCK)
        self._none = self._slab.part(0, 0)
        self._cache = KvCache(blocks, UNUSED_SECONDS, self._slab.move)

    def units(self, query: Query) -> float:
        """See ``Engine``: floating-point operations, less what is kept of the user's history now.

        An estimate: what is kept may be of another window, or be gone when the request runs.
        """
        events = self._encoder.histories.length(query.user) if query.history is None else len(query.history)
        history = events - int(anchored_start(np.array(events), self._config.history_length))
        known = self._cache.known(query.user) if self._keeps else 0
        # A window shorter than what is kept most often begins elsewhere: its start has moved on.
        return forward_flops(self._config, history, len(query.candidates), known=known if known <= history else 0)

    def shape(self, query: Query) -> Hashable:
        """See ``Engine``: nothing is padded, so all may run together."""
        return None

    def run(self, queries: Sequence[Query]) -> list[_Rows]:
        """See ``Engine``."""
        asked = [self._encoder.encode(query) for query in queries]
        arrays = collate(asked, self._config.history_length)
        batch, seen = RequestBatch.from_arrays(arrays), windows(arrays)
        answers: dict[int, _Rows] = {}
        self._cache.expire(time.monotonic())
        while waiting := [place for place in range(len(asked)) if place not in answers]:
            # What waits for room, or for another of the same user's, is in a later part.
            part = self._lease({place: (asked[place].user, seen[place]) for place in waiting})
            answers |= self._answer(batch, part)
        return [answers[place] for place in range(len(asked))]

    def _lease(self, waiting: Mapping[int, tuple[int, Ints]]) -> dict[int, Lease | None]:
        """Room for those that there is room for now, by place in the batch; None for who has no history."""
        now = time.monotonic()
        found = {
            place: self._cache.lease(user, window, now) if window.shape[1] else None
            for place, (user, window) in waiting.items()
        }
        part = {place: lease for place, lease in found.items() if lease or not waiting[place][1].shape[1]}
        if not part:
            raise RuntimeError("no request of a batch has room for its history, with nothing else in use")
        return part

    def _answer(self, batch: RequestBatch, part: Mapping[int, Lease | None]) -> dict[int, _Rows]:
        """The embeddings of these requests of a batch, by place. What they held is given back in any case."""
        leases = [lease for lease in part.values() if lease]
        kept = [self._slab.part(lease.begin, lease.capacity) if lease else self._none for lease in part.values()]
        known = [lease.known if lease else 0 for lease in part.values()]
        requests = batch.take(list(part))
        try:
            embedded = self._model.append_and_score(requests, known, kept)
        except BaseException:
            for lease in leases:
                self._cache.drop(lease)
            raise
        now = time.monotonic()
        for lease in leases:
            self._cache.settle(lease, now)
        if not self._keeps:
            self._cache.clear()
        if self.metrics is not None:
            self.metrics.answered(leases, self._cache)
        return {place: rows.to(TAE_DTYPE).numpy() for place, rows in zip(part, embedded, strict=True)}

    def warm_up(self) -> list[Sample]:
        """Runs small and large requests, so that the first real one meets warm memory, and measures them.

        Each size as one that finds nothing kept, and as one that finds all of it.
        """
        users = count()

        def another(query: Query) -> Query:
            return replace(query, user=next(users))

        surface, longest = self._config.surfaces[0], self._config.history_length
        samples = measure(_Forgetful(self), another, surface, longest, CANDIDATES)
        if self._keeps:
            samples += measure(self, another, surface, longest, CANDIDATES)
        self._cache.clear()
        return samples

    def extend(self, new: ItemTable) -> None:
        """See ``Extendable``. What is kept of histories ends before the first event of an item that is not our own."""
        self._model.model.tokens.extend(torch.from_numpy(new.content))
        self._encoder = replace(self._encoder, items=ExtendedItems(self.items, new))
        own = len(self.items)
        self._cache.truncate(lambda window: int(np.append(window[0] > own, True).argmax()))

    def forget(self) -> None:
        """Keep nothing of what was kept until now."""
        self._cache.clear()


@dataclass(frozen=True)
class _Forgetful:
    """An engine that finds nothing kept."""

    engine: FoundationEngine

    def units(self, query: Query) -> float:
        self.engine.forget()
        return self.engine.units(query)

    def shape(self, query: Query) -> Hashable:
        return self.engine.shape(query)

    def run(self, queries: Sequence[Query]) -> list[_Rows]:
        self.engine.forget()
        return self.engine.run(queries)
