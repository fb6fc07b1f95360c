"""A foundation's training step and inference against naive ones, interleaved in one run: medians and their ratio.

The naive network is the same block in its textbook form: history and candidates as one padded sequence of the full
length, the whole attention matrix under a mask, every layer computed for every row, no terms of place and time. Ours
packs rows, computes blocks of scores up to the diagonal for the requests that reach them, and of a last layer's history
keys and values alone. With ``--against TREE`` another checkout of this repository, older or newer, takes its turns too,
in a process of its own. Times are the process's own on a CPU, so that a busy machine disturbs less; on a GPU, of the
clock. Run: ``python tests/benchmarks/bench_training_step.py --json figures.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from recast_api.run import Optimization
from recast_model.batch import RequestBatch
from recast_model.config import Block, FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.foundation import FoundationModel
from recast_model.inference import embed
from recast_model.losses import foundation_loss
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.step import Learner

CONTENT = 16


def make_batch(
    size: int, history: int, slate: int, items: int, surfaces: int, tasks: int, *, full: bool = False
) -> RequestBatch:
    """Requests whose history lengths are full, or lognormal: about 40 % of the longest in the mean."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.exp(torch.randn(size, generator=random) * 0.7 + math.log(0.33 * history)).long().clamp(1, history)
    if full:
        lengths = torch.full_like(lengths, history)
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
        updated: Tensor = rows + self.output(torch.cat([u, attended, u * self.attended_norm(attended)], -1))
        return updated


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
        valid = torch.arange(history, device=rows.device) < batch.history_lengths[:, None]
        mask = torch.zeros(size, history + slate, history + slate, device=rows.device)
        mask[:, :, :history] = valid[:, None, :]
        mask[:, :history, :history] = mask[:, :history, :history].tril()
        mask[:, history:, history:] = torch.eye(slate, device=rows.device)
        for layer in self.layers:
            rows = layer(rows, mask[:, None])
        logits: Tensor = self.heads(rows[:, history:])
        return logits


Runs = dict[str, Callable[[], object]]


def ours(options: argparse.Namespace) -> tuple[Runs, RequestBatch, FoundationConfig]:
    """This tree's training step and inference on the options' batch."""
    torch.manual_seed(0)
    items, surfaces, tasks = 5000, ("feed", "reels", "ads"), ("click", "like")
    config = FoundationConfig(
        options.block, options.layers, options.dim, 4, options.history, options.history, 32, CONTENT, items, surfaces,
        tasks,
    )  # fmt: skip
    shape = options.batch, options.history, options.slate, items, len(surfaces), len(tasks)
    batch = make_batch(*shape, full=options.full).to(options.device)
    model = FoundationModel(config, torch.randn(items + 1, CONTENT), TableOptimizer(), options.device)
    settings = Optimization(batch_size=options.batch, learning_rate="0.001")
    learner = Learner(model, ProcessGroup(device=torch.device(options.device)), settings)
    runs: Runs = {
        "training": lambda: learner.step(lambda: foundation_loss(model(batch), batch).total),
        "inference": lambda: embed(model, batch),
    }
    return runs, batch, config


def naive(config: FoundationConfig, batch: RequestBatch) -> Runs:
    """The textbook network's on the same batch."""
    model = Naive(config).to(batch.candidates.device)
    optimizer = torch.optim.AdamW(model.parameters(), 0.001)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        assert batch.labels is not None
        functional.binary_cross_entropy_with_logits(model(batch), batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return {"training": step, "inference": torch.inference_mode()(lambda: model(batch))}


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one call."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - begun


def answer(runs: Runs, device: str) -> None:
    """Be the other checkout: a kind of run a line in, its seconds out."""
    for line in sys.stdin:
        print(seconds(runs[line.strip()], device), flush=True)


def other(tree: Path) -> subprocess.Popen[str]:
    """This file with another checkout's packages."""
    paths = os.pathsep.join(str(tree / part) for part in ("", "api", "model", "trainer"))
    return subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--answer"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


def main() -> None:
    """Build all, run them in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, value in (("batch", 16), ("history", 256), ("slate", 16), ("dim", 128), ("layers", 3), ("rounds", 8)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--block", choices=get_args(Block), default="DLRMv3", help="default: DLRMv3")
    parser.add_argument("--full", action="store_true", help="histories of the full length, not of lognormal ones")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout to measure beside")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    runs, batch, config = ours(options)
    if options.answer:
        answer(runs, options.device)
        return
    textbook = naive(config, batch)
    timed: dict[str, Callable[[str], float]] = {
        "naive": lambda kind: seconds(textbook[kind], options.device),
        "ours": lambda kind: seconds(runs[kind], options.device),
    }
    process = other(options.against) if options.against else None

    def ask(kind: str) -> float:
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    if process is not None:
        timed["against"] = ask
    tokens = int(batch.history_lengths.sum()) + options.batch * options.slate
    figures: dict[str, float] = {}
    for kind in ("training", "inference"):
        found = {name: statistics.median(times) for name, times in interleaved(timed, kind, options.rounds).items()}
        for name, median in found.items():
            print(f"{kind:10}{name:8}{median * 1000:9.1f} ms{tokens / median:12,.0f} real tokens/s", flush=True)
            figures[f"{kind}_{name}_ms"] = round(median * 1000, 2)
            if name != "ours":
                figures[f"{kind}_{name}_over_ours"] = round(median / found["ours"], 3)
                print(f"{kind:10}ratio {name} / ours: {median / found['ours']:.2f}")
    if process is not None and process.stdin is not None:
        process.stdin.close()
        process.wait()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def interleaved(timed: dict[str, Callable[[str], float]], kind: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each by round, taken in turn after one round to warm up."""
    taken = [{name: run(kind) for name, run in timed.items()} for _ in range(rounds + 1)][1:]
    return {name: [one[name] for one in taken] for name in timed}


if __name__ == "__main__":
    main()
