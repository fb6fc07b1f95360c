"""How much of what an expert has learned beside its foundation's heads is worth having.

Each batch of the last phase is scored before it is learned, by the foundation's heads alone and with all that was
learned. A logit part of the way from one to the other has a log loss that is convex in that part, so a few parts tell
where the least lies. What does not gain there gets the part 0: the expert lands as the foundation's heads.

Labels that wait longer than half of the tail are not known there in time. Then the newer half of the first epoch, each
batch before it was learned, tells what the last phase cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recast_model.batch import RequestBatch
from recast_model.distributed import sum_over_ranks
from recast_model.expert import ExpertModel
from recast_model.inference import score

SHARES = torch.linspace(0, 1, 11, dtype=torch.float64)


class ShareSearch:
    """Log losses of an expert's T tasks at each of :data:`SHARES`, in sums that a checkpoint can hold."""

    def __init__(self, tasks: int) -> None:
        self.sums = torch.zeros(tasks, 1 + len(SHARES), dtype=torch.float64)
        """By task the labels that were counted, then their loss at each share."""

    def add(self, model: ExpertModel, batch: RequestBatch, tae: Tensor, present: Tensor) -> None:
        """Score a batch before it is learned. A collective call: every rank makes it, and has the same sums after it.

        Requests without TAE do not count: the share says nothing of them.
        """
        assert batch.labels is not None
        assert batch.label_mask is not None
        columns = list(model.config.task_columns)
        mask = batch.label_mask[..., columns] & (batch.candidate_mask & present[:, None])[..., None]  # (B, M, T)
        labels = torch.where(mask, batch.labels[..., columns], 0.0).double()
        heads, whole = (
            torch.where(mask, logits, 0.0).double()
            for logits in (model.foundation_heads(tae.float()).detach(), score(model, batch, tae, present))
        )
        logits = [torch.lerp(heads, whole, share) for share in SHARES.tolist()]
        losses = [binary_cross_entropy_with_logits(each, labels, reduction="none") * mask for each in logits]
        self.sums += sum_over_ranks(torch.stack([mask.double(), *losses], -1).sum((0, 1))).cpu()

    def best(self) -> Tensor:
        """(T,) the share of the least loss, the lowest of several: 0 where nothing was counted."""
        return SHARES[self.sums[:, 1:].argmin(-1)]

    def or_else(self, earlier: ShareSearch) -> ShareSearch:
        """This search, and of tasks of which it counted no label the earlier one."""
        found = ShareSearch(len(self.sums))
        found.sums = torch.where(self.sums[:, :1] > 0, self.sums, earlier.sums)
        return found

    def said(self, tasks: Sequence[str]) -> str:
        """One line for people: the chosen shares, with the mean losses of the heads alone and of that share."""
        found = zip(tasks, self.best().tolist(), self.sums.tolist(), strict=True)
        return "  ".join(f"{task} {share:.1f} ({_why(*sums)})" for task, share, sums in found)


def _why(labels: float, *losses: float) -> str:
    if not labels:
        return "no label was known in time to tell"
    return f"log loss {losses[0] / labels:.4f} -> {min(losses) / labels:.4f}"
