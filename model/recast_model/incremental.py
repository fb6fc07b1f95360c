"""A foundation whose histories are computed once: keys and values are kept, new events appended, candidates scored.

Rows of history depend on themselves and earlier rows of their window alone, so keys and values of a window's beginning
are those of every longer window that begins alike. What is relative to the request stands on candidates. So for any
split of a window into appends, and of candidates into groups, embeddings are those of
:meth:`recast_model.foundation.FoundationModel.tae` but for the order of sums.

Projections run on the packed rows of all requests, events and candidates together, attention request by request where
keys and values are kept. A layer's keys and values of new events are there before anything attends to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
SPANS = 64
"""Spans of rows in a pass, at most, each of one request, for the same reason."""
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
    """Some consecutive rows of one request, events of its window or candidates, and where they lie among all such."""

    request: int
    first: int
    last: int
    rows: slice


@dataclass(frozen=True)
class _Pass:
    """What is computed at a time."""

    events: list[_Span] = field(default_factory=list)
    candidates: list[_Span] = field(default_factory=list)

    @property
    def event_rows(self) -> int:
        """Rows before those of candidates."""
        return self.events[-1].rows.stop if self.events else 0


class IncrementalFoundation:
    """``model`` in evaluation mode; its weights must not change after this. Nothing here is for training.

    Where the model is given other items without rows (:meth:`recast_model.tokens.TokenEncoder.extend`), what was kept
    from the first event of such an item on is of the old ones.
    """

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
        terms = SPANS * config.layers * config.heads * config.history_length
        return 4 * (ROWS * row + scores + terms) + 12 * ROWS * config.history_length

    def append(self, batch: RequestBatch, known: Sequence[int], kept: Sequence[KeyValues], rows: int = ROWS) -> None:
        """Compute keys and values of the windows of a batch, into ``kept``, of which the first ``known`` are there.

        ``known`` and ``kept`` are one a request; no two requests may share what is written. With ``known`` 0 this is
        a prefill. Raises ``ValueError`` where a window is longer than the version's or than its room.
        """
        self._compute(batch, known, kept, [0] * len(batch), rows)

    def score(self, batch: RequestBatch, kept: Sequence[KeyValues], rows: int = ROWS) -> list[Tensor]:
        """TAE (M, tae_dim) float32 of each request's candidates, without padding.

        The first ``history_lengths`` rows of ``kept``, one a request, must be those of its window.
        """
        return self.append_and_score(batch, batch.history_lengths.tolist(), kept, rows)

    def append_and_score(
        self, batch: RequestBatch, known: Sequence[int], kept: Sequence[KeyValues], rows: int = ROWS
    ) -> list[Tensor]:
        """As :meth:`append` and then :meth:`score`, in as few passes as there are rows for."""
        return self._compute(batch, known, kept, batch.candidate_mask.sum(1).tolist(), rows)

    @torch.inference_mode()
    def _compute(
        self, batch: RequestBatch, known: Sequence[int], kept: Sequence[KeyValues], counts: Sequence[int], rows: int
    ) -> list[Tensor]:
        lengths = batch.history_lengths.tolist()
        longest = max(lengths, default=0)
        if longest > self.model.config.history_length:
            raise ValueError(f"a history of {longest} events is longer than the version's")
        if any(length > room.capacity for length, room in zip(lengths, kept, strict=True)):
            raise ValueError("a history is longer than the room for its keys and values")
        shared = self.model.tokens.of_requests(batch)  # (B, D)
        buckets = time_bucket(batch.request_times[:, None] - batch.history_times)  # (B, N)
        parts: list[list[Tensor]] = [[] for _ in counts]
        for part in _passes(known, lengths, counts, rows):
            embedded = self._run(batch, part, shared, buckets, kept)
            for span in part.candidates:
                parts[span.request].append(embedded[span.rows])
        empty = shared.new_empty(0, self.model.config.tae_dim)
        return [torch.cat(part) if part else empty for part in parts]

    def _run(
        self, batch: RequestBatch, part: _Pass, shared: Tensor, buckets: Tensor, kept: Sequence[KeyValues]
    ) -> Tensor:
        """TAE (C, tae_dim) of the candidates of a pass, after the keys and values of its events."""
        pairs = [_pairs(batch.history_times[span.request], span) for span in part.events]
        terms = [self._terms(batch, buckets, span.request) for span in part.candidates]
        rows, past = self._tokens(batch, part, shared), part.event_rows  # (R + C, D), R
        *inner, last = self._layers
        for number, layer in enumerate(inner):
            u, q, k, v = layer.gates_queries_keys_values(rows)
            _keep(number, layer, part.events, k, v, kept)
            attended = torch.empty_like(rows)
            for span, groups in zip(part.events, pairs, strict=True):
                for own, known, bucket in groups:
                    at = slice(span.rows.start + own.start, span.rows.start + own.stop)
                    attended[at] = self._attend(number, layer, q[at], kept[span.request], known, bucket)
            attended[past:] = self._attend_of_candidates(
                number, layer, (q[past:], k[past:], v[past:]), part, terms, kept
            )
            rows = rows + layer.update(u, attended.div_(layer.attn_norm_len))
        number = len(inner)
        if part.events:
            k, v = last.keys_values(rows[:past])
            _keep(number, last, part.events, k, v, kept)
        if not part.candidates:
            return rows[past:]
        rows = rows[past:]
        u, q, k, v = last.gates_queries_keys_values(rows)
        attended = self._attend_of_candidates(number, last, (q, k, v), part, terms, kept)
        embedded: Tensor = self.model.embed(rows + last.update(u, attended.div_(last.attn_norm_len)))
        return embedded

    def _tokens(self, batch: RequestBatch, part: _Pass, shared: Tensor) -> Tensor:
        """Rows of a pass: first all events, then all candidates."""
        found = []
        if part.events:
            places = torch.cat([torch.arange(span.first, span.last) for span in part.events])
            requests = torch.cat([torch.full((span.last - span.first,), span.request) for span in part.events])
            found.append(self.model.tokens.of_events(Events.at(batch, requests, places)))
        if part.candidates:
            items = torch.cat([batch.candidates[span.request, span.first : span.last] for span in part.candidates])
            own = torch.cat([shared[span.request].expand(span.last - span.first, -1) for span in part.candidates])
            found.append(self.model.tokens.of_candidates(items, own))
        return torch.cat(found)

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

    def _attend_of_candidates(
        self,
        number: int,
        layer: HstuLayer,
        projected: tuple[Tensor, Tensor, Tensor],
        part: _Pass,
        terms: Sequence[Tensor],
        kept: Sequence[KeyValues],
    ) -> Tensor:
        """(C, D) of the queries, keys and values (C, D) of a pass's candidates."""
        q, k, v = (rows.view(len(rows), layer.heads, layer.dim // layer.heads) for rows in projected)  # (C, H, d)
        attended = candidate_attends_itself(q, k, v, self._nearest[number], scale=layer.scale)
        for span, of_request in zip(part.candidates, terms, strict=True):
            if length := of_request.shape[3]:
                room = kept[span.request]
                attended[span.rows] += candidates_attend(
                    q[span.rows].transpose(0, 1),
                    room.keys[number, :, :length],
                    room.values[number, :, :length],
                    of_request[number],
                    scale=layer.scale,
                ).transpose(0, 1)
        return attended.flatten(1)

    def _terms(self, batch: RequestBatch, buckets: Tensor, request: int) -> Tensor:
        """(L, H, 1, N): what is added to the scores of all candidates of a request, in every layer."""
        length, longest = int(batch.history_lengths[request]), self.model.config.history_length
        by_time = self._time.index_select(2, buckets[request, :length])
        return by_time.add_(self._falling[:, :, longest - length : longest])[:, :, None]


def _passes(known: Sequence[int], lengths: Sequence[int], counts: Sequence[int], rows: int) -> Iterator[_Pass]:
    """Of each request the events that are not known, in their order, and then its candidates.

    A pass has at most ``rows`` rows in at most :data:`SPANS` spans, and of each request events that follow each
    other.
    """
    part, filled = _Pass(), [0, 0]
    for request, (begin, length, count) in enumerate(zip(known, lengths, counts, strict=True)):
        for kind, first, last in ((0, begin, length), (1, 0, count)):
            while first < last:
                taken = min(last - first, rows - sum(filled))
                at = slice(filled[kind], filled[kind] + taken)
                (part.events, part.candidates)[kind].append(_Span(request, first, first + taken, at))
                first, filled[kind] = first + taken, at.stop
                if sum(filled) == rows or len(part.events) + len(part.candidates) >= SPANS:
                    yield part
                    part, filled = _Pass(), [0, 0]
    if sum(filled):
        yield part


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
