"""A foundation whose histories are computed once: keys and values are kept, new events appended, candidates scored.

Rows of history depend on themselves and earlier rows of their window alone, so keys and values of a window's beginning
are those of every longer window that begins alike. What is relative to the request stands on candidates. So for any
split of a window into appends, and of candidates into groups, embeddings are those of
:meth:`recast_model.foundation.FoundationModel.tae` but for the order of sums.

Projections run on the packed rows of all requests, attention request by request where keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recast_model.batch import RequestBatch
from recast_model.foundation import FoundationModel
from recast_model.hstu import HstuLayer
from recast_model.ops.cached_attention import KEYS, candidate_attends_itself, candidates_attend, events_attend
from recast_model.ops.relative_terms import time_bucket
from recast_model.tokens import Events

ROWS = 512
"""Rows of all requests that are computed at a time: what bounds the memory of a pass, however large a batch is."""
REQUESTS = 64
"""Requests that have rows in a pass, at most, for the same reason."""
QUERIES = 64
"""Rows of one history that attend at a time: half as many keys, on average, are scored for nothing."""


@dataclass(frozen=True)
class KeyValues:
    """Room for keys and values of one window's events in every layer; may be a view of a larger tensor."""

    keys: Tensor  # (L, H, C, d) float32
    values: Tensor  # (L, H, C, d) float32

    @property
    def capacity(self) -> int:
        """Events that there is room for."""
        return self.keys.shape[2]

    def part(self, begin: int, events: int) -> KeyValues:
        """Room for so many events from one on, a view."""
        return KeyValues(self.keys[:, :, begin : begin + events], self.values[:, :, begin : begin + events])

    def move(self, source: int, target: int, events: int) -> None:
        """Copy so many events from one place to another that does not overlap it."""
        to, moved = self.part(target, events), self.part(source, events)
        to.keys.copy_(moved.keys)
        to.values.copy_(moved.values)


@dataclass(frozen=True)
class _Span:
    """Some consecutive rows of one request: events of its window, or candidates; and where they lie in a pass."""

    request: int
    first: int
    last: int
    rows: slice


class IncrementalFoundation:
    """``model`` in evaluation mode; its weights must not change after this. Nothing here is for training."""

    def __init__(self, model: FoundationModel) -> None:
        if model.training:
            raise ValueError("only a model in evaluation mode keeps what it computed")
        self.model = model
        self._layers: list[HstuLayer] = list(model.stack.layers)  # type: ignore[arg-type]
        # Terms of all layers are looked up at once. Those of places fall from the longest distance to none, so that
        # those of a row are a slice; behind them stand some for rows that a row does not see.
        position = torch.stack([layer.bias.position.detach().T for layer in self._layers])  # (L, H, P + 1)
        self._falling = torch.cat([position.flip(2), position[:, :, :1].expand(-1, -1, QUERIES)], 2)
        self._time = torch.stack([layer.bias.time.detach().T for layer in self._layers]).contiguous()  # (L, H, buckets)
        self._nearest = position[:, :, 0] + self._time[:, :, 0]  # (L, H), of a row and itself

    def room(self, events: int) -> KeyValues:
        """New room for so many events."""
        config = self.model.config
        shape = (config.layers, config.heads, events, config.dim // config.heads)
        return KeyValues(self._time.new_empty(shape), self._time.new_empty(shape))

    @property
    def event_bytes(self) -> int:
        """Memory of one event's keys and values."""
        return 2 * 4 * self.model.config.layers * self.model.config.dim

    @property
    def activation_bytes(self) -> int:
        """The most memory that a pass needs beside weights and kept rows, about: all of its largest tensors at once."""
        config = self.model.config
        row = 16 * config.dim + config.content_dim  # projected, activated, joined and normed; numbers
        scores = 2 * config.heads * ROWS * KEYS
        terms = REQUESTS * config.layers * config.heads * config.history_length
        return 4 * (ROWS * row + scores + terms) + 12 * ROWS * config.history_length

    @torch.inference_mode()
    def append(self, batch: RequestBatch, known: Sequence[int], kept: Sequence[KeyValues], rows: int = ROWS) -> None:
        """Compute keys and values of the windows of a batch, into ``kept``, of which the first ``known`` are there.

        ``known`` and ``kept`` are one a request; no two requests may share what is written. With ``known`` 0 this is
        a prefill. Raises ``ValueError`` where a window is longer than the version's or than its room.
        """
        lengths = batch.history_lengths.tolist()
        longest = max(lengths, default=0)
        if longest > self.model.config.history_length:
            raise ValueError(f"a history of {longest} events is longer than the version's")
        if any(length > room.capacity for length, room in zip(lengths, kept, strict=True)):
            raise ValueError("a history is longer than the room for its keys and values")
        for spans in _passes(known, lengths, rows):
            self._append(batch, spans, kept)

    @torch.inference_mode()
    def score(self, batch: RequestBatch, kept: Sequence[KeyValues], rows: int = ROWS) -> list[Tensor]:
        """TAE (M, tae_dim) float32 of each request's candidates, without padding.

        The first ``history_lengths`` rows of ``kept``, one a request, must be those of its window.
        """
        counts = batch.candidate_mask.sum(1).tolist()
        requests = self.model.tokens.of_requests(batch)  # (B, D)
        buckets = time_bucket(batch.request_times[:, None] - batch.history_times)  # (B, N)
        parts: list[list[Tensor]] = [[] for _ in counts]
        for spans in _passes([0] * len(counts), counts, rows):
            embedded = self._score(batch, spans, requests, buckets, kept)
            for span in spans:
                parts[span.request].append(embedded[span.rows])
        empty = requests.new_empty(0, self.model.config.tae_dim)
        return [torch.cat(part) if part else empty for part in parts]

    def _append(self, batch: RequestBatch, spans: Sequence[_Span], kept: Sequence[KeyValues]) -> None:
        places = torch.cat([torch.arange(span.first, span.last) for span in spans])
        requests = torch.cat([torch.full((span.last - span.first,), span.request) for span in spans])
        rows = self.model.tokens.of_events(Events.at(batch, requests, places))  # (R, D)
        buckets = [_pairs(batch.history_times[span.request], span) for span in spans]
        *inner, last = self._layers
        for number, layer in enumerate(inner):
            u, q, k, v = layer.gates_queries_keys_values(rows)
            _keep(number, layer, spans, k, v, kept)
            attended = torch.empty_like(rows)
            for span, pairs in zip(spans, buckets, strict=True):
                for own, known, bucket in pairs:
                    at = slice(span.rows.start + own.start, span.rows.start + own.stop)
                    attended[at] = self._attend(number, layer, q[at], kept[span.request], known, bucket)
            rows = rows + layer.update(u, attended.div_(layer.attn_norm_len))
        k, v = last.keys_values(rows)
        _keep(len(inner), last, spans, k, v, kept)

    def _attend(self, number: int, layer: HstuLayer, q: Tensor, kept: KeyValues, known: int, buckets: Tensor) -> Tensor:
        """(Q, D) of rows (Q, D), the last Q of ``known`` events; ``buckets`` (Q, known)."""
        attended = events_attend(
            _by_head(q, layer),
            kept.keys[number, :, :known],
            kept.values[number, :, :known],
            self._falling[number, :, self.model.config.history_length - known + 1 :],
            self._time[number],
            buckets,
            scale=layer.scale,
        )
        return attended.transpose(0, 1).reshape(len(q), -1)

    def _score(
        self, batch: RequestBatch, spans: Sequence[_Span], requests: Tensor, buckets: Tensor, kept: Sequence[KeyValues]
    ) -> Tensor:
        """TAE (C, tae_dim) of candidates of one pass."""
        items = torch.cat([batch.candidates[span.request, span.first : span.last] for span in spans])
        shared = torch.cat([requests[span.request].expand(span.last - span.first, -1) for span in spans])
        rows = self.model.tokens.of_candidates(items, shared)  # (C, D)
        terms = [self._terms(batch, buckets, span.request) for span in spans]
        for number, layer in enumerate(self._layers):
            u, *projected = layer.gates_queries_keys_values(rows)
            q, k, v = (part.view(len(rows), layer.heads, -1) for part in projected)  # (C, H, d)
            attended = candidate_attends_itself(q, k, v, self._nearest[number], scale=layer.scale)
            for span, of_request in zip(spans, terms, strict=True):
                if length := of_request.shape[3]:
                    room = kept[span.request]
                    attended[span.rows] += candidates_attend(
                        q[span.rows].transpose(0, 1),
                        room.keys[number, :, :length],
                        room.values[number, :, :length],
                        of_request[number],
                        scale=layer.scale,
                    ).transpose(0, 1)
            rows = rows + layer.update(u, attended.view(len(rows), -1).div_(layer.attn_norm_len))
        embedded: Tensor = self.model.embed(rows)
        return embedded

    def _terms(self, batch: RequestBatch, buckets: Tensor, request: int) -> Tensor:
        """(L, H, 1, N): what is added to the scores of all candidates of a request, in every layer."""
        length, longest = int(batch.history_lengths[request]), self.model.config.history_length
        by_time = self._time.index_select(2, buckets[request, :length])
        return by_time.add_(self._falling[:, :, longest - length : longest])[:, :, None]


def _passes(begins: Sequence[int], ends: Sequence[int], rows: int) -> Iterator[list[_Span]]:
    """The rows of each request from its begin to its end, each request's in order.

    A pass has at most ``rows`` of at most :data:`REQUESTS`, and of each request some that follow each other.
    """
    spans: list[_Span] = []
    filled = 0
    for request, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        while begin < end:
            taken = min(end - begin, rows - filled)
            spans.append(_Span(request, begin, begin + taken, slice(filled, filled + taken)))
            begin, filled = begin + taken, filled + taken
            if filled == rows or len(spans) == REQUESTS:
                yield spans
                spans, filled = [], 0
    if spans:
        yield spans


def _pairs(times: Tensor, span: _Span) -> list[tuple[slice, int, Tensor]]:
    """A span's rows by groups of :data:`QUERIES`: which, up to how many events they see, and buckets of the times.

    The same in every layer: looked up there, made once.
    """
    found = []
    for begin in range(span.first, span.last, QUERIES):
        end = min(begin + QUERIES, span.last)
        buckets = time_bucket(times[begin:end, None] - times[None, :end])
        found.append((slice(begin - span.first, end - span.first), end, buckets))
    return found


def _keep(
    number: int, layer: HstuLayer, spans: Sequence[_Span], k: Tensor, v: Tensor, kept: Sequence[KeyValues]
) -> None:
    for span in spans:
        room = kept[span.request]
        at = slice(span.first, span.last)
        room.keys[number, :, at] = _by_head(k[span.rows], layer)
        room.values[number, :, at] = _by_head(v[span.rows], layer)


def _by_head(rows: Tensor, layer: HstuLayer) -> Tensor:
    """(Q, D) -> (H, Q, d), a view."""
    return rows.view(len(rows), layer.heads, -1).transpose(0, 1)
