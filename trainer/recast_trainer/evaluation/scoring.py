"""Rows through a model as it serves: what the TAE log, every measurement and every baseline come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recast_model.artifact import ExpertBundle, FoundationBundle
from recast_model.batch import RequestBatch
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.inference import TAE_DTYPE, embed, embed_and_predict, score
from recast_model.items import ItemTable
from recast_trainer.data.requests import Index, Requests
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.tae.log import TaeIndex
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Choice, Ints, Stream, on_device

MICRO_BATCH = 64


@dataclass(frozen=True)
class RequestTae:
    """What an expert reads beside its requests."""

    values: NDArray[np.float16]  # (R, D), of the requests' rows
    present: NDArray[np.bool_]  # (Q,); where it is False the learned absent vector stands in
    weights: NDArray[np.float32] | None = None  # (R,) how much each row counts when it is learned; None: all alike

    def take(self, requests: Requests, index: Index) -> RequestTae:
        """Of some of the requests that these are of."""
        rows = requests.rows_of(index)
        return RequestTae(self.values[rows], self.present[index], None if self.weights is None else self.weights[rows])

    def on_device(self, batch: RequestBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, M, D) float16 and (B,) bool for a batch of the same requests."""
        mask = batch.candidate_mask
        padded = torch.zeros(*mask.shape, self.values.shape[1], dtype=TAE_DTYPE, device=mask.device)
        padded[mask] = torch.from_numpy(np.ascontiguousarray(self.values)).to(mask.device)
        return padded, torch.from_numpy(self.present).to(mask.device)

    def weights_on_device(self, batch: RequestBatch) -> torch.Tensor | None:
        """(B, M) float32 for a batch of the same requests; None where all rows count alike."""
        if self.weights is None:
            return None
        padded = torch.zeros(batch.candidate_mask.shape, device=batch.candidate_mask.device)
        padded[batch.candidate_mask] = torch.from_numpy(self.weights).to(padded.device)
        return padded

    @classmethod
    def concatenate(cls, parts: Sequence[RequestTae]) -> RequestTae:
        """Of several requests, in order; at least one part."""
        weights = None
        if any(part.weights is not None for part in parts):
            ones = [np.ones(len(part.values), np.float32) if part.weights is None else part.weights for part in parts]
            weights = np.concatenate(ones)
        return cls(
            np.concatenate([part.values for part in parts]), np.concatenate([part.present for part in parts]), weights
        )


def score_foundation(
    model: FoundationModel, requests: Requests, items: ItemTable, group: ProcessGroup
) -> tuple[ScoredRows, NDArray[np.float16]]:
    """Predictions and TAE (R, D) of the requests' rows, the work shared by the group, the result on every process."""

    def predict(batch: RequestBatch, _: Ints) -> torch.Tensor:
        tae, logits = embed_and_predict(model, batch)
        return torch.cat([tae.float(), logits], dim=-1)  # float16 survives the way through float32 exactly

    size = model.config.tae_dim
    found = _rows(predict, requests, items, group, size + len(model.config.tasks))
    return _scored(requests, found[:, size:]), found[:, :size].astype(np.float16)


def score_expert(
    model: ExpertModel, requests: Requests, tae: RequestTae, items: ItemTable, group: ProcessGroup
) -> ScoredRows:
    """Predictions of an expert's tasks, for requests with the histories of its surface."""

    def predict(batch: RequestBatch, index: Ints) -> torch.Tensor:
        return score(model, batch, *tae.take(requests, index).on_device(batch))

    found = _rows(predict, requests, items, group, len(model.config.tasks))
    return _scored(requests, found, list(model.config.task_columns))


def logged(index: TaeIndex, requests: Requests, *, partial: bool = False) -> RequestTae:
    """TAE out of the log; a request lacks them unless every one of its rows is there, or, if ``partial``, any is.

    Raises ``TaeLeak`` for a row whose TAE were made after its label was learned.
    """
    tae, found = index.lookup(requests.rows.row_ids, requests.rows.first_known)
    if not len(requests):
        return RequestTae(tae, found[:0])
    present = (np.logical_or if partial else np.logical_and).reduceat(found, requests.starts)
    weights = index.weights(requests.rows.row_ids)
    return RequestTae(tae, present, weights if (weights != 1).any() else None)


def computed(model: FoundationModel, requests: Requests, items: ItemTable, group: ProcessGroup) -> RequestTae:
    """TAE made now by a foundation, for rows that it never learned; the requests have its histories."""

    def predict(batch: RequestBatch, _: Ints) -> torch.Tensor:
        return embed(model, batch).float()

    found = _rows(predict, requests, items, group, model.config.tae_dim)
    return RequestTae(found.astype(np.float16), np.ones(len(requests), np.bool_))


def absent(requests: Requests, size: int) -> RequestTae:
    """No TAE at all."""
    return RequestTae(np.zeros((len(requests.rows), size), np.float16), np.zeros(len(requests), np.bool_))


def score_pair(
    expert: ExpertBundle, foundation: FoundationBundle, stream: Stream, wanted: Choice, group: ProcessGroup
) -> list[ScoredRows]:
    """An expert with the TAE that its foundation makes now, on the wanted requests of its surface, by segment.

    Both read the stream as they learned to: the foundation whole histories, the expert those of its surface.
    """
    surface = expert.config.surface_index
    own = stream.known_by(expert.config.context).walk(expert.config.history_length, surface=surface, choose=wanted)
    whole = stream.known_by(foundation.config.context).walk(
        foundation.config.history_length,
        choose=lambda index, slates: (slates.surfaces == surface) & wanted(index, slates),
    )
    found = []
    for (_, requests), (_, seen) in zip(own, whole, strict=True):
        tae = computed(foundation.model, seen, foundation.items, group)
        found.append(score_expert(expert.model, requests, tae, expert.items, group))
    return found


def _rows(
    predict: Callable[[RequestBatch, Ints], torch.Tensor],
    requests: Requests,
    items: ItemTable,
    group: ProcessGroup,
    width: int,
) -> NDArray[np.float32]:
    """``predict`` (B, M, K) over micro-batches of this process's share, then all shares joined: (R, K).

    Tables of a model that trains are spread over the processes, so each must predict as often as any other: one for
    which nothing is left takes the first request, for nobody.
    """
    share, longest = group.shard(np.arange(len(requests))), -(-len(requests) // group.size)
    parts = [torch.empty(0, width)]
    for start in range(0, longest, MICRO_BATCH):
        index = share[start : start + MICRO_BATCH]
        taken = index if len(index) else np.zeros(1, np.int64)
        batch = on_device(requests.take(taken), items, group)
        found = predict(batch, taken)[batch.candidate_mask].cpu()
        parts.append(found if len(index) else parts[0])
    mine = torch.cat(parts)
    _, joined = group.gather(torch.zeros(len(mine), dtype=torch.int64), mine)
    return joined.numpy()


def _scored(requests: Requests, logits: NDArray[np.float32], columns: list[int] | None = None) -> ScoredRows:
    rows, chosen = requests.rows, slice(None) if columns is None else columns
    return ScoredRows(
        row_ids=rows.row_ids,
        users=rows.users,
        surfaces=rows.surfaces,
        available_at=rows.first_known,
        labels=rows.labels[:, chosen].astype(np.float64),
        mask=rows.label_mask[:, chosen],
        truth=rows.oracle[:, chosen],
        logits=logits.astype(np.float64),
    )
