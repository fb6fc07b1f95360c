"""Which rank holds which row of a table, and the way of a lookup to the rows' owners and back.

Of W ranks, rank r mod W holds row r, at place r div W. Ids are dense and neighbours are alike in popularity, so ranges
of them would leave one rank most of the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recast_model.distributed import collect, exchange, exchange_counts


def rows_held(rows: int, ranks: int) -> int:
    """Rows that each rank has room for; all the same, so that the last place of some is not used."""
    return -(-rows // ranks)


def rows_of(whole: Tensor, rank: int, ranks: int) -> Tensor:
    """A rank's rows of a whole table (rows, ...), in the order of their places."""
    return whole[rank::ranks]


def by_owner(ids: Tensor, ranks: int) -> tuple[Tensor, list[int]]:
    """The order (K,) that puts ids (K,) owner after owner, otherwise as they were, and how many each owner has."""
    owners = ids % ranks
    return torch.argsort(owners, stable=True), torch.bincount(owners, minlength=ranks).tolist()


def collect_rows(held: Tensor, rows: int, ranks: int) -> Tensor | None:
    """The whole (rows, ...) of what each rank holds of it, on the first rank and there on the CPU; None on the others.

    Every rank must call it. It travels in chunks, so that only the first rank needs memory for it.
    """
    if ranks == 1:
        return held
    whole: Tensor | None = None
    for start, parts in collect(held):
        if whole is None:
            whole = torch.empty(len(held), ranks, *held.shape[1:], dtype=held.dtype)
        for rank, part in enumerate(parts):
            whole[start : start + len(part), rank] = part.cpu()
    return None if whole is None else whole.flatten(0, 1)[:rows]


@dataclass(frozen=True)
class Route:
    """The way of one lookup of distinct ids (K,), of which others ask for L rows of this rank; K and L may differ.

    With one rank it leads nowhere, and what goes along it stays as it is.
    """

    order: Tensor  # (K,), owner after owner
    asked: Tensor  # (L,) places of this rank's rows, rank after rank of those that asked
    sent: list[int]
    """Ids that this rank asked each rank for."""
    received: list[int]
    """Ids that each rank asked this one for."""

    @classmethod
    def of(cls, ids: Tensor, ranks: int) -> Route:
        """Tell owners what is asked of them. Every rank must call it, if only with no ids."""
        order, sent = by_owner(ids, ranks)
        received = exchange_counts(sent, ids.device)
        places = torch.div(ids[order], ranks, rounding_mode="floor")
        return cls(order, exchange(places, sent, received), sent, received)

    def answer(self, rows: Tensor) -> Tensor:
        """What was asked of this rank (L, D) for what it asked itself (K, D), in the order of its ids."""
        found = exchange(rows, self.received, self.sent)
        return torch.empty_like(found).index_copy_(0, self.order, found)

    def to_owners(self, gradients: Tensor) -> list[tuple[Tensor, Tensor]]:
        """This rank's (K, D) go to the rows' owners; of each rank, places and gradients of rows that are held here."""
        found = exchange(gradients[self.order], self.sent, self.received)
        return list(zip(torch.split(self.asked, self.received), torch.split(found, self.received), strict=True))
