"""Sums and exchanges over ranks. Without a process group they are the identity: one code path for both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

CHUNK_ROWS = 65_536
"""Rows that travel in one message where a whole table does."""


def world_size() -> int:
    """Ranks of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """This process's place in the process group; 0 without one."""
    return dist.get_rank() if world_size() > 1 else 0


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

    All ranks get the same tensors in the same order.
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


def exchange_counts(sent: list[int], device: torch.device) -> list[int]:
    """From how much each rank gets of this one, how much this one gets of each."""
    if len(sent) == 1:
        return sent
    counts = torch.tensor(sent, device=device)
    received = torch.empty_like(counts)
    dist.all_to_all_single(received, counts)
    found: list[int] = received.tolist()
    return found


def exchange(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send ``rows`` (sum of sent, ...), which lie by the rank that gets them; gives those that came, by rank too."""
    if len(sent) == 1:
        return rows
    found = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), received, sent)
    return found


def collect(rows: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """Each rank's ``rows`` (N, ...), of one shape, on the first rank: a place, and from there some rows of each rank.

    It needs a process group. Every rank must go through it; nothing is yielded on the others.
    """
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS].contiguous()
        parts = [torch.empty_like(part) for _ in range(world_size())] if own_rank() == 0 else None
        dist.gather(part, parts)
        if parts is not None:
            yield start, parts
