"""How often the acceptance gates reject a version for its luck: A/A pairs, which differ in their training seed alone.

One stream is generated. A foundation is trained on it with N seeds, and on the first of them an expert with N seeds.
Each version is then compared with each other one of its kind, as a run compares with the version that serves: the
trainer's own measurements on the same held-out rows, and the operator's own verdict at default gates. A rejection for
an increase is a mistake. Beside it stands a simpler rule: the highest lower bound of any surface and task, or of a task
over all surfaces, with users' noise alone.

Run: ``python tests/benchmarks/bench_gate_noise.py --seeds 16 --json gates.json``. 16 seeds give 240 ordered pairs of
each kind; they share versions, so they are fewer than 240 independent ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from recast_api.manifest import Manifest
from recast_api.resources import ExpertModel, FoundationModel, Gates, Measurement, ModelReference, ModelVersionSpec
from recast_api.resources.version import Baseline, FoundationPin
from recast_operator.planning.versions.gates import judge
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.report import Scored, predictions
from recast_trainer.local import Models, local_run
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup

SERVING = {"image": "none"}
CLAIM = {"persistentVolumeClaim": {"claimName": "none"}}
FOUNDATION: dict[str, Any] = {
    "architecture": {"layers": 2, "dim": 32, "heads": 2, "historyLength": 64, "taeDim": 16},
    "storage": CLAIM,
    "data": {**CLAIM, "path": "stream"},
    "serving": SERVING,
}
EXPERT: dict[str, Any] = {
    "foundationRef": {"name": "home-fm"},
    "surface": "reels",
    "tasks": [{"name": "click"}, {"name": "long_view", "weight": "0.5"}],
    "architecture": {"layers": 1, "dim": 32, "heads": 2, "historyLength": 32},
    "serving": SERVING,
}
Kind = Literal["foundation", "expert"]


class Quiet(ProcessGroup):
    """One process that keeps its progress to itself."""

    def log(self, message: str) -> None:
        """Say nothing."""


def write_stream(folder: Path, hours: int, requests_per_hour: int) -> None:
    """The synthetic stream: three surfaces, 300 users."""
    stream = SyntheticStream(SyntheticConfig(hours=hours, requests_per_hour=requests_per_hour))
    write_dataset(folder, stream.dataset, stream.items, stream.segments())


def foundation(training: dict[str, Any]) -> FoundationModel:
    """The foundation, trained so."""
    spec = {**FOUNDATION, "training": training}
    return FoundationModel.model_validate({"metadata": {"name": "home-fm"}, "spec": spec})


def expert(training: dict[str, Any]) -> ExpertModel:
    """The expert, trained so in two passes."""
    spec = {**EXPERT, "training": {**training, "epochs": 2}}
    return ExpertModel.model_validate({"metadata": {"name": "reels"}, "spec": spec})


def train(model: FoundationModel | ExpertModel, data: Path, models: Models) -> Path:
    """Land a version that is compared with none; its folder."""
    run = local_run(model, data, models).model_copy(update={"baseline": None, "baseline_foundation": None})
    landed = execute(run, Quiet(), None)
    assert isinstance(landed, Manifest)
    return models.folder(run.kind, run.model, run.number)


def versions(kind: Kind, seeds: range, learning_rate: str, data: Path, models: Models) -> Iterator[Scored]:
    """The held-out predictions of a model by seed. An expert reads the foundation of the first seed."""
    read = models.folder("FoundationModel", "home-fm", 1)
    for seed in seeds:
        began = time.monotonic()
        training = {"image": "none", "batchSize": 64, "learningRate": learning_rate, "seed": seed}
        if kind == "foundation":
            # Each seed has a folder of its own, so that the experts' newest foundation is the first.
            own = models if seed == seeds[0] else Models(models.root / f"seed-{seed}")
            scored = predictions(train(foundation(training), data, own), None, data)
        else:
            scored = predictions(train(expert(training), data, models), read, data)
        print(f"{kind} seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield scored


def landed(kind: Kind, ours: Scored, theirs: Scored) -> ModelVersionSpec:
    """What a run would have landed with the first, had the second been serving."""
    digest = f"sha256:{'0' * 64}"
    pin = FoundationPin(name="home-fm", version=1, lineage=1, digest=digest)
    return ModelVersionSpec(
        model=ModelReference(kind="FoundationModel" if kind == "foundation" else "ExpertModel", name="x", uid="x"),
        number=2,
        lineage=2,
        digest=digest,
        path="x",
        watermark="2026-01-01T00:00:00Z",
        foundation=pin if kind == "expert" else None,
        baseline=Baseline(version=1, digest=digest),
        measurements=ours.measured(theirs.logits()),
        aggregate=ours.aggregate(theirs.logits()),
    )


def highest_bound(version: ModelVersionSpec, everything: Sequence[Measurement], limit: float) -> bool:
    """Whether the simpler rule rejects: any lower bound, of a task on one surface or on all, above the limit."""
    bounds = [entry.ne_increase_low for entry in (*version.measurements, *everything)]
    return any(float(bound) > limit for bound in bounds if bound is not None)


def over_all_surfaces(ours: Scored, theirs: Scored) -> list[Measurement]:
    """Each task over all surfaces together, where there are several."""
    if len(ours.surfaces) < 2:
        return []
    rows = replace(ours.rows, surfaces=ours.rows.surfaces * 0)
    return Scored(rows, ("all",), ours.tasks, ours.weights).measured(theirs.logits())


def deviation(values: Sequence[float]) -> float:
    """Relative standard deviation."""
    return statistics.stdev(values) / statistics.mean(values)


def judged(kind: Kind, found: Sequence[Scored], gates: Gates) -> dict[str, Any]:
    """The figures of one kind."""
    by_task: dict[str, list[float]] = {}
    calibrations: dict[str, list[float]] = {}
    wholes = []
    for scored in found:
        whole = scored.aggregate()
        assert whole is not None
        wholes.append(whole)
        for entry in scored.measured():
            name = f"{entry.surface}/{entry.task} ({entry.positives:,} positives)"
            by_task.setdefault(name, []).append(float(entry.ne))
            calibrations.setdefault(name, []).append(float(entry.calibration))
    reasons: Counter[str] = Counter()
    simpler = 0
    increases, widths = [], []
    pairs = list(itertools.permutations(range(len(found)), 2))
    for count, (ours, theirs) in enumerate(pairs, 1):
        version = landed(kind, found[ours], found[theirs])
        assert version.aggregate is not None
        reasons[judge(version, gates).reason] += 1
        simpler += highest_bound(version, over_all_surfaces(found[ours], found[theirs]), float(gates.max_ne_increase))
        low, mean, high = (
            float(value or "nan")
            for value in (
                version.aggregate.ne_increase_low,
                version.aggregate.ne_increase,
                version.aggregate.ne_increase_high,
            )
        )
        increases.append(mean)
        widths.append((high - low) / 2)
        if count % 20 == 0 or count == len(pairs):
            print(f"{kind}: {count} of {len(pairs)} pairs", file=sys.stderr, flush=True)
    return {
        "seeds": len(found),
        "pairs": len(pairs),
        "rows": wholes[0].rows,
        "positives": wholes[0].positives,
        "users": len(set(found[0].rows.users.tolist())),
        "ne": statistics.mean(float(whole.ne) for whole in wholes),
        "deviation": deviation([float(whole.ne) for whole in wholes]),
        "deviationByTask": {name: deviation(values) for name, values in by_task.items()},
        "calibrationByTask": {name: [min(values), max(values)] for name, values in calibrations.items()},
        "increaseDeviation": statistics.pstdev(increases, 0.0),
        "userHalfWidth": statistics.mean(widths),
        "reasons": dict(reasons),
        "rejected": (reasons["NEIncreased"] + reasons["TaskNEIncreased"]) / len(pairs),
        "inconclusive": reasons["Inconclusive"] / len(pairs),
        "rejectedBySimplerRule": simpler / len(pairs),
    }


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16, help="trainings of each kind (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--training-noise",
        default=Gates().training_noise,
        help="gates.trainingNoise that the pairs are judged with (default: the default of the API, %(default)s)",
    )
    parser.add_argument("--hours", type=int, default=48, help="length of the stream (default: %(default)s)")
    parser.add_argument("--requests-per-hour", type=int, default=160, help="its density (default: %(default)s)")
    parser.add_argument("--learning-rate", default="0.01", help="of both (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="stream and models stay there (default: deleted)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        data = root / "stream"
        write_stream(data, options.hours, options.requests_per_hour)
        for kind in ("foundation", "expert"):
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            found = list(versions(kind, seeds, options.learning_rate, data, Models(root / "models")))
            figures[kind] = judged(kind, found, Gates(training_noise=options.training_noise))
            _show(kind, figures[kind])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _show(kind: str, figures: dict[str, Any]) -> None:
    print(f"\n{kind}: {figures['seeds']} seeds, {figures['rows']:,} labels, {figures['users']} users held out")
    print(f"  NE {figures['ne']:.4f}, relative standard deviation by seed {figures['deviation']:.2%}")
    for name, value in figures["deviationByTask"].items():
        low, high = figures["calibrationByTask"][name]
        print(f"    {name}: {value:.2%}, calibration {low:.2f} to {high:.2f}")
    print(f"  increase between two: deviation {figures['increaseDeviation']:.2%}; users alone ± "
          f"{figures['userHalfWidth']:.2%}")  # fmt: skip
    print(f"  of {figures['pairs']} ordered pairs: {figures['reasons']}")
    print(
        f"  rejected {figures['rejected']:.1%}, inconclusive {figures['inconclusive']:.1%}; "
        f"the simpler rule rejects {figures['rejectedBySimplerRule']:.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
