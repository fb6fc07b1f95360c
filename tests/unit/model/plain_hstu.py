"""Both forms of the block as their papers' formulas, one request, head, row and key at a time.

Written from arXiv 2402.17152 (``Research``) and from DLRM-v3's block, with the terms for places and times of the former
in both: a candidate stands one place after the last event, at the request's time. Nothing here
is vectorised over rows, packed or padded, so that nothing of the product's own arithmetic is repeated by mistake. Every
constant is written out: eps 1e-6 before the projections, 1e-8 after the attention, on O * sqrt(N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recast_model.hstu import HstuLayer


@dataclass(frozen=True)
class PlainRequest:
    """One request: its events' rows (n of D) with their times, and its candidates' rows (M of D) with one time."""

    events: list[Tensor]
    candidates: list[Tensor]
    event_times: list[int]
    time: int


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def layer_norm(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    centred = x - x.sum() / len(x)
    normed = centred / torch.sqrt((centred * centred).sum() / len(x) + eps)
    if weight is not None:
        normed = normed * weight
    return normed if bias is None else normed + bias


def bucket(milliseconds: int) -> int:
    """Two per doubling of 1 + minutes, 32 in all."""
    return min(31, math.floor(2 * math.log2(1 + max(0, milliseconds) / 60_000)))


def project(made: HstuLayer, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U, Q, K and V (D) of a row, each with the form's own activation."""
    normed = layer_norm(row, 1e-6, made.norm.weight, made.norm.bias)
    d = len(row)
    parts = []
    for place in range(4):
        part = torch.stack([made.project.weight[place * d + out] @ normed for out in range(d)])
        if made.project.bias is not None:
            part = part + made.project.bias[place * d : (place + 1) * d]
        parts.append(part)
    u, q, k, v = parts
    if made.research:
        return silu(u), silu(q), silu(k), silu(v)
    return silu(u), q, k, v


def combine(made: HstuLayer, row: Tensor, u: Tensor, attended: Tensor, norm_len: int) -> Tensor:
    """The row after the block."""
    weight, bias = made.attended_norm.weight, made.attended_norm.bias
    gated = u * layer_norm(attended * math.sqrt(norm_len), 1e-8, weight, bias)
    joined = gated if made.research else torch.cat([u, attended, gated])
    update = torch.stack([made.output.weight[out] @ joined for out in range(len(row))])
    return row + update if made.output.bias is None else row + update + made.output.bias


def block(made: HstuLayer, request: PlainRequest, *, heads: int, norm_len: int) -> tuple[list[Tensor], list[Tensor]]:
    """A request's events and candidates after one block."""
    d = len(request.candidates[0]) // heads
    events = [project(made, row) for row in request.events]
    candidates = [project(made, row) for row in request.candidates]
    longest = made.bias.position.shape[0] - 1
    count = len(events)

    def term(head: int, distance: int, elapsed: int) -> Tensor:
        return made.bias.position[min(distance, longest), head] + made.bias.time[bucket(elapsed), head]

    def score(q: Tensor, k: Tensor, head: int) -> Tensor:
        dot = q[head * d : (head + 1) * d] @ k[head * d : (head + 1) * d]
        return dot if made.research else dot / math.sqrt(d)

    def attend(head: int, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        total = torch.zeros(d, dtype=torch.float64)
        for scored, v in pairs:
            total = total + silu(scored) / norm_len * v[head * d : (head + 1) * d]
        return total

    new_events = []
    for i, (u, q, _, _) in enumerate(events):
        by_head = []
        for head in range(heads):
            pairs = []
            for j in range(i + 1):  # itself and what came before
                _, _, k, v = events[j]
                elapsed = request.event_times[i] - request.event_times[j]
                pairs.append((score(q, k, head) + term(head, i - j, elapsed), v))
            by_head.append(attend(head, pairs))
        new_events.append(combine(made, request.events[i], u, torch.cat(by_head), norm_len))

    new_candidates = []
    for row, (u, q, own_k, own_v) in zip(request.candidates, candidates, strict=True):
        by_head = []
        for head in range(heads):
            pairs = [(score(q, own_k, head) + term(head, 0, 0), own_v)]
            for j, (_, _, k, v) in enumerate(events):
                pairs.append((score(q, k, head) + term(head, count - j, request.time - request.event_times[j]), v))
            by_head.append(attend(head, pairs))
        new_candidates.append(combine(made, row, u, torch.cat(by_head), norm_len))
    return new_events, new_candidates
