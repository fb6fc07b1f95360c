"""Are the optimiser's defaults right for a stream of so many rows?

Generates a stream (deleted after), trains a foundation on it with the defaults, then with one setting changed at a
time, or with each pair of dense and table rates (``--grid``), and prints two figures of normalised entropy (NE) beside
the oracle's: *prequential*, of every row before it was learned, once anything was, and *tail*, of the newest fifth, by
the final weights. Then which share of the learned segments was embedded as the final version does it, which is what
experts can use. The users and items of the stream grow with its rows. Progress goes to stderr.

Run: ``python tests/benchmarks/bench_optimizer.py --rows 100000 --seeds 2 --json optimizer.json``. 100,000,000 rows take
2.6 GB of disk and, on one core, about an hour a line with ``--size S``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.resources.common import Optimizer, Training
from recast_api.run import DataRef, Optimization
from recast_model.config import FoundationConfig
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.burnin import first_usable
from recast_trainer.evaluation.metrics import RunningNE
from recast_trainer.training.loop import FoundationTrainer
from recast_trainer.training.process_group import ProcessGroup, limit_threads
from recast_trainer.training.split import split
from recast_trainer.training.stream import Stream, open_stream

HOURS = 60
SLATE = 8
ROWS_A_USER = 300
ROWS_AN_ITEM = 100
MOST = 1_000_000
"""Users or items at the most."""
SIZES = {"S": (16, 1, 16), "M": (32, 2, 64)}
"""Width, layers and history."""
RATE = float(Training(image="none").learning_rate)
TABLE_RATE = float(Optimizer().table_learning_rate)


class Quiet(ProcessGroup):
    """One process that keeps its progress to itself."""

    def log(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Arm:
    """The defaults but for some settings."""

    name: str
    learning_rate: float = RATE
    table_rate: float = TABLE_RATE
    changes: tuple[tuple[str, str | int], ...] = ()

    def optimization(self, batch_size: int, seed: int) -> Optimization:
        """What the trainer is given."""
        settings = {"table_learning_rate": text(self.table_rate), **dict(self.changes)}
        return Optimization(
            batch_size=batch_size,
            learning_rate=text(self.learning_rate),
            optimizer=Optimizer.model_validate(settings),
            seed=seed,
        )


NEIGHBOURS = (
    Arm("defaults"),
    Arm("dense rate x 3", RATE * 3),
    Arm("dense rate / 3", RATE / 3),
    Arm("table rate x 3", table_rate=TABLE_RATE * 3),
    Arm("table rate / 3", table_rate=TABLE_RATE / 3),
    Arm("no warm-up", changes=(("warm_up_steps", 1),)),
    Arm("decay from a tenth", changes=(("decay", "InverseSquareRoot"),)),
    Arm("decay from a hundredth", changes=(("decay", "InverseSquareRoot"), ("warm_up_share", "0.01"))),
    Arm("no cool-down", changes=(("cool_down_share", "0"),)),
)


def text(value: float) -> str:
    """A decimal as a spec has it."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def grid() -> Iterator[Arm]:
    """Each pair of rates."""
    for dense in (0.001, 0.003, 0.01):
        for table in (0.003, 0.01, 0.03, 0.1):
            yield Arm(f"{dense} {table}", dense, table)


def generate(folder: Path, rows: int, seed: int) -> Stream:
    """A stream of about so many rows, on disk."""
    config = SyntheticConfig(
        users=min(MOST, max(100, rows // ROWS_A_USER)), items=min(MOST, max(500, rows // ROWS_AN_ITEM)), hours=HOURS,
        requests_per_hour=max(1, rows // SLATE // HOURS), slate=SLATE, seed=seed,
    )  # fmt: skip
    made = SyntheticStream(config)
    write_dataset(folder, made.dataset, made.items, made.segments())
    return open_stream(folder, DataRef(path="x"))


def oracle(stream: Stream) -> tuple[float, float]:
    """NE of the true probability, over what is learned but for the first segment, and over the tail."""
    learned = split(stream.segments).learn
    tasks = len(stream.dataset.tasks)
    found = (RunningNE(tasks), RunningNE(tasks))
    for index, segment in enumerate(stream.segments[1:], start=1):
        rows = stream.read(segment)
        truth = logit(np.nan_to_num(rows.oracle.astype(np.float64), nan=0.5))
        found[index >= learned].add(truth, rows.labels.astype(np.float64), rows.label_mask)
    return found[0].mean(), found[1].mean()


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of probabilities, kept off 0 and 1 by what float32 can tell from them."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    found: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return found


def train(stream: Stream, arm: Arm, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The figures of one training."""
    dim, layers, history = SIZES[options.size]
    config = FoundationConfig(
        block="DLRMv3", layers=layers, dim=dim, heads=2, history_length=history, attn_norm_len=history, tae_dim=16,
        content_dim=stream.dataset.content_dim, item_count=len(stream.items), surfaces=stream.dataset.surface_names,
        tasks=stream.dataset.tasks,
    )  # fmt: skip
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        group = Quiet(device=torch.device(options.device))
        made = FoundationTrainer(stream, config, arm.optimization(options.batch, seed), group, Path(work))
        trained = made.train()
    tail = RunningNE(len(config.tasks))
    tail.add(trained.tail.logits, trained.tail.labels, trained.tail.mask)
    usable = 1 - first_usable(trained.similarities) / len(trained.similarities)
    return {
        "arm": asdict(arm), "seed": seed, "seconds": time.monotonic() - begun, "steps": made.learner.steps,
        "prequential": made.entropy.mean(), "tail": tail.mean(), "usable": usable,
    }  # fmt: skip


def main() -> None:
    """Generate, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the stream (default: %(default)s)")
    parser.add_argument("--size", choices=sorted(SIZES), default="M", help="of the foundation (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="requests in a batch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each line (default: %(default)s)")
    parser.add_argument("--stream-seed", type=int, default=0, help="seed of the world (default: %(default)s)")
    parser.add_argument("--grid", action="store_true", help="pairs of rates in the place of one change at a time")
    parser.add_argument("--only", metavar="NAME", action="append", help="this line alone; may be given again")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    limit_threads()
    arms = [arm for arm in (grid() if options.grid else NEIGHBOURS) if not options.only or arm.name in options.only]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        stream = generate(Path(scratch) / "stream", options.rows, options.stream_seed)
        best = oracle(stream)
        print(f"{'':26}{'steps':>9}{'seconds':>9}{'prequential':>13}{'tail':>9}{'usable':>9}")
        for arm in arms:
            runs = []
            for seed in range(options.seeds):
                runs.append(train(stream, arm, options, seed))
                print(f"{arm.name}, seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
            found += runs
            over = {key: mean(run[key] for run in runs) for key in ("seconds", "prequential", "tail", "usable")}
            print(f"{arm.name:26}{runs[0]['steps']:9,}{over['seconds']:9.0f}{over['prequential']:13.4f}"
                  f"{over['tail']:9.4f}{over['usable']:9.0%}", flush=True)  # fmt: skip
    print(f"{'oracle':44}{best[0]:13.4f}{best[1]:9.4f}")
    if options.json:
        figures = {"rows": options.rows, "size": options.size, "batch": options.batch, "oracle": best, "runs": found}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
