"""What reading a stream costs: memory, and rows a second beside the model that they are for.

A data set is generated (or ``--data`` names one). One pass goes over all of it, and at each segment the model learns
from one batch: the process's memory is looked at after every segment. A second pass is the reader alone. Then the rate
of the model alone on requests that are in memory already, and of both together, as a run has them; these two are taken
in turns, and of each the best counts.

Run: ``python tests/benchmarks/bench_reader.py --rows 1000000 --json reader.json``. 100,000,000 rows of 1,000,000 users
and as many items take some GB of disk, and are deleted after.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recast_api.run import DataRef, Optimization
from recast_model.config import FoundationConfig
from recast_trainer.data.requests import Requests
from recast_trainer.training.loop import FoundationTrainer
from recast_trainer.training.process_group import ProcessGroup, limit_threads
from recast_trainer.training.stream import Stream, open_stream

SLATE = 8
HOUR_ROWS = 140_000
"""Rows of a segment where there are enough for 72 of them; 100 million in a month have as many."""
PAGE = resource.getpagesize()


class Quiet(ProcessGroup):
    """One process that keeps its progress to itself."""

    def log(self, text: str) -> None:
        """Say nothing."""


def rss() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def generate(folder: Path, rows: int, users: int, items: int) -> None:
    """Write a stream of about so many rows, in a process of its own, so that its memory does not count."""
    hours = max(24, rows // HOUR_ROWS)
    requests = max(1, rows // SLATE // hours)
    command = [sys.executable, "-m", "recast_trainer", "data", "synthetic", "--out", str(folder)]
    sizes = {"users": users, "items": items, "hours": hours, "requests-per-hour": requests, "slate": SLATE}
    command += [f"--{name}={value}" for name, value in sizes.items()]
    subprocess.run(command, check=True, stdout=sys.stderr)


def trainer(stream: Stream, history: int, folder: Path) -> FoundationTrainer:
    """A foundation of two layers of 32, as the examples have it."""
    config = FoundationConfig(
        block="DLRMv3", layers=2, dim=32, heads=2, history_length=history, attn_norm_len=history, tae_dim=16,
        content_dim=stream.dataset.content_dim, item_count=len(stream.items), surfaces=stream.dataset.surface_names,
        tasks=stream.dataset.tasks,
    )  # fmt: skip
    return FoundationTrainer(stream, config, Optimization(batch_size=64, learning_rate="0.003"), Quiet(), folder)


def whole_pass(stream: Stream, history: int, made: FoundationTrainer | None) -> tuple[int, float, list[int]]:
    """Rows, seconds, and memory after each segment, of which the model learns one batch where there is one."""
    rows, sizes = 0, []
    began = shown = time.monotonic()
    for index, requests in stream.walk(history):
        if made is not None:
            learn(made, requests.take(slice(64)))
        rows += len(requests.rows)
        sizes.append(rss())
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            left = (shown - began) / (index + 1) * (len(stream.segments) - index - 1)
            print(f"{'reader alone' if made is None else 'with a model'}: segment {index + 1}/{len(stream.segments)}  "
                  f"{sizes[-1] / 1e9:.2f} GB  {left:.0f} s left", file=sys.stderr, flush=True)  # fmt: skip
    return rows, time.monotonic() - began, sizes


def learn(made: FoundationTrainer, requests: Requests) -> None:
    """All of these requests, none of which waits."""
    made.watermark, made.pending = 2**62, None
    made.learn(requests)


def rate(parts: Iterator[Requests], made: FoundationTrainer | None) -> float:
    """Rows a second."""
    began, rows = time.monotonic(), 0
    for requests in parts:
        if made is not None:
            learn(made, requests)
        rows += len(requests.rows)
    return rows / (time.monotonic() - began)


def first_rows(stream: Stream, history: int, rows: int) -> Iterator[Requests]:
    """The stream's first segments, whole, as many as have so many rows."""
    seen = 0
    for _, requests in stream.walk(history):
        seen += len(requests.rows)
        yield requests
        if seen >= rows:
            return


def measure(data: Path, history: int, model_rows: int, turns: int) -> dict[str, Any]:
    """The figures."""
    stream = open_stream(data, DataRef(path="x"))
    with tempfile.TemporaryDirectory() as work:
        made = trainer(stream, history, Path(work))
        tables = sum(2 * table.weight.numel() * 4 for _, table in made.model.tables())  # weights, and room to spare
        _, _, sizes = whole_pass(stream, history, made)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        rows, seconds, _ = whole_pass(stream, history, None)
        few = list(first_rows(stream, history, model_rows))
        alone, together = [], []
        for _ in range(turns):
            alone.append(rate(iter(few), made))
            together.append(rate(first_rows(stream, history, model_rows), made))
    tenth = statistics.median(sizes[8:11]) if len(sizes) > 10 else sizes[0]
    return {
        "rows": rows,
        "segments": len(stream.segments),
        "items": len(stream.items),
        "history_length": history,
        "peak_rss_gb": (peak - tables) / 1e9,
        "tables_gb": tables / 1e9,
        "rss_last_over_tenth": statistics.median(sizes[-3:]) / tenth,
        "loader_rows_s": rows / seconds,
        "model_rows_s": max(alone),
        "together_rows_s": max(together),
    }


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the data set (default: %(default)s)")
    parser.add_argument("--users", type=int, help="(default: a hundredth of the rows)")
    parser.add_argument("--items", type=int, help="(default: a hundredth of the rows)")
    parser.add_argument("--history", type=int, default=64, help="events a request sees (default: %(default)s)")
    parser.add_argument("--model-rows", type=int, default=400_000, help="rows for the rates (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="read this data set instead, and leave it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    limit_threads()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "stream"
        if options.data is None:
            size = max(100, options.rows // 100)
            generate(data, options.rows, options.users or size, options.items or size)
        figures = measure(data, options.history, options.model_rows, options.turns)
    print(f"{figures['rows']:,} rows in {figures['segments']} segments, {torch.get_num_threads()} threads of torch")
    print(f"  memory at most {figures['peak_rss_gb']:.2f} GB beside {figures['tables_gb']:.2f} GB of tables; after the "
          f"last segment {figures['rss_last_over_tenth']:.2f} times that after the tenth")  # fmt: skip
    slower = min(figures["loader_rows_s"], figures["model_rows_s"])
    print(f"  rows a second: reader {figures['loader_rows_s']:,.0f}, model {figures['model_rows_s']:,.0f}, together "
          f"{figures['together_rows_s']:,.0f}, {figures['together_rows_s'] / slower:.0%} of the slower")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
