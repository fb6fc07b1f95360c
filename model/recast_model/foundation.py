"""The foundation model: lifelong, cross-surface history in, a target-aware embedding (TAE) of every candidate out.

Two kinds of heads read the TAE in training. The main heads predict every surface's tasks. The alignment heads, one set
per surface and fed with auxiliary features of the request, are an auxiliary loss that keeps each surface's own signal
in the shared embedding; serving never computes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.config import FoundationConfig
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.hstu import HstuStack
from recast_model.tokens import TokenEncoder

_AUXILIARY = 4
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class FoundationOutput:
    """What the foundation says of each candidate; T tasks in the order of the configuration."""

    tae: Tensor  # (B, M, D_tae)
    logits: Tensor  # (B, M, T)
    aux_logits: Tensor  # (B, M, T), of the request's own surface's heads


class FoundationModel(nn.Module):
    """``content`` (item_count + 1, content_dim) is by dense item index. Without ``optimizer`` it only infers."""

    def __init__(
        self,
        config: FoundationConfig,
        content: Tensor,
        optimizer: TableOptimizer | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        check_content(content, config.item_count, config.content_dim)
        self.config = config
        surfaces, tasks = len(config.surfaces), len(config.tasks)
        self.tokens = TokenEncoder(
            config.dim, content, surfaces, tasks, config.dropout, optimizer, device, config.context
        )
        self.stack = HstuStack(
            config.block,
            config.layers,
            config.dim,
            config.heads,
            config.attn_norm_len,
            config.history_length,
            config.dropout,
        )
        self.embed = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, config.tae_dim))
        self.heads = nn.Linear(config.tae_dim, tasks)
        self.align = nn.Parameter(torch.zeros(surfaces, config.tae_dim + _AUXILIARY + 1, tasks))
        nn.init.normal_(self.align, std=1 / math.sqrt(config.tae_dim))
        self.to(device)

    def tables(self) -> list[tuple[str, EmbeddingTable]]:
        """The embedding tables, whose update is not the dense optimiser's."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, EmbeddingTable)]

    @torch.no_grad()
    def set_base_rates(self, rates: Tensor) -> None:
        """Let the heads of tasks that were not learned yet start from how often each is positive.

        ``rates`` (surfaces, tasks) strictly between 0 and 1, NaN where a surface has no such task. Heads of tasks that
        no surface has stay as they are.
        """
        given = ~rates.isnan().all(0)
        logits = torch.logit(rates[:, given].to(self.heads.bias))
        self.heads.bias[given] = logits.nanmean(0)
        self.align[:, -1, given] = torch.nan_to_num(logits)

    def observe_context(self, numbers: NDArray[np.float32]) -> None:
        """Numeric features (Q, K) of requests before they are learned; the first of them give mean and scale."""
        if self.tokens.request_context is not None:
            self.tokens.request_context.observe(numbers)

    def tae(self, batch: RequestBatch) -> Tensor:
        """(B, M, tae_dim): what serving computes, and nothing more. Rows of masked candidates mean nothing."""
        longest = batch.history_items.shape[1]
        if longest > self.config.history_length:
            raise ValueError(f"a history of {longest} events is longer than the version's {self.config.history_length}")
        embedded: Tensor = self.embed(self.stack(self.tokens(batch)))
        return embedded

    def forward(self, batch: RequestBatch) -> FoundationOutput:
        """TAE and logits of all heads. Raises ``ValueError`` for a history longer than the configuration's."""
        tae = self.tae(batch)
        extra = _auxiliary_features(batch)[:, None, :].expand(-1, tae.shape[1], -1)  # (B, M, A)
        ones = torch.ones_like(tae[..., :1])
        aligned = torch.bmm(torch.cat([tae, extra, ones], -1), self.align[batch.surfaces])  # (B, M, T)
        return FoundationOutput(tae, self.heads(tae), aligned)


def check_content(content: Tensor, item_count: int, content_dim: int) -> None:
    """Raise ``ValueError`` unless ``content`` is (item_count + 1, content_dim)."""
    if content.shape != (item_count + 1, content_dim):
        raise ValueError(f"content is {tuple(content.shape)}, expected ({item_count + 1}, {content_dim})")


def _auxiliary_features(batch: RequestBatch) -> Tensor:
    """(B, 4): hour of day as sine and cosine, size of the history, and the share of it from the request's surface."""
    angle = (batch.request_times % _DAY_MS).to(torch.float32) * (2 * math.pi / _DAY_MS)
    lengths = batch.history_lengths.to(torch.float32)
    valid = torch.arange(batch.history_items.shape[1], device=lengths.device) < batch.history_lengths[:, None]
    own = ((batch.history_surfaces == batch.surfaces[:, None]) & valid).sum(1) / lengths.clamp(min=1)
    return torch.stack([angle.sin(), angle.cos(), torch.log1p(lengths) / 4, own], -1)
