"""Sums and exchanges over ranks. Without a process group all of these are the identity: one code path for both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Ranks of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of each rank's tensor (any shape), the same on all ranks; detached."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace dense gradients with their sum over ranks, in one message. A missing gradient counts as zero."""
    if world_size() == 1:
        return
    chosen = [parameter for parameter in parameters if parameter.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in chosen])
    dist.all_reduce(flat)
    for parameter, part in zip(chosen, torch.split(flat, [p.numel() for p in chosen]), strict=True):
        parameter.grad = part.view_as(parameter)


def gather_rows(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every rank's ids (K,) int64 and rows (K, D), one rank after the other; K may differ by rank.

    All ranks get the same tensors in the same order, so that equal replicas stay bitwise equal.
    """
    world = world_size()
    if world == 1:
        return ids, rows
    size = torch.tensor([len(ids)], device=ids.device)
    sizes = [torch.zeros_like(size) for _ in range(world)]
    dist.all_gather(sizes, size)
    counts = [int(count) for count in sizes]
    longest = max(counts)
    if not longest:
        return ids, rows
    # gloo gathers equal shapes only: pad to the longest, cut after.
    padded_ids = ids.new_zeros(longest)
    padded_rows = rows.new_zeros(longest, rows.shape[1])
    padded_ids[: len(ids)], padded_rows[: len(ids)] = ids, rows
    all_ids = [torch.empty_like(padded_ids) for _ in range(world)]
    all_rows = [torch.empty_like(padded_rows) for _ in range(world)]
    dist.all_gather(all_ids, padded_ids)
    dist.all_gather(all_rows, padded_rows)
    return (
        torch.cat([part[:count] for part, count in zip(all_ids, counts, strict=True)]),
        torch.cat([part[:count] for part, count in zip(all_rows, counts, strict=True)]),
    )
