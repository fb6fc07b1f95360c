"""From events and candidates to vectors: one token each, a sum and not an interleaving of item and action.

A token is item id + content (where items have any) + surface + hour of day + time since the event before, normed;
history adds what the user did (its action). Candidates carry no action, but the context features of the request, where
there are any. These, and the time since the last event, are all of a candidate's token that changes with the request.

A server may learn of items that have no row, because they are younger than the version: each is its content and the
unknown item's id. They lie behind the others (:class:`recast_model.items.ExtendedItems`), of which no bit changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.context import Features
from recast_model.context_encoder import ContextEncoder
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.features import UNKNOWN_ITEM
from recast_model.hstu import TokenRows
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import TIME_BUCKETS, time_bucket

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Events:
    """What tokens of history read: R events, each (R,) int64."""

    items: Tensor  # dense item index
    surfaces: Tensor
    actions: Tensor  # bitmask over tasks
    times: Tensor  # ms
    gaps: Tensor  # ms since the event before it in its window; of a window's first, 0

    @classmethod
    def at(cls, batch: RequestBatch, requests: Tensor, places: Tensor) -> Events:
        """The events of a batch at places (R,) of the histories of requests (R,)."""
        times = batch.history_times[requests, places]
        before = batch.history_times[requests, (places - 1).clamp(min=0)]
        return cls(
            batch.history_items[requests, places],
            batch.history_surfaces[requests, places],
            batch.history_actions[requests, places],
            times,
            times - before,
        )


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
        self.content: Tensor
        self.items = EmbeddingTable("items", content.shape[0], dim, optimizer, device)
        self.register_buffer("content", content.to(torch.float32), persistent=False)
        self.new_content: Tensor | None = None  # (E, C), of the items behind the table's
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

    def extend(self, content: Tensor) -> None:
        """Know these items, by ``content`` (E, C) float32 alone, in place of any others that have no row.

        Raises ``ValueError`` where C is another than the version's, or 0, and in training.
        """
        size = self.content.shape[1]
        if self.training or not size or content.ndim != 2 or content.shape[1] != size:
            raise ValueError(f"content is {tuple(content.shape)}, expected (E, {size}) with C > 0, for inference")
        self.new_content = content.to(self.content) if len(content) else None

    def forward(self, batch: RequestBatch) -> TokenRows:
        """Rows of history (R, D), packed, and of candidates (B, M, D)."""
        size, count = batch.candidates.shape
        layout = JaggedLayout.of(batch.history_lengths, batch.history_items.shape[1])
        times = batch.history_times
        before = torch.cat([times[:, :1], times[:, :-1]], 1)  # the window's first event has no gap
        padded = (batch.history_items, batch.history_surfaces, batch.history_actions, times, times - before)
        events = Events(*map(layout.pack_values, padded))
        item = self._item(torch.cat([events.items, batch.candidates.reshape(-1)]))  # (R + B * M, D)
        past, shown = item[: len(events.items)], item[len(events.items) :]
        candidates = self.norm(shown.view(size, count, -1) + self.of_requests(batch)[:, None, :])
        return TokenRows(
            self.dropout(self._history(past, events)),
            self.dropout(candidates),
            layout,
            times,
            batch.request_times,
        )

    def of_events(self, events: Events) -> Tensor:
        """Rows of history (R, D), each of one event alone, as they are without dropout."""
        return self._history(self._item(events.items), events)

    def of_candidates(self, items: Tensor, requests: Tensor) -> Tensor:
        """Rows of candidates (C, D) by dense item index (C,), with :meth:`of_requests` of each (C, D); no dropout."""
        rows: Tensor = self.norm(self._item(items) + requests)
        return rows

    def of_requests(self, batch: RequestBatch) -> Tensor:
        """(B, D): what the tokens of all candidates of a request have in common."""
        context = self._context(batch.surfaces, batch.request_times, _since_last_event(batch))
        return context if self.request_context is None else context + self.request_context(batch)

    def _history(self, items: Tensor, events: Events) -> Tensor:
        rows = self.norm(items + self._context(events.surfaces, events.times, events.gaps))
        tasks = torch.arange(self.action.shape[0], device=rows.device)
        bits = (events.actions[:, None] >> tasks) & 1  # (R, T)
        vectors: Tensor = rows + bits.to(self.action.dtype) @ self.action
        return vectors

    def _item(self, ids: Tensor) -> Tensor:
        new = self.new_content
        own = ids if new is None else torch.where(ids < self.items.rows, ids, UNKNOWN_ITEM)
        item: Tensor = self.items(own)
        if self.content_mlp is not None:
            content = F.embedding(own, self.content)
            if new is not None and len(at := torch.nonzero(ids >= self.items.rows).squeeze(1)):
                content[at] = F.embedding(ids[at] - self.items.rows, new)
            item = item + self.content_mlp(content)
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
