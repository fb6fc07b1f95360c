"""Embedding tables: FBGEMM's fused optimiser behind one wrapper, with one update for a global batch.

A forward pass looks rows up and remembers them; backward leaves their gradients; :meth:`EmbeddingTable.step` then
exchanges (ids, gradients) between ranks and applies them all in a single fused update, the same on every replica.
Fused updates on each rank's own rows would be off by half where ranks share a row (measured). A gradient that is
not finite is found before the update, on every rank alike: a fused update cannot be undone.

A table made without an optimiser only looks up, and needs no FBGEMM: that is what servers load.
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
from recast_model.distributed import gather_rows


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
        self._pending: list[tuple[Tensor, Tensor]] = []
        if optimizer is None:
            weight = torch.zeros(rows, dim, device=device)
        else:
            fused = _fused_table(rows, dim, optimizer, torch.device(device))
            self._fused.append(fused)
            weight = fused.split_embedding_weights()[0].detach()  # the live storage still
            weight.zero_()
        self.register_buffer("_weight", weight, persistent=False)  # saved as "weight", below

    @property
    def weight(self) -> Tensor:
        """(rows, dim) float32, the live storage."""
        return self._weight.detach()

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., dim) of ids (...) int64 in any layout. Raises ``IndexError`` for an id outside the table."""
        flat = ids.reshape(-1)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.rows:
            raise IndexError(f'table "{self.name}" has rows 0..{self.rows - 1}, asked for {int(flat.max())}')
        out = F.embedding(flat, self._weight.detach())
        if self._fused and self.training and torch.is_grad_enabled():
            out.requires_grad_()
            self._pending.append((flat, out))
        return out.view(*ids.shape, self.dim)

    def step(self, rate_factor: float = 1.0, max_norm: float = math.inf) -> None:
        """Apply the gradients of all lookups since the last step, of all ranks, in one update.

        The update has ``rate_factor`` times the optimiser's learning rate; gradients whose norm over all rows exceeds
        ``max_norm`` are scaled down to it. Every rank must call it. Raises ``NotFinite`` on all ranks, with the table
        untouched, if any gradient is not finite, and ``RuntimeError`` for a table without an optimiser.
        """
        if not self._fused:
            raise RuntimeError(f'table "{self.name}" was made without an optimiser')
        ids, gradients = self._take_pending()
        ids, gradients = gather_rows(ids, gradients)
        if not torch.isfinite(gradients).all():
            raise RecastError(
                "NotFinite",
                f'the gradient of table "{self.name}" is not finite; the table was left as it was. '
                "Lower spec.training.learningRate",
            )
        norm = torch.linalg.vector_norm(gradients)
        if norm > max_norm:
            gradients = gradients * (max_norm / norm)
        assert self.optimizer is not None
        self._fused[0].set_learning_rate(self.optimizer.learning_rate * rate_factor)
        self._update(ids, gradients)

    def _update(self, ids: Tensor, gradients: Tensor) -> None:
        if not ids.numel():
            return
        offsets = torch.tensor([0, ids.numel()], device=ids.device)
        # FBGEMM on CPU reads wrong rows, silently, from a strided view.
        self._fused[0](ids.contiguous(), offsets).backward(gradients.contiguous())

    def discard(self) -> None:
        """Forget lookups whose gradients are not wanted."""
        self._pending.clear()

    def _take_pending(self) -> tuple[Tensor, Tensor]:
        """This rank's distinct ids (K,) and the sums of their gradients (K, dim), without the padding row."""
        pending = [(ids, out.grad) for ids, out in self._pending if out.grad is not None]
        self._pending.clear()
        if not pending:
            device = self._weight.device
            return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, self.dim, device=device)
        ids = torch.cat([ids for ids, _ in pending])
        gradients = torch.cat([gradient for _, gradient in pending])
        unique, place = torch.unique(ids, return_inverse=True)
        sums = torch.zeros(len(unique), self.dim, device=ids.device).index_add_(0, place, gradients)
        keep = int(unique[0] == 0)
        return unique[keep:], sums[keep:]

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
        """The optimiser's live tensors, by name; empty for SGD."""
        if not self._fused or self.optimizer is None or self.optimizer.kind == "SGD":
            return {}
        state = self._fused[0].split_optimizer_states()[0]
        return {"momentum1": state[0] if isinstance(state, (list, tuple)) else next(iter(state.values()))}

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`optimizer_state` gave. Raises ``ValueError`` where names or shapes differ."""
        own = self.optimizer_state()
        if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
            raise ValueError(f'optimiser state of table "{self.name}" does not fit')
        for key, tensor in own.items():
            tensor.data.copy_(state[key])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        weight = state_dict.pop(prefix + "weight", None)
        missing, errors = rest[2], rest[4]
        if weight is None:
            missing.append(prefix + "weight")
        elif weight.shape != self._weight.shape:
            errors.append(f"{prefix}weight is {tuple(weight.shape)}, expected {tuple(self._weight.shape)}")
        else:
            self._weight.data.copy_(weight)
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
