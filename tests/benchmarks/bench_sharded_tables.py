"""What a table's step costs over ranks: its rows spread over them, beside whole tables that gather all gradients.

Each rank looks up Zipf-distributed ids with many duplicates, takes a gradient, and the table is updated once for all.
Bytes are those of the messages themselves, counted where torch.distributed is called, without what a rank sends
itself. Run: ``python tests/benchmarks/bench_sharded_tables.py --json tables.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from recast_model.distributed import gather_rows
from recast_model.embeddings import EmbeddingTable, TableOptimizer

OPTIMIZER = TableOptimizer(learning_rate=0.01)
Step = Callable[[Tensor, Tensor], None]
"""Ids (N,) and the gradients (N, dim) of what they look up."""


class Counted:
    """Bytes that this rank sends to others and gets from them."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        all_to_all, all_gather, all_reduce = dist.all_to_all_single, dist.all_gather, dist.all_reduce
        rank, others = dist.get_rank(), dist.get_world_size() - 1

        def to_all(output: Tensor, given: Tensor, out: Any = None, into: Any = None) -> None:
            even = [1] * (others + 1)
            self._count(given, sum(into or even) - (into or even)[rank])
            self._count(output, sum(out or even) - (out or even)[rank], received=True)
            all_to_all(output, given, out, into)

        def gather(outputs: list[Tensor], given: Tensor) -> None:
            self._count(given, len(given) * others)
            self._count(given, len(given) * others, received=True)
            all_gather(outputs, given)

        def reduce(total: Tensor) -> None:
            self.sent += total.nbytes * others
            self.received += total.nbytes * others
            all_reduce(total)

        watched: Any = dist
        watched.all_to_all_single, watched.all_gather, watched.all_reduce = to_all, gather, reduce

    def _count(self, tensor: Tensor, rows: int, *, received: bool = False) -> None:
        size = rows * tensor.element_size() * tensor[:1].numel() if rows else 0
        if received:
            self.received += size
        else:
            self.sent += size


def spread(table: EmbeddingTable, ids: Tensor, gradients: Tensor) -> None:
    """The product's step."""
    table(ids).backward(gradients)
    table.step(max_norm=1e9)


def gathered(table: EmbeddingTable, ids: Tensor, gradients: Tensor) -> None:
    """A step of whole tables: each rank sends all others what it has learned of each row, and all update all."""
    found = functional.embedding(ids, table.weight).requires_grad_()
    found.backward(gradients)  # type: ignore[no-untyped-call]
    assert found.grad is not None
    distinct, place = torch.unique(ids, return_inverse=True)
    sums = torch.zeros(len(distinct), table.dim).index_add_(0, place, found.grad)
    everybodys, parts = gather_rows(distinct, sums)
    distinct, place = torch.unique(everybodys, return_inverse=True)
    table._update(distinct, torch.zeros(len(distinct), table.dim).index_add_(0, place, parts))


def held(table: EmbeddingTable) -> int:
    """Bytes of the rows and of the optimiser's state that this rank holds."""
    return sum(tensor.nbytes for tensor in (table.weight, *table._optimizer_rows().values()))


def batches(options: argparse.Namespace, rank: int) -> list[Tensor]:
    """A rank's ids of each step. Popular ids are the low ones, as in a catalogue in order of popularity."""
    random = np.random.default_rng(rank)
    popularity = 1 / np.arange(1, options.rows) ** options.zipf
    cumulated = np.cumsum(popularity / popularity.sum())
    drawn = np.searchsorted(cumulated, random.random((options.steps, options.batch)))
    return list(torch.from_numpy(1 + drawn.clip(max=options.rows - 2)))


def _rank(rank: int, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    whole = EmbeddingTable("whole", options.rows, options.dim, OPTIMIZER).train()  # before there is a group
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=options.ranks)
    rows = EmbeddingTable("spread", options.rows, options.dim, OPTIMIZER).train()
    counted, ids = Counted(), batches(options, rank)
    gradients = torch.randn(options.batch, options.dim, generator=torch.Generator().manual_seed(rank)) * 1e-3
    kinds: dict[str, Step] = {
        "spread": lambda *given: spread(rows, *given),
        "gathered": lambda *given: gathered(whole, *given),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    moved: dict[str, list[tuple[int, int]]] = {kind: [] for kind in kinds}
    for step in ids:
        for kind, update in kinds.items():  # in turns: both meet the same weather
            dist.barrier()
            counted.sent = counted.received = 0
            began = time.perf_counter()
            update(step, gradients)
            seconds[kind].append(time.perf_counter() - began)
            moved[kind].append((counted.sent, counted.received))
    found = rows.state_dict()
    if rank == 0:
        torch.testing.assert_close(found["weight"], whole.weight, atol=1e-4, rtol=1e-4)
    report = {
        kind: {
            "sent": np.mean([sent for sent, _ in moved[kind]]),
            "received": np.mean([received for _, received in moved[kind]]),
            "seconds": float(np.median(seconds[kind])),
            "held": held(rows if kind == "spread" else whole),
        }
        for kind in kinds
    }
    report["distinct"] = {"ids": np.mean([len(torch.unique(step)) for step in ids])}
    Path(folder, f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures, of the rank that moves or holds most."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (options, folder), nprocs=options.ranks)  # type: ignore[no-untyped-call]
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(options.ranks)]
    figures: dict[str, Any] = {key: getattr(options, key) for key in ("rows", "dim", "batch", "ranks", "steps", "zipf")}
    figures["distinct_ids_per_rank"] = round(max(each["distinct"]["ids"] for each in ranks))
    for kind in ("spread", "gathered"):
        figures[kind] = {
            "mb_moved_per_step_per_rank": max(each[kind]["sent"] + each[kind]["received"] for each in ranks) / 1e6,
            "mb_sent_by_rank": [each[kind]["sent"] / 1e6 for each in ranks],
            "table_mb_per_rank": max(each[kind]["held"] for each in ranks) / 1e6,
            "ms_per_step": max(each[kind]["seconds"] for each in ranks) * 1e3,
        }
    return figures


def main() -> None:
    """Print the figures, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16_384, help="ids that each rank looks up in a step")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of the ids' popularity")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    text = json.dumps(measure(options), indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
