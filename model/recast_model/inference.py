"""Inference as it is served: evaluation mode, no gradient, TAE in float16.

The foundation's server, the trainer's log pass and every evaluation call these functions and nothing else, so that
what an expert learned from is what it is later given. Callers cut histories to the configuration's limit
(:mod:`recast_model.features`), which is the serving limit too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel

TAE_DTYPE = torch.float16
"""What TAE are logged and sent as."""


@torch.inference_mode()
def embed(model: FoundationModel, batch: RequestBatch) -> Tensor:
    """TAE (B, M, D) in :data:`TAE_DTYPE`. The model's mode is left as it was."""
    with _evaluating(model):
        return model.tae(batch).to(TAE_DTYPE)


@torch.inference_mode()
def embed_and_predict(model: FoundationModel, batch: RequestBatch) -> tuple[Tensor, Tensor]:
    """As :func:`embed`, the same bytes, with the main heads' logits (B, M, T) float32 beside them."""
    with _evaluating(model):
        tae = model.tae(batch)
        logits: Tensor = model.heads(tae)
    return tae.to(TAE_DTYPE), logits.float()


@torch.inference_mode()
def score(model: ExpertModel, batch: RequestBatch, tae: Tensor, tae_present: Tensor) -> Tensor:
    """Logits (B, M, T) float32 from TAE (B, M, D) as logged or received; ``tae_present`` (B,) bool."""
    with _evaluating(model):
        logits: Tensor = model(batch, tae.float(), tae_present)
    return logits.float()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
