"""Binary cross entropy summed over valid samples, divided by how many there are on all ranks.

Every rank divides by the same global count, so the gradient of a global batch is the *sum* of the ranks' gradients
(:func:`recast_model.distributed.sum_gradients`): the same as one process gives on the whole batch, however unevenly
labels fall on ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recast_model.batch import RequestBatch
from recast_model.distributed import sum_over_ranks
from recast_model.foundation import FoundationOutput

ALIGNMENT_WEIGHT = 0.2


@dataclass(frozen=True)
class Loss:
    """``total`` is for backward: this rank's part of the global loss. The rest is this rank's alone, detached."""

    total: Tensor
    main_sum: Tensor
    valid: Tensor  # labels on this rank, or their weights


def masked_bce_sum(logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the log loss over elements (any shape) where ``mask`` is true; the rest counts nothing, even NaN.

    ``weights`` (of the same shape): how often each counts.
    """
    safe = torch.where(mask, logits, 0.0)
    loss = F.binary_cross_entropy_with_logits(safe, torch.where(mask, labels, 0.0), reduction="none")
    return (loss * (mask if weights is None else mask * weights)).sum()


def foundation_loss(output: FoundationOutput, batch: RequestBatch, aux_weight: float = ALIGNMENT_WEIGHT) -> Loss:
    """Main multi-task loss plus ``aux_weight`` times the alignment loss. A collective call: every rank makes it."""
    labels, mask = _labels_and_mask(batch)
    main = masked_bce_sum(output.logits, labels, mask)
    aux = masked_bce_sum(output.aux_logits, labels, mask)
    valid = mask.sum()
    count = sum_over_ranks(valid).clamp(min=1)
    return Loss((main + aux_weight * aux) / count, main.detach(), valid)


def expert_loss(logits: Tensor, batch: RequestBatch, columns: Sequence[int], weights: Tensor | None = None) -> Loss:
    """Loss of an expert's tasks (B, M, T), which are ``columns`` of the batch's labels. A collective call.

    ``weights`` (B, M) is how much each candidate's labels count, such as one over the probability that they are there
    (Horvitz and Thompson, 1952); the sum is divided by theirs. Either all ranks give them or none does.
    """
    labels, mask = _labels_and_mask(batch)
    mask = mask[..., list(columns)]
    each = None if weights is None else weights[..., None].expand(mask.shape)
    main = masked_bce_sum(logits, labels[..., list(columns)], mask, each)
    valid = mask.sum() if each is None else (mask * each).sum()
    return Loss(main / sum_over_ranks(valid).clamp(min=1), main.detach(), valid)


def _labels_and_mask(batch: RequestBatch) -> tuple[Tensor, Tensor]:
    if batch.labels is None or batch.label_mask is None:
        raise ValueError("a batch without labels cannot be learned from")
    return batch.labels, batch.label_mask & batch.candidate_mask[..., None]
