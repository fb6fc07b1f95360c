"""Candidates scored over a history that is kept, with one new event, against computing all of it; d 128, L 4, M 128.

What is compared with is our own fastest whole forward: of :func:`recast_model.inference.embed` and of prefill and
score, whichever is quicker. A round takes the best of a few runs of each in turn; figures are medians over rounds.
Times are the thread's own with one thread, the clock's with two: for these the machine must be quiet. The FLOP ratio is
that of a forward in which every layer computes every row (3.9, 6.2 and 10.4 at 512, 1,024 and 2,048 events); ours skips
the last layer's history, so its own ratio, printed beside it, is smaller.

Run: ``python tests/benchmarks/bench_reuse.py --json figures.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from recast_api.manifest import Manifest, describe_files
from recast_model.artifact import save_model
from recast_model.batch import RequestBatch
from recast_model.config import Block, FoundationConfig
from recast_model.features import Request, collate
from recast_model.flops import forward_flops
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.incremental import IncrementalFoundation
from recast_model.inference import embed
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot
from recast_server.foundation.engine import FoundationEngine
from recast_server.runtime.inputs import Query

DIM, LAYERS, HEADS, CANDIDATES, ITEMS, CONTENT = 128, 4, 4, 128, 5000, 16
LENGTHS = (512, 1024, 2048)
SURFACES, TASKS = ("feed", "reels"), ("click", "like")
NOW = 1_767_225_600_000
RUNS = 3
"""Of each in a round, of which the best counts."""


def model_of(block: Block, length: int, items: ItemTable) -> FoundationModel:
    """Random weights; terms of place and time too, which a fresh model has at zero."""
    torch.manual_seed(0)
    config = FoundationConfig(
        block=block, layers=LAYERS, dim=DIM, heads=HEADS, history_length=length, attn_norm_len=length, tae_dim=64,
        content_dim=CONTENT, item_count=ITEMS, surfaces=SURFACES, tasks=TASKS,
    )  # fmt: skip
    model = FoundationModel(config, torch.from_numpy(items.content_matrix())).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias.position", "bias.time")):
                parameter.normal_(std=0.1)
    return model


def history(length: int) -> History:
    """Events over a month."""
    rng = np.random.default_rng(length)
    times = NOW - np.sort(rng.integers(60_000, 30 * 86_400_000, length))[::-1].copy()
    drawn = (rng.integers(1, ITEMS, length), rng.integers(0, 2, length), rng.integers(0, 4, length))
    return History(*drawn, times, times)


def flop_ratio(length: int) -> float:
    """Of a forward in which each layer computes all rows to one that computes the candidates."""
    row = 2 * DIM * 7 * DIM
    whole = (length + CANDIDATES) * row + 4 * DIM * (length * length / 2 + CANDIDATES * length)
    return whole / (CANDIDATES * row + 4 * DIM * CANDIDATES * length)


def measured(works: dict[str, Callable[[], Any]], seconds: float, clock: Callable[[], float]) -> list[dict[str, float]]:
    """Of each round, milliseconds of each piece of work, the best of some runs, one after the other."""
    rounds: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rounds) < 3:
        best = dict.fromkeys(works, float("inf"))
        for _ in range(RUNS):
            for name, work in works.items():
                begin = clock()
                work()
                best[name] = min(best[name], 1000 * (clock() - begin))
        rounds.append(best)
    return rounds


def compare(block: Block, length: int, threads: int, seconds: float) -> dict[str, float]:
    """Figures of one size."""
    rng = np.random.default_rng(0)
    items = ItemTable(np.arange(ITEMS), rng.normal(size=(ITEMS, CONTENT)).astype(np.float32))
    model, past = model_of(block, length, items), history(length)
    asked = Request(1, 0, NOW, rng.integers(1, ITEMS, CANDIDATES), past)
    batch = RequestBatch.from_arrays(collate([asked], length))
    parts = IncrementalFoundation(model)
    kept = [parts.room(length)]

    def append_and_score(known: int) -> torch.Tensor:
        return parts.append_and_score(batch, [known], kept)[0]

    apart = (append_and_score(0).half() - embed(model, batch)[0]).abs().max()
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(Path(folder), model, items, past)
    query = Query(1, "feed", NOW, rng.integers(0, ITEMS, CANDIDATES).tolist())

    def whole_request() -> None:
        engine.forget()
        engine.run([query])

    clock = time.thread_time if threads == 1 else time.perf_counter
    works = {
        "embed_ms": lambda: embed(model, batch), "prefill_score_ms": lambda: append_and_score(0),
        "append_score_ms": lambda: append_and_score(length - 1), "score_ms": lambda: parts.score(batch, kept),
        "request_whole_ms": whole_request, "request_kept_ms": lambda: engine.run([query]),
    }  # fmt: skip
    rounds = measured(works, seconds, clock)
    figures = {name: statistics.median(one[name] for one in rounds) for name in works}
    ratio = statistics.median(min(one["embed_ms"], one["prefill_score_ms"]) / one["append_score_ms"] for one in rounds)
    config = model.config
    own = forward_flops(config, length, CANDIDATES) / forward_flops(config, length, CANDIDATES, known=length - 1)
    return figures | {
        "time_ratio": ratio, "flop_ratio": flop_ratio(length), "own_flop_ratio": own,
        "over_flop_ratio": ratio / flop_ratio(length), "over_own_flop_ratio": ratio / own,
        "request_ratio": statistics.median(one["request_whole_ms"] / one["request_kept_ms"] for one in rounds),
        "apart_float16": float(apart), "rounds": len(rounds), "user_MiB": length * parts.event_bytes / (1 << 20),
    }  # fmt: skip


def engine_of(folder: Path, model: FoundationModel, items: ItemTable, past: History) -> FoundationEngine:
    """A server's engine, with one user who has that past."""
    users = HistorySnapshot.of(np.array([1]), past, np.array([len(past)]), NOW)
    manifest = Manifest(
        kind="FoundationModel", model="fm", number=1, lineage=1, config=model.config.to_dict(), uid="u",
        created="2026-01-01T00:00:00Z", watermark="2026-01-01T00:00:00Z", surfaces=list(SURFACES), tasks=list(TASKS),
        job_name="job", inputs_hash="h",
        files=describe_files(folder, save_model(folder, model.state_dict(), items, users)),
    )  # fmt: skip
    return FoundationEngine(folder, manifest, kv_cache_mebibytes=64)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--block", choices=get_args(Block), default="DLRMv3", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        for length in LENGTHS:
            figures = compare(options.block, length, threads, options.seconds)
            found.setdefault(f"threads_{threads}", {})[str(length)] = figures
            said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{options.block}, {threads} threads, {length} events: {said}", flush=True)
    first = found[f"threads_{options.threads[0]}"]
    summary = {"reuse_over_flop_ratio": {length: one["over_flop_ratio"] for length, one in first.items()}}
    print(json.dumps(summary))
    if options.json:
        options.json.write_text(json.dumps(summary | found, indent=1))


if __name__ == "__main__":
    main()
