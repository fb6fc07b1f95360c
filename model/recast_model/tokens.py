"""From events and candidates to vectors: one token each, a sum and not an interleaving of item and action.

A token is item id + content (where items have any) + surface + hour of day + time since the event before, normed;
history adds what the user did (its action). Candidates carry no action, but the context features of the request, where
there are any. These, and the time since the last event, are all of a candidate's token that changes with the request.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.context import Features
from recast_model.context_encoder import ContextEncoder
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.hstu import TokenRows
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import TIME_BUCKETS, time_bucket

_HOUR_MS = 3_600_000


class TokenEncoder(nn.Module):
    """Builds the rows of an HSTU stack.

    ``content`` (item_count + 1, C) is by dense item index, row 0 zero; where C is 0 items have none.
    """

    def __init__(
        self,
        dim: int,
        content: Tensor,
        surfaces: int,
        tasks: int,
        dropout: float,
        optimizer: TableOptimizer | None,
        device: torch.device | str = "cpu",
        context: Features = (),
    ) -> None:
        super().__init__()
        self.items = EmbeddingTable("items", content.shape[0], dim, optimizer, device)
        self.register_buffer("content", content.to(torch.float32), persistent=False)
        size = content.shape[1]
        self.content_mlp = nn.Sequential(nn.Linear(size, dim), nn.SiLU(), nn.Linear(dim, dim)) if size else None
        self.surface = nn.Embedding(surfaces, dim)
        self.hour = nn.Embedding(24, dim)
        self.gap = nn.Embedding(TIME_BUCKETS, dim)
        self.action = nn.Parameter(torch.randn(tasks, dim) * 0.1)
        self.request_context = ContextEncoder(context, dim) if context else None
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for table in (self.surface, self.hour, self.gap):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, batch: RequestBatch) -> TokenRows:
        """Rows of history (R, D), packed, and of candidates (B, M, D)."""
        size, count = batch.candidates.shape
        layout = JaggedLayout.of(batch.history_lengths, batch.history_items.shape[1])
        history_items = layout.pack_values(batch.history_items)  # (R,)
        ids = torch.cat([history_items, batch.candidates.reshape(-1)])
        item = self._item(ids)  # (R + B * M, D)
        past, shown = item[: len(history_items)], item[len(history_items) :]

        times = batch.history_times
        before = torch.cat([times[:, :1], times[:, :-1]], 1)  # the window's first event has no gap
        history = past + self._context(
            layout.pack_values(batch.history_surfaces), layout.pack_values(times), layout.pack_values(times - before)
        )
        tasks = torch.arange(self.action.shape[0], device=times.device)
        bits = (layout.pack_values(batch.history_actions)[:, None] >> tasks) & 1  # (R, T)
        history = self.norm(history) + bits.to(self.action.dtype) @ self.action

        context = self._context(batch.surfaces, batch.request_times, _since_last_event(batch))  # (B, D)
        if self.request_context is not None:
            context = context + self.request_context(batch)
        candidates = self.norm(shown.view(size, count, -1) + context[:, None, :])
        return TokenRows(
            self.dropout(history),
            self.dropout(candidates),
            layout,
            times,
            batch.request_times,
        )

    def _item(self, ids: Tensor) -> Tensor:
        item: Tensor = self.items(ids)
        if self.content_mlp is not None:
            item = item + self.content_mlp(F.embedding(ids, self.content))  # type: ignore[arg-type]
        return item

    def _context(self, surfaces: Tensor, times: Tensor, gaps: Tensor) -> Tensor:
        hour = torch.div(times, _HOUR_MS, rounding_mode="floor") % 24
        context: Tensor = self.surface(surfaces) + self.hour(hour) + self.gap(time_bucket(gaps))
        return context


def _since_last_event(batch: RequestBatch) -> Tensor:
    """(B,) ms between a request and the last event of its history; 0 without any."""
    if not batch.history_times.shape[1]:
        return torch.zeros_like(batch.request_times)
    last = batch.history_times.gather(1, (batch.history_lengths - 1).clamp(min=0)[:, None]).squeeze(1)
    return torch.where(batch.history_lengths > 0, batch.request_times - last, 0)
