"""An expert: one surface's light network beside the foundation's TAE.

It reads the TAE (normed, projected, dropped out at times), the surface's own recent history through a small HSTU, and
the item itself, and fuses the three. A request without TAE gets a learned vector in its place, which training
practises. The TAE is detached on entry: an expert cannot move its foundation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.config import ExpertConfig
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.foundation import check_content
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
            dim, content, len(config.surfaces), len(config.event_tasks), config.dropout, optimizer, device
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
        self.heads = nn.Linear(dim, len(config.tasks))
        self.tae_heads = nn.Linear(dim, len(config.tasks), bias=False)
        self.to(device)

    def tables(self) -> list[tuple[str, EmbeddingTable]]:
        """The embedding tables, whose update is not the dense optimiser's."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, EmbeddingTable)]

    @torch.no_grad()
    def set_base_rates(self, rates: Tensor) -> None:
        """Let the heads start from how often each task (T,) is positive; strictly between 0 and 1, NaN if unknown."""
        self.heads.bias.copy_(torch.nan_to_num(torch.logit(rates.to(self.heads.bias))))

    def forward(self, batch: RequestBatch, tae: Tensor, tae_present: Tensor) -> Tensor:
        """Logits (B, M, T) from ``tae`` (B, M, D_tae) where ``tae_present`` (B,) bool, else from the absent vector."""
        present = tae_present
        if self.training and self.config.tae_dropout > 0:
            present = present & (torch.rand(present.shape, device=present.device) >= self.config.tae_dropout)
        foundation = self._project_tae(tae.detach().to(torch.float32), present[:, None, None])  # (B, M, D)
        rows = self.tokens(batch)
        recent = self.stack(rows)  # (B, M, D)
        fused = self.fusion(torch.cat([recent, foundation, rows.candidates], -1))
        logits: Tensor = self.heads(fused) + self.tae_heads(foundation)
        return logits

    def _project_tae(self, tae: Tensor, present: Tensor) -> Tensor:
        # Whatever stands where no TAE is must not reach the norm: NaN there would poison its gradient.
        safe = torch.where(present, tae, 0.0)
        return torch.where(present, self.tae_project(self.tae_dropout(self.tae_norm(safe))), self.absent)
