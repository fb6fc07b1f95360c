"""Rows through a model as it serves: what the TAE log, every measurement and every baseline come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from recast_model.batch import RequestBatch
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.inference import TAE_DTYPE, embed, embed_and_predict, score
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.tae.log import TaeIndex
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Ints, Stream

MICRO_BATCH = 64

TaeSource = Callable[[RequestBatch, Ints], tuple[torch.Tensor, torch.Tensor]]
"""A batch and its request indices to TAE (B, M, D) and whether each request has them (B,)."""


def score_foundation(
    model: FoundationModel, stream: Stream, requests: Ints, group: ProcessGroup
) -> tuple[ScoredRows, NDArray[np.float16]]:
    """Predictions and TAE (R, D) of the requests' rows, the work shared by the group, the result on every process."""

    def predict(batch: RequestBatch, _: Ints) -> torch.Tensor:
        tae, logits = embed_and_predict(model, batch)
        return torch.cat([tae.float(), logits], dim=-1)  # float16 survives the way through float32 exactly

    found = _rows(predict, stream, requests, model.config.history_length, group)
    size = model.config.tae_dim
    return _scored(stream, requests, found[:, size:]), found[:, :size].astype(np.float16)


def score_expert(model: ExpertModel, stream: Stream, requests: Ints, tae: TaeSource, group: ProcessGroup) -> ScoredRows:
    """Predictions of an expert's tasks; ``stream`` is read by the expert's items and surface histories."""

    def predict(batch: RequestBatch, index: Ints) -> torch.Tensor:
        vectors, present = tae(batch, index)
        return score(model, batch, vectors, present)

    found = _rows(predict, stream, requests, model.config.history_length, group)
    return _scored(stream, requests, found, list(model.config.task_columns))


def logged(index: TaeIndex, device: torch.device) -> TaeSource:
    """TAE out of the log; a request lacks them unless every one of its rows is there."""

    def source(batch: RequestBatch, _: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.row_ids is not None
        assert batch.available_at is not None
        mask = batch.candidate_mask.cpu().numpy()
        ids = np.where(mask, batch.row_ids.cpu().numpy(), -1)  # padding is no row
        tae, found = index.lookup(ids, batch.available_at.cpu().numpy())
        return torch.from_numpy(tae).to(device), torch.from_numpy((found | ~mask).all(axis=1)).to(device)

    return source


def computed(model: FoundationModel, stream: Stream, group: ProcessGroup) -> TaeSource:
    """TAE made now by a foundation, for rows that it never learned; ``stream`` is read by the foundation's items."""

    def source(_: RequestBatch, index: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        tae = embed(model, stream.batch(index, model.config.history_length, group))
        return tae, torch.ones(len(tae), dtype=torch.bool, device=tae.device)

    return source


def absent(size: int) -> TaeSource:
    """No TAE at all: the learned absent vector answers."""

    def source(batch: RequestBatch, _: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        shape, device = batch.candidates.shape, batch.candidates.device
        return (
            torch.zeros(*shape, size, dtype=TAE_DTYPE, device=device),
            torch.zeros(shape[0], dtype=torch.bool, device=device),
        )

    return source


def _rows(
    predict: Callable[[RequestBatch, Ints], torch.Tensor],
    stream: Stream,
    requests: Ints,
    history_length: int,
    group: ProcessGroup,
) -> NDArray[np.float32]:
    """``predict`` (B, M, K) over micro-batches of this process's share, then all shares joined: (R, K)."""
    share = group.shard(requests)
    parts = []
    for start in range(0, len(share), MICRO_BATCH):
        index = share[start : start + MICRO_BATCH]
        batch = stream.batch(index, history_length, group)
        parts.append(predict(batch, index)[batch.candidate_mask].cpu())
    width = torch.zeros(1, dtype=torch.int64)
    if parts:
        width[0] = parts[0].shape[1]
    width = group.maximum(width)
    mine = torch.cat(parts) if parts else torch.empty(0, int(width))
    _, joined = group.gather(torch.zeros(len(mine), dtype=torch.int64), mine)
    return joined.numpy()


def _scored(
    stream: Stream, requests: Ints, logits: NDArray[np.float32], columns: list[int] | None = None
) -> ScoredRows:
    rows = stream.table.rows.take(stream.rows_of(requests))
    chosen = slice(None) if columns is None else columns
    return ScoredRows(
        row_ids=rows.row_ids,
        users=rows.users,
        surfaces=rows.surfaces,
        available_at=rows.available_at,
        labels=rows.labels[:, chosen].astype(np.float64),
        mask=rows.label_mask[:, chosen],
        logits=logits.astype(np.float64),
    )
