"""How much work a forward pass is, from a formula: what servers order and batch requests by. No torch here."""

from __future__ import annotations

from recast_model.config import ExpertConfig, FoundationConfig


def forward_flops(config: FoundationConfig | ExpertConfig, history: int, candidates: int, *, known: int = 0) -> float:
    """Floating-point operations of an HSTU stack for one request, a multiplication and an addition counted as two.

    Of the last layer, history has keys and values alone (:class:`recast_model.hstu.HstuLayer`). Embedding look-ups and
    heads are left out: they grow with rows alike and are small beside a layer. Of the history's first ``known`` events
    keys and values are there already (:mod:`recast_model.incremental`).
    """
    dim, layers = config.dim, config.layers
    joined = 1 if config.block == "Research" else 3
    row = 2 * dim * dim * (4 + joined)
    new, pairs = history - known, history * history - known * known
    past = (layers - 1) * (new * row + 2 * dim * pairs) + 4 * dim * dim * new
    shown = layers * candidates * (row + 4 * dim * (history + 1))
    return float(past + shown)
