"""How much work a forward pass is, from a formula: what servers order and batch requests by. No torch here."""

from __future__ import annotations

from recast_model.config import ExpertConfig, FoundationConfig


def forward_flops(config: FoundationConfig | ExpertConfig, history: int, candidates: int) -> float:
    """Floating-point operations of an HSTU stack for one request, a multiplication and an addition counted as two.

    Of the last layer, history has keys and values alone (:class:`recast_model.hstu.HstuLayer`). Embedding look-ups and
    heads are left out: they grow with rows alike and are small beside a layer.
    """
    dim, layers = config.dim, config.layers
    joined = 1 if config.block == "Research" else 3
    row = 2 * dim * dim * (4 + joined)
    past = (layers - 1) * (history * row + 2 * dim * history * history) + 4 * dim * dim * history
    shown = layers * candidates * (row + 4 * dim * (history + 1))
    return float(past + shown)
