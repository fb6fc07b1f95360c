"""An expert: one surface's light network on top of the foundation's own heads.

Its logits are those of the foundation's heads, read from the TAE as it comes, plus what a network of its own learns
beside them from the TAE (normed, projected, dropped out at times), the surface's own recent history through a small
HSTU, and the item itself. That network's last layer starts at zero: before its first step an expert *is* the
foundation's heads. A request without TAE is answered by heads of its own, which start from the base rate, and gets a
learned vector in the place of the TAE; training practises it. The TAE is detached on entry: an expert cannot move its
foundation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.config import ExpertConfig
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.foundation import FoundationModel, check_content
from recast_model.hstu import HstuStack
from recast_model.tokens import TokenEncoder


class ExpertModel(nn.Module):
    """``content`` (item_count + 1, content_dim) is by dense item index. Without ``optimizer`` it only infers.

    Batches hold the history of the expert's own surface alone.
    """

    def __init__(
        self,
        config: ExpertConfig,
        content: Tensor,
        optimizer: TableOptimizer | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        check_content(content, config.item_count, config.content_dim)
        self.config = config
        dim = config.dim
        self.tokens = TokenEncoder(
            dim,
            content,
            len(config.surfaces),
            len(config.event_tasks),
            config.dropout,
            optimizer,
            device,
            config.context,
        )
        self.stack = HstuStack(
            config.block,
            config.layers,
            dim,
            config.heads,
            config.attn_norm_len,
            config.history_length,
            config.dropout,
        )
        self.tae_norm = nn.LayerNorm(config.tae_dim)
        self.tae_dropout = nn.Dropout(config.dropout)
        self.tae_project = nn.Linear(config.tae_dim, dim)
        self.absent = nn.Parameter(torch.randn(dim) * 0.1)
        self.fusion = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim), nn.SiLU())
        tasks = len(config.tasks)
        self.heads = nn.Linear(dim, tasks)
        self.absent_heads = nn.Linear(dim, tasks)
        self.foundation_heads = nn.Linear(config.tae_dim, tasks).requires_grad_(False)
        for heads in (self.heads, self.absent_heads, self.foundation_heads):
            nn.init.zeros_(heads.weight)
            nn.init.zeros_(heads.bias)
        self.learned_share: Tensor
        self.register_buffer("learned_share", torch.ones(tasks))
        self.to(device)

    def tables(self) -> list[tuple[str, EmbeddingTable]]:
        """The embedding tables, whose update is not the dense optimiser's."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, EmbeddingTable)]

    @torch.no_grad()
    def start_from(self, foundation: FoundationModel) -> None:
        """Read the TAE as the foundation's main heads do, from here on: a copy, which nothing trains."""
        columns = list(self.config.task_columns)
        self.foundation_heads.weight.copy_(foundation.heads.weight[columns])
        self.foundation_heads.bias.copy_(foundation.heads.bias[columns])

    def standardise_as(self, foundation: FoundationModel) -> None:
        """Read numeric features of the context by the foundation's mean and scale, which come from more requests."""
        own, theirs = self.tokens.request_context, foundation.tokens.request_context
        if own is not None and theirs is not None:
            own.standardise_as(theirs)

    @torch.no_grad()
    def set_base_rates(self, rates: Tensor, *, for_tae: bool = False) -> None:
        """Let a request without TAE, or any where ``for_tae``, start from how often each task (T,) is positive.

        Rates are strictly between 0 and 1, NaN where unknown.
        """
        for heads in (self.absent_heads, self.foundation_heads)[: 1 + for_tae]:
            heads.bias.copy_(torch.nan_to_num(torch.logit(rates.to(heads.bias))))

    @torch.no_grad()
    def set_learned_share(self, share: Tensor) -> None:
        """How much of what was learned counts beside the foundation's heads, by task (T,) from 0 to 1."""
        self.learned_share.copy_(share)

    def forward(self, batch: RequestBatch, tae: Tensor, tae_present: Tensor) -> Tensor:
        """Logits (B, M, T) from ``tae`` (B, M, D_tae), which may hold anything where ``tae_present`` (B,) is False."""
        if self.training and self.config.tae_dropout > 0:
            drawn = torch.rand(tae_present.shape, device=tae_present.device)
            tae_present = tae_present & (drawn >= self.config.tae_dropout)
        present = tae_present[:, None, None]
        tae = torch.where(present, tae.detach().to(torch.float32), 0.0)  # NaN there would poison gradients
        vector = torch.where(present, self.tae_project(self.tae_dropout(self.tae_norm(tae))), self.absent)  # (B, M, D)
        rows = self.tokens(batch)
        recent = self.stack(rows)  # (B, M, D)
        fused = self.fusion(torch.cat([recent, vector, rows.candidates], -1))  # (B, M, D)
        beside = self.foundation_heads(tae) + self.learned_share * self.heads(fused)  # (B, M, T)
        return torch.where(present, beside, self.absent_heads(fused))
