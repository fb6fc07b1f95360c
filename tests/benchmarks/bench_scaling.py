"""Does the generated stream reward a larger foundation, and do its embeddings help experts by what surfaces share?

Trains foundations of three sizes on one stream and prints their normalised entropy (NE) on the frozen tail beside the
oracle's; then, on streams that differ in rho alone, the change of NE that target-aware embeddings (TAE) bring to each
surface's expert. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recast_api.manifest import Manifest
from recast_api.resources.version import Measurement
from recast_api.run import DataRef, TrainingRun
from recast_trainer.data.schema import Rows
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.compare.arms import WITH, WITHOUT
from recast_trainer.evaluation.compare.comparison import compare
from recast_trainer.evaluation.compare.settings import Settings
from recast_trainer.evaluation.measure import ScoredRows, measurements
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.split import split
from recast_trainer.training.stream import open_stream

STREAM = SyntheticConfig(
    users=200, items=2000, hours=96, requests_per_hour=200, slate=16, latent_dim=8, signal=2.5, categories=32,
    interests=8,
)  # fmt: skip
"""Few users with some five hundred events each, so that there is a long past to read."""
SHARED = replace(STREAM, users=1200)
"""More users with fewer events: an expert reads nearly all of a user's past on its own surface, and what embeddings
add comes from the others."""
BATCH = 8
EPOCHS = 2


@dataclass(frozen=True)
class Size:
    """A foundation's size, and the learning rate that suits it: what suits a small one throws a large one about."""

    name: str
    dim: int
    layers: int
    history: int
    tae_dim: int
    learning_rate: str


SIZES = (
    Size("S", 16, 1, 16, 16, "0.006"),
    Size("M", 32, 2, 64, 16, "0.004"),
    Size("L", 64, 3, 128, 32, "0.0025"),
)
ABLATIONS = (
    Size("S-long", 16, 1, 128, 16, "0.006"),
    Size("M-short", 32, 2, 16, 16, "0.004"),
    Size("M-flat", 32, 1, 64, 16, "0.004"),
    Size("M-deep", 32, 3, 64, 16, "0.004"),
    Size("L-flat", 64, 1, 128, 32, "0.0025"),
)
"""One thing changed: a longer or shorter history, fewer or more layers."""
FOR_TAE = SIZES[1]


def write(config: SyntheticConfig, folder: Path) -> Path:
    """The stream of a configuration, on disk."""
    stream = SyntheticStream(config)
    write_dataset(folder, stream.dataset, stream.items, stream.segments())
    return folder


def train(size: Size, data: Path, models: Path, seed: int) -> tuple[Manifest, Path]:
    """A landed foundation and its folder."""
    run = TrainingRun.model_validate(
        {
            "kind": "FoundationModel", "namespace": "bench", "model": f"{size.name.lower()}-{seed}", "uid": "bench",
            "number": 1, "attempt": 1, "jobName": "bench", "inputsHash": "bench",
            "modelsRoot": str(models), "dataRoot": str(data.parent), "data": {"path": data.name},
            "optimization": {"batchSize": BATCH, "learningRate": size.learning_rate, "seed": seed},
            "architecture": {
                "layers": size.layers, "dim": size.dim, "heads": max(2, size.dim // 16),
                "historyLength": size.history, "taeDim": size.tae_dim,
            },
        }
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        manifest = execute(run, ProcessGroup(), None)
    assert manifest is not None
    return manifest, models / "fm" / run.model / run.uid / "v1"


def oracle(data: Path, config: SyntheticConfig, *, place: bool) -> list[Measurement]:
    """The measurements of the true probability on the frozen tail; without ``place`` of what is left of it to whoever
    does not know the place in the slate, as no model does: its mean over all places, which are equally likely.
    """
    stream = open_stream(data, DataRef(path=data.name))
    rows = Rows.concatenate([stream.read(segment) for segment in stream.segments[split(stream.segments).learn :]])
    logits = logit(np.nan_to_num(rows.oracle.astype(np.float64), nan=0.5))
    if not place:
        bias = config.position_bias * np.log1p(np.arange(config.slate))
        unbiased = logits + bias[rows.positions][:, None]
        logits = logit(np.mean([1 / (1 + np.exp(each - unbiased)) for each in bias], axis=0))
    truth = ScoredRows(
        rows.row_ids, rows.users, rows.surfaces, rows.first_known, rows.labels.astype(np.float64), rows.label_mask,
        logits, rows.oracle,
    )  # fmt: skip
    return measurements(truth, stream.dataset.surface_names, stream.dataset.tasks)


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of probabilities, kept off 0 and 1 by what float32 can tell from them."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    found: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return found


def mean_ne(found: Sequence[Measurement], surface: str | None = None) -> float:
    """NE over surfaces and tasks, weighted by rows; of one surface where it is named."""
    chosen = [item for item in found if item.surface == surface or (surface is None and item.surface != "all")]
    return sum(item.rows * float(item.ne) for item in chosen) / sum(item.rows for item in chosen)


def scaling(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """NE of each size and seed, and of the oracle, on the stream's frozen tail."""
    config = replace(STREAM, seed=options.stream_seed)
    data = write(config, folder / "scaling")
    best, placeless = (oracle(data, config, place=place) for place in (True, False))
    surfaces = [surface.name for surface in STREAM.surfaces]
    print(f"\n{'size':8}{'dim':>5}{'layers':>8}{'history':>9}{'seed':>6}{'minutes':>9}{'NE':>9}", end="")
    print("".join(f"{name:>9}" for name in surfaces) + f"{'of reachable':>14}", flush=True)
    found: list[dict[str, Any]] = []
    for size in (*SIZES, *(ABLATIONS if options.ablations else ())):
        for seed in range(options.seeds):
            begun = time.monotonic()
            manifest, _ = train(size, data, folder / "models", seed)
            seconds, ne = time.monotonic() - begun, mean_ne(manifest.measurements)
            by_surface = {name: mean_ne(manifest.measurements, name) for name in surfaces}
            reached = (1 - ne) / (1 - mean_ne(best))
            found.append(
                {
                    "size": size.name, "seed": seed, "seconds": seconds, "ne": ne, "oracle": mean_ne(best),
                    "oracleWithoutPlace": mean_ne(placeless), "reached": reached, "surfaces": by_surface,
                }
            )  # fmt: skip
            print(
                f"{size.name:8}{size.dim:5}{size.layers:8}{size.history:9}{seed:6}{seconds / 60:9.1f}{ne:9.4f}"
                + "".join(f"{value:9.4f}" for value in by_surface.values())
                + f"{reached:14.3f}",
                flush=True,
            )
    for name, limit in (("oracle", best), ("oracle without the place", placeless)):
        print(f"{name:45}{mean_ne(limit):9.4f}" + "".join(f"{mean_ne(limit, surface):9.4f}" for surface in surfaces))
    return found


def sharing(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """What TAE change in NE, per surface and task, on streams that differ in rho."""
    found: list[dict[str, Any]] = []
    print(f"\n{'rho':>5}  {'surface':10}{'task':12}{'without':>9}{'with TAE':>9}  change of NE", flush=True)
    for rho in options.rho:
        data = write(replace(SHARED, rho=rho, seed=options.stream_seed), folder / f"rho-{rho}")
        _, version = train(FOR_TAE, data, folder / f"models-{rho}", 0)
        settings = Settings(seeds=options.seeds, learning_rates=["0.003"], epochs=[EPOCHS], batch_size=BATCH)
        with contextlib.redirect_stdout(sys.stderr):
            compared = compare(version, data, settings)
        for surface, task in ((each, task) for each in compared.surfaces for task in each.tasks):
            ne = {arm.arm: arm.ne[task].value for arm in surface.arms}
            (change,) = (gap.relative[task] for gap in surface.gaps if (gap.arm, gap.against) == (WITH, WITHOUT))
            line: dict[str, Any] = {
                "rho": rho, "surface": surface.surface, "task": task, "rows": surface.rows,
                "without": ne[WITHOUT], "with": ne[WITH],
                "change": change.value, "low": change.low, "high": change.high,
            }  # fmt: skip
            found.append(line)
            print(
                f"{rho:5}  {surface.surface:10}{task:12}{line['without']:9.4f}{line['with']:9.4f}"
                f"  {line['change']:+.2%} [{line['low']:+.2%}, {line['high']:+.2%}]",
                flush=True,
            )
    return found


def main() -> None:
    """Both halves, or one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=["scaling", "sharing"], help="one half alone")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each size and expert; default: 1")
    parser.add_argument("--stream-seed", type=int, default=0, help="seed of the world; default: 0")
    parser.add_argument("--ablations", action="store_true", help="also sizes that differ in one thing")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.0, 0.5, 0.9], help="default: 0 0.5 0.9")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "sharing":
            figures["scaling"] = scaling(options, Path(folder))
        if options.only != "scaling":
            figures["sharing"] = sharing(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
