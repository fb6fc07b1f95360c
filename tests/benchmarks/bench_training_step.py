"""A foundation's training step against a naive one, interleaved in one run: prints times and their ratio.

The naive step is the same block in its textbook form: history and candidates as one padded sequence of the full length,
the whole attention matrix under a mask, every layer computed for every row. Ours packs rows, never builds the mask and
computes only keys and values of history in the last layer. Run: ``python tests/benchmarks/bench_training_step.py``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from recast_model.batch import RequestBatch
from recast_model.config import FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.foundation import FoundationModel
from recast_model.losses import foundation_loss
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.step import Learner

CONTENT = 16


def make_batch(size: int, history: int, slate: int, items: int, surfaces: int, tasks: int) -> RequestBatch:
    """Requests whose history lengths are lognormal, about 40 % of the longest in the mean."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.randn(size, generator=random) * 0.7 + math.log(0.33 * history)).long().clamp(1, history)
    valid = torch.arange(history) < lengths[:, None]

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=random)

    return RequestBatch(
        users=torch.arange(size), surfaces=draw(surfaces, size), request_times=torch.full((size,), 10**12),
        candidates=1 + draw(items, size, slate), candidate_mask=torch.ones(size, slate, dtype=torch.bool),
        history_items=(1 + draw(items, size, history)) * valid, history_surfaces=draw(surfaces, size, history) * valid,
        history_actions=(1 + draw(2**tasks - 1, size, history)) * valid,
        history_times=(10**12 - draw(10**8, size, history).sort(1, descending=True).values) * valid,
        history_lengths=lengths, labels=draw(2, size, slate, tasks).float(),
        label_mask=torch.ones(size, slate, tasks, dtype=torch.bool),
    )  # fmt: skip


class NaiveLayer(nn.Module):
    """The DLRM-v3 form over one padded sequence (B, L, D) and a mask (B, 1, L, L)."""

    def __init__(self, dim: int, heads: int, norm_len: int) -> None:
        super().__init__()
        self.heads, self.norm_len = heads, norm_len
        self.norm, self.attended_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project, self.output = nn.Linear(dim, 4 * dim), nn.Linear(3 * dim, dim, bias=False)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = rows.shape
        u, *qkv = self.project(self.norm(rows)).chunk(4, -1)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in qkv)
        weights = functional.silu(q @ k.transpose(-1, -2) / math.sqrt(dim // self.heads)) / self.norm_len * mask
        attended, u = (weights @ v).transpose(1, 2).reshape(batch, length, dim), functional.silu(u)
        return rows + self.output(torch.cat([u, attended, u * self.attended_norm(attended)], -1))


class Naive(nn.Module):
    """The textbook foundation: a dense embedding, the layers, and a head at the candidates."""

    def __init__(self, config: FoundationConfig) -> None:
        super().__init__()
        self.items = nn.Embedding(config.item_count + 1, config.dim)
        self.surface = nn.Embedding(len(config.surfaces), config.dim)
        self.action = nn.Embedding(2 ** len(config.tasks), config.dim)
        self.layers = nn.ModuleList(
            NaiveLayer(config.dim, config.heads, config.attn_norm_len) for _ in range(config.layers)
        )
        self.heads = nn.Linear(config.dim, len(config.tasks))

    def forward(self, batch: RequestBatch) -> Tensor:
        size, history = batch.history_items.shape
        slate = batch.candidates.shape[1]
        past = self.items(batch.history_items) + self.surface(batch.history_surfaces)
        past = past + self.action(batch.history_actions)
        rows = torch.cat([past, self.items(batch.candidates) + self.surface(batch.surfaces)[:, None]], 1)
        valid = torch.arange(history) < batch.history_lengths[:, None]
        mask = torch.zeros(size, history + slate, history + slate)
        mask[:, :, :history] = valid[:, None, :]
        mask[:, :history, :history] = mask[:, :history, :history].tril()
        mask[:, history:, history:] = torch.eye(slate)
        for layer in self.layers:
            rows = layer(rows, mask[:, None])
        logits: Tensor = self.heads(rows[:, history:])
        return logits


def best(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Shortest seconds of each, interleaved so that a busy machine disturbs all alike."""
    shortest = dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            shortest[name] = min(shortest[name], time.perf_counter() - begun)
    return shortest


def main() -> None:
    """Build both, run them in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, value in (("batch", 16), ("history", 256), ("slate", 16), ("dim", 128), ("layers", 3), ("rounds", 8)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    options = parser.parse_args()
    items, surfaces, tasks = 5000, ("feed", "reels", "ads"), ("click", "like")
    config = FoundationConfig(
        "DLRMv3", options.layers, options.dim, 4, options.history, options.history, 32, CONTENT, items, surfaces, tasks
    )
    batch = make_batch(options.batch, options.history, options.slate, items, len(surfaces), len(tasks))
    ours = FoundationModel(config, torch.randn(items + 1, CONTENT), TableOptimizer())
    learner, naive = Learner(ours, ProcessGroup(), 0.001, 0), Naive(config)
    optimizer = torch.optim.AdamW(naive.parameters(), 0.001)

    def naive_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        assert batch.labels is not None
        functional.binary_cross_entropy_with_logits(naive(batch), batch.labels).backward()
        optimizer.step()

    times = best(
        {
            "naive": naive_step,
            "ours": lambda: learner.step(lambda: foundation_loss(ours(batch), batch).total),
        },
        options.rounds,
    )
    tokens = int(batch.history_lengths.sum()) + options.batch * options.slate
    for name, seconds in times.items():
        print(f"{name:8}{seconds * 1000:9.1f} ms a step{tokens / seconds:12,.0f} real tokens/s")
    print(f"ratio naive / ours: {times['naive'] / times['ours']:.2f}")


if __name__ == "__main__":
    main()
