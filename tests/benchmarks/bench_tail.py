"""What learning the tail through is worth, what it changes, and what standing still costs.

A stream is generated and a foundation trained on its first hours, with several seeds. The hours after them are data
that nobody has learned: there the weights that were measured, from before the tail, are compared with those that have
learned it, by NE over all surfaces and tasks, and with each of them an expert that was trained on the log. Beside them
stand what the run itself says: similarity of the two embeddings, the gap between fixed and moving weights, and the
share of segments that burn-in drops.

Run: ``python tests/benchmarks/bench_tail.py --seeds 3 --json tail.json``; ``--data`` takes a data set that is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recast_api.manifest import MEASURED, WEIGHTS, Manifest
from recast_api.resources import ExpertModel, FoundationModel
from recast_api.resources.version import Aggregate
from recast_model.artifact import load_expert, load_foundation
from recast_trainer.clock import to_rfc3339
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.measure import ScoredRows, aggregate
from recast_trainer.evaluation.report import WHOLE_DATA_SET
from recast_trainer.evaluation.scoring import score_foundation, score_pair
from recast_trainer.local import Models, local_run
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, open_stream

CLAIM = {"persistentVolumeClaim": {"claimName": "none"}}
SERVING = {"image": "none"}


class Quiet(ProcessGroup):
    """One process that keeps its progress to itself."""

    def log(self, message: str) -> None:
        """Say nothing."""


def train(spec: Mapping[str, Any], data: Path, models: Models, kind: type[FoundationModel | ExpertModel]) -> Manifest:
    """Land a version that is compared with none."""
    model = kind.model_validate({"metadata": {"name": "x"}, "spec": spec})
    run = local_run(model, data, models).model_copy(update={"baseline": None, "baseline_foundation": None})
    landed = execute(run, Quiet(), None)
    assert isinstance(landed, Manifest)
    return landed


def compared(
    after: ScoredRows, before: ScoredRows, surfaces: tuple[str, ...], tasks: tuple[str, ...]
) -> dict[str, Any]:
    """NE with the weights from after the tail, and relative to those from before it."""
    found = aggregate(after, surfaces, tasks, {task: before.logits[:, at] for at, task in enumerate(tasks)})
    assert found is not None
    return figures(found)


def figures(found: Aggregate) -> dict[str, float]:
    """An aggregate as numbers."""
    names = ("ne", "baseline_ne", "ne_increase", "ne_increase_low", "ne_increase_high")
    return {name: float(getattr(found, name) or "nan") for name in names}


def one(seed: int, options: argparse.Namespace, data: Path, root: Path) -> dict[str, Any]:
    """The figures of one seed."""
    began = time.monotonic()
    stream = open_stream(data, WHOLE_DATA_SET)
    end = stream.segments[-1 - options.after].end
    learning = {"image": "none", "batchSize": options.batch_size, "learningRate": options.learning_rate, "seed": seed}
    chosen = CLAIM | {"path": data.name, "until": to_rfc3339(end)}
    models = Models(root)
    spec: dict[str, Any] = {
        "architecture": {"layers": 2, "dim": 32, "heads": 2, "historyLength": 64, "taeDim": 16},
        "storage": CLAIM, "serving": SERVING, "training": learning,
        "data": chosen | ({"tail": options.tail} if options.tail else {}),
    }  # fmt: skip
    made = train(spec, data, models, FoundationModel)
    folder = models.folder("FoundationModel", "x", made.number)
    assert made.tail is not None
    assert made.tail.gap is not None
    burn_in = json.loads((folder / "tae" / "burn-in.json").read_text())
    pair = ["before", "after"] if made.tail.learned else ["after", "after"]
    weights = {"before": MEASURED, "after": WEIGHTS}
    bundles = [load_foundation(folder, made, weights=weights[name]) for name in pair]
    before, after = (_score(bundle, stream, end) for bundle in bundles)
    config = bundles[0].config
    found: dict[str, Any] = {
        "seed": seed,
        "tailSegments": made.tail.segments,
        "learned": made.tail.learned,
        "refused": made.tail.refused,
        "similarity": float(made.tail.similarity),
        "gap": figures(made.tail.gap),
        "dropped": burn_in["firstUsableSegment"],
        "segments": len(burn_in["similarityToFinal"]),
        "foundation": compared(after, before, config.surfaces, config.tasks),
    }
    for surface in () if options.foundation_only else config.surfaces:
        tasks = stream.dataset.tasks_of(surface)
        spec = {
            "foundationRef": {"name": "x"}, "surface": surface, "tasks": [{"name": task} for task in tasks],
            "architecture": {"layers": 1, "dim": 32, "heads": 2, "historyLength": 32}, "serving": SERVING,
            "training": learning | {"epochs": 2}, "data": chosen,
        }  # fmt: skip
        landed = train(spec, data, models, ExpertModel)
        expert = load_expert(models.folder("ExpertModel", "x", landed.number), landed)
        scored = [
            ScoredRows.concatenate(score_pair(expert, bundle, stream, lambda _, slates: slates.times >= end, Quiet()))
            for bundle in bundles
        ]
        alone = [_of_one_surface(part) for part in scored]
        found[f"expert of {surface}"] = compared(alone[1], alone[0], (surface,), tuple(tasks))
    found["seconds"] = round(time.monotonic() - began)
    return found


def _score(bundle: Any, stream: Stream, end: int) -> ScoredRows:
    walk = stream.walk(bundle.config.history_length, choose=lambda _, slates: slates.times >= end)
    return ScoredRows.concatenate([score_foundation(bundle.model, part, bundle.items, Quiet())[0] for _, part in walk])


def _of_one_surface(scored: ScoredRows) -> ScoredRows:
    return ScoredRows(**(vars(scored) | {"surfaces": np.zeros_like(scored.surfaces)}))


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a data set (default: a stream is generated)")
    parser.add_argument("--hours", type=int, default=72, help="of the stream (default: %(default)s)")
    parser.add_argument("--requests-per-hour", type=int, default=400, help="of the stream (default: %(default)s)")
    parser.add_argument("--after", type=int, default=24, help="newest segments that no run has (default: %(default)s)")
    parser.add_argument("--tail", metavar="DURATION", help="spec.data.tail (default: none, the trainer's own rule)")
    parser.add_argument("--learning-rate", default="0.01", help="of all (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="of all (default: %(default)s)")
    parser.add_argument("--foundation-only", action="store_true", help="train no experts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data
        if data is None:
            data = Path(scratch) / "stream"
            made = SyntheticStream(SyntheticConfig(hours=options.hours, requests_per_hour=options.requests_per_hour))
            write_dataset(data, made.dataset, made.items, made.segments())
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            root = Path(scratch) / f"seed-{seed}"
            found.append(one(seed, options, data, root))
            shutil.rmtree(root)
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
