"""Embedding tables: FBGEMM's fused optimiser behind one wrapper, with one update for a global batch.

The rows of a table that trains lie spread over the ranks (:mod:`recast_model.sharding`). A forward pass asks the rows'
owners for them and remembers the way; backward leaves gradients; :meth:`EmbeddingTable.step` sends their sums to the
owners, each of which applies those of all ranks in a single fused update. An update for each rank's gradients would be
off by half where ranks share a row (measured). A gradient that is not finite is found before the update, on every rank
alike: a fused update cannot be undone.

A table made without an optimiser is whole on every rank, only looks up, and needs no FBGEMM: that is what servers load.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recast_api.run import RecastError
from recast_model.distributed import own_rank, sum_over_ranks, world_size
from recast_model.sharding import Route, collect_rows, rows_held, rows_of


@dataclass(frozen=True)
class TableOptimizer:
    """The fused update of a table. ``SGD`` shows the scale of a gradient, which Adagrad hides."""

    kind: Literal["RowwiseAdagrad", "SGD"] = "RowwiseAdagrad"
    learning_rate: float = 0.05
    eps: float = 1e-8


class EmbeddingTable(nn.Module):
    """``rows`` vectors of ``dim`` float32. Row 0 is padding: always zero, never updated.

    The weight is part of ``state_dict()`` but not of ``parameters()``: no dense optimiser ever sees it. Rows start at
    zero, so that an item that was never trained adds nothing to its content. A table that only looks up moves with its
    model; one with an optimiser is made where it trains and stays there, since FBGEMM holds its storage.

    With an optimiser and several ranks each holds some of the rows: every rank must then take part in each lookup, with
    as many ids as it likes, and in ``state_dict()`` and :meth:`optimizer_state`, which give the first rank the whole
    table and the others none of it. Whole tables are what is loaded, by any number of ranks.
    """

    _weight: Tensor

    def __init__(
        self,
        name: str,
        rows: int,
        dim: int,
        optimizer: TableOptimizer | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.name, self.rows, self.dim, self.optimizer = name, rows, dim, optimizer
        # Held outside the module tree, which would offer the fused weights to a dense optimiser.
        self._fused: list[Any] = []
        self._pending: list[tuple[Route, Tensor]] = []
        self.rank, self.ranks = (0, 1) if optimizer is None else (own_rank(), world_size())
        if optimizer is None:
            weight = torch.zeros(rows, dim, device=device)
        else:
            fused = _fused_table(rows_held(rows, self.ranks), dim, optimizer, torch.device(device))
            self._fused.append(fused)
            weight = fused.split_embedding_weights()[0].detach()  # the live storage still
            weight.zero_()
        self.register_buffer("_weight", weight, persistent=False)  # saved as "weight", below

    @property
    def weight(self) -> Tensor:
        """(rows, dim) float32, the live storage; of several ranks, the rows that this one holds."""
        return self._weight.detach()

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., dim) of ids (...) int64 in any layout. Raises ``IndexError`` for an id outside the table."""
        flat = ids.reshape(-1)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.rows:
            raise IndexError(f'table "{self.name}" has rows 0..{self.rows - 1}, asked for {int(flat.max())}')
        learning = bool(self._fused) and self.training and torch.is_grad_enabled()
        if self.ranks == 1 and not learning:
            return F.embedding(flat, self._weight.detach()).view(*ids.shape, self.dim)
        distinct, place = torch.unique(F.pad(flat, (1, 0)), return_inverse=True)  # with padding, in any case the first
        route = Route.of(distinct[1:], self.ranks)
        rows = route.answer(self._weight.detach()[route.asked])
        if learning:
            rows.requires_grad_()
            self._pending.append((route, rows))
        return F.embedding(place[1:], F.pad(rows, (0, 0, 1, 0))).view(*ids.shape, self.dim)

    def step(self, rate_factor: float = 1.0, max_norm: float = math.inf) -> None:
        """Apply the gradients of all lookups since the last step, of all ranks, in one update.

        The update has ``rate_factor`` times the optimiser's learning rate; gradients whose norm over all rows exceeds
        ``max_norm`` are scaled down to it. Every rank must call it. Raises ``NotFinite`` on all ranks, with the table
        untouched, if any gradient is not finite, and ``RuntimeError`` for a table without an optimiser.
        """
        if not self._fused:
            raise RuntimeError(f'table "{self.name}" was made without an optimiser')
        places, gradients = self._take_pending()
        # In float64 the square of no finite gradient overflows: the sum is finite just where all gradients are.
        norm = sum_over_ranks(torch.linalg.vector_norm(gradients, dtype=torch.float64) ** 2).sqrt()
        if not torch.isfinite(norm):
            raise RecastError(
                "NotFinite",
                f'the gradient of table "{self.name}" is not finite; the table was left as it was. '
                "Lower spec.training.learningRate",
            )
        if norm > max_norm:
            gradients = gradients * (max_norm / norm)
        assert self.optimizer is not None
        self._fused[0].set_learning_rate(self.optimizer.learning_rate * rate_factor)
        self._update(places, gradients)

    def _update(self, places: Tensor, gradients: Tensor) -> None:
        if not places.numel():
            return
        offsets = torch.tensor([0, places.numel()], device=places.device)
        # FBGEMM on CPU reads wrong rows, silently, from a strided view.
        self._fused[0](places.contiguous(), offsets).backward(gradients.contiguous())

    def discard(self) -> None:
        """Forget lookups whose gradients are not wanted."""
        self._pending.clear()

    def _take_pending(self) -> tuple[Tensor, Tensor]:
        """Distinct places (L,) of rows held here that any rank looked up, and their gradients (L, dim), summed."""
        pending, self._pending = self._pending, []
        parts: list[tuple[Tensor, Tensor]] = []
        for route, rows in pending:
            parts += route.to_owners(torch.zeros_like(rows) if rows.grad is None else rows.grad)
        if not parts:
            device = self._weight.device
            return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, self.dim, device=device)
        distinct, inverse = torch.unique(torch.cat([places for places, _ in parts]), return_inverse=True)
        sums = torch.zeros(len(distinct), self.dim, device=distinct.device)
        lengths = [len(places) for places, _ in parts]
        for place, (_, gradients) in zip(torch.split(inverse, lengths), parts, strict=True):
            # Of one rank after the other, and of each no place twice: a GPU too adds in this order.
            sums.index_add_(0, place, gradients)
        return distinct, sums

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EmbeddingTable:
        """What ``.to()`` and its like call. Raises ``RuntimeError`` where it would part a table from its optimiser."""
        probe = fn(self._weight[:0])
        if self._fused and (probe.device, probe.dtype) != (self._weight.device, self._weight.dtype):
            raise RuntimeError(
                f'table "{self.name}" trains on {self._weight.device} and cannot be moved or converted: make the model '
                "on the device that it is to train on"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's tensors of the whole table, by name; none for SGD, nor on any but the first rank."""
        return self._whole(self._optimizer_rows())

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`optimizer_state` gave. Raises ``ValueError`` where names or shapes differ."""
        own = self._optimizer_rows()
        if own.keys() != state.keys() or any(state[key].shape != (self.rows, *own[key].shape[1:]) for key in own):
            raise ValueError(f'optimiser state of table "{self.name}" does not fit')
        for key, tensor in own.items():
            self._take_rows(tensor, state[key])

    def _optimizer_rows(self) -> dict[str, Tensor]:
        """The optimiser's live tensors of the rows held here."""
        if not self._fused or self.optimizer is None or self.optimizer.kind == "SGD":
            return {}
        state = self._fused[0].split_optimizer_states()[0]
        return {"momentum1": state[0] if isinstance(state, (list, tuple)) else next(iter(state.values()))}

    def _whole(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {name: collect_rows(tensor, self.rows, self.ranks) for name, tensor in held.items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _take_rows(self, held: Tensor, whole: Tensor) -> None:
        own = rows_of(whole, self.rank, self.ranks)
        held.data[: len(own)].copy_(own)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update(self._whole({prefix + "weight": self.weight}))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        weight = state_dict.pop(prefix + "weight", None)
        missing, errors = rest[2], rest[4]
        if weight is None:
            missing.append(prefix + "weight")
        elif weight.shape != (self.rows, self.dim):
            errors.append(f"{prefix}weight is {tuple(weight.shape)}, expected {(self.rows, self.dim)}")
        else:
            self._take_rows(self._weight, weight)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _fused_table(rows: int, dim: int, optimizer: TableOptimizer, device: torch.device) -> Any:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    on_gpu = device.type == "cuda"
    kinds = {"RowwiseAdagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "SGD": EmbOptimType.EXACT_SGD}
    place = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA) if on_gpu else (EmbeddingLocation.HOST, ComputeDevice.CPU)
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, *place)],
        optimizer=kinds[optimizer.kind],
        learning_rate=optimizer.learning_rate,
        eps=optimizer.eps,
        pooling_mode=PoolingMode.NONE,
        device=device,
    )
