"""Small models and batches for tests of the networks: random, but from a seed."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from recast_model.batch import RequestBatch
from recast_model.config import Block, ExpertConfig, ExpertTask, FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel

SURFACES = ("reels", "feed", "ads")
TASKS = ("click", "long_view", "purchase")
ITEMS = 50
CONTENT = 6
NOW = 1_767_225_600_000
HISTORY = 12


def foundation_config(block: Block = "DLRMv3", **changes: object) -> FoundationConfig:
    config = FoundationConfig(
        block=block,
        layers=2,
        dim=16,
        heads=2,
        history_length=HISTORY,
        attn_norm_len=HISTORY,
        tae_dim=8,
        content_dim=CONTENT,
        item_count=ITEMS,
        surfaces=SURFACES,
        tasks=TASKS,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def expert_config(block: Block = "DLRMv3", **changes: object) -> ExpertConfig:
    config = ExpertConfig(
        layers=1,
        dim=8,
        heads=2,
        history_length=HISTORY,
        attn_norm_len=HISTORY,
        tae_dim=8,
        content_dim=CONTENT,
        item_count=ITEMS,
        surface="reels",
        surfaces=SURFACES,
        event_tasks=TASKS,
        tasks=(ExpertTask("click"), ExpertTask("long_view", 0.5)),
        block=block,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def content() -> torch.Tensor:
    values = torch.randn(ITEMS + 1, CONTENT, generator=torch.Generator().manual_seed(3))
    values[0] = 0
    return values


def foundation(block: Block = "DLRMv3", optimizer: TableOptimizer | None = None, **changes: object) -> FoundationModel:
    torch.manual_seed(1)
    model = FoundationModel(foundation_config(block, **changes), content(), optimizer)
    randomize(model)
    return model.eval()


def expert(block: Block = "DLRMv3", optimizer: TableOptimizer | None = None, **changes: object) -> ExpertModel:
    torch.manual_seed(2)
    model = ExpertModel(expert_config(block, **changes), content(), optimizer)
    randomize(model)
    return model.eval()


ZERO_AT_FIRST = ("bias.position", "bias.time", "heads.weight", "heads.bias")


def randomize(model: FoundationModel | ExpertModel) -> None:
    """Give tables, biases and heads, which start at zero, values: a zero would hide a wrong term."""
    with torch.no_grad():
        for _, table in model.tables():
            table.weight[1:].normal_(std=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(ZERO_AT_FIRST):
                parameter.normal_(std=0.5)


def batch(size: int = 5, candidates: int = 4, history: int = HISTORY, seed: int = 0) -> RequestBatch:
    g = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=g)

    lengths = integers(0, history + 1, size)
    lengths[0], lengths[-1] = history, 0  # a full and an empty one
    valid = torch.arange(history) < lengths[:, None]
    return RequestBatch(
        users=torch.arange(size),
        surfaces=integers(0, 3, size),
        request_times=NOW + integers(0, 3_600_000, size),
        candidates=integers(1, ITEMS + 1, size, candidates),
        candidate_mask=torch.ones(size, candidates, dtype=torch.bool),
        history_items=integers(1, ITEMS + 1, size, history) * valid,
        history_surfaces=integers(0, 3, size, history) * valid,
        history_actions=integers(1, 8, size, history) * valid,
        history_times=(NOW - 86_400_000 + integers(0, 86_000_000, size, history).sort(1).values) * valid,
        history_lengths=lengths,
        labels=integers(0, 2, size, candidates, len(TASKS)).float(),
        label_mask=integers(0, 4, size, candidates, len(TASKS)) > 0,
    )


def only(values: RequestBatch, place: int) -> RequestBatch:
    """The one request at a place, with the same padding."""
    present = {entry.name: getattr(values, entry.name) for entry in fields(values)}
    return RequestBatch(**{name: value[place : place + 1] for name, value in present.items() if value is not None})


def widen(values: RequestBatch, extra: int) -> RequestBatch:
    """The same batch with ``extra`` more places of padding in its histories."""
    names = ("history_items", "history_surfaces", "history_actions", "history_times")
    return replace(values, **{n: torch.nn.functional.pad(getattr(values, n), (0, extra)) for n in names})
