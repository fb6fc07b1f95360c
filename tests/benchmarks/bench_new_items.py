"""What content is worth for items that a version has never seen.

A stream is generated in which items are born. A foundation learns its first hours, with the items that there were then;
in the hours after them it is asked for all rows, by itself, and with the content of items that were born since. Beside
NE over all surfaces and tasks stands the share of pairs of rows of one task, clicked or not, that are in order (AUC).

Run: ``python tests/benchmarks/bench_new_items.py --seeds 3 --json new_items.json``
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from recast_api.manifest import Manifest
from recast_api.resources import FoundationModel
from recast_model.artifact import FoundationBundle, load_foundation
from recast_model.items import ExtendedItems, ItemTable
from recast_trainer.clock import to_rfc3339
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.measure import ScoredRows, aggregate
from recast_trainer.evaluation.report import WHOLE_DATA_SET
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.local import Models, local_run
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import open_stream

CLAIM = {"persistentVolumeClaim": {"claimName": "none"}}
Bools = NDArray[np.bool_]


class Quiet(ProcessGroup):
    """One process that keeps its progress to itself."""

    def log(self, message: str) -> None:
        """Say nothing."""


def trained(data: Path, root: Path, until: int, seed: int, options: argparse.Namespace) -> FoundationBundle:
    """A foundation that learned the data up to an instant."""
    spec: dict[str, Any] = {
        "architecture": {"layers": 2, "dim": 32, "heads": 2, "historyLength": 64, "taeDim": 16},
        "storage": CLAIM, "serving": {"image": "none"}, "data": CLAIM | {"path": data.name, "until": to_rfc3339(until)},
        "training": {"image": "none", "batchSize": 64, "learningRate": options.learning_rate, "seed": seed},
    }  # fmt: skip
    model = FoundationModel.model_validate({"metadata": {"name": "x"}, "spec": spec})
    models = Models(root)
    made = execute(local_run(model, data, models), Quiet(), None)
    assert isinstance(made, Manifest)
    return load_foundation(models.folder("FoundationModel", "x", made.number), made)


def scored(bundle: FoundationBundle, data: Path, after: int, new: ItemTable | None) -> tuple[ScoredRows, NDArray[Any]]:
    """All rows after an instant, and their items' ids, where the new items are known by content."""
    items: Any = bundle.items
    if new is not None:
        bundle.model.tokens.extend(torch.from_numpy(new.content))
        items = ExtendedItems(bundle.items, new)
    walk = open_stream(data, WHOLE_DATA_SET).walk(
        bundle.config.history_length, choose=lambda _, slates: slates.times >= after
    )
    parts, ids = [], []
    for _, requests in walk:
        parts.append(score_foundation(bundle.model, requests, cast("ItemTable", items), Quiet())[0])
        ids.append(requests.rows.items)
    return ScoredRows.concatenate(parts), np.concatenate(ids)


def auc(rows: ScoredRows, task: int) -> float:
    """Share of pairs of a positive and a negative row that are in order; ties count a half."""
    known = rows.mask[:, task]
    logits, labels = rows.logits[known, task], rows.labels[known, task] > 0
    _, place, counts = np.unique(logits, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(labels.sum())
    return float(ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * int((~labels).sum()))


def figures(with_content: ScoredRows, without: ScoredRows, chosen: Bools, config: Any) -> dict[str, Any]:
    """Of the chosen rows: NE without and with content, the paired difference, and AUC of each."""
    after, before = with_content.select(chosen), without.select(chosen)
    baseline = {task: before.logits[:, at] for at, task in enumerate(config.tasks)}
    found = aggregate(after, config.surfaces, config.tasks, baseline)
    assert found is not None
    return {
        "rows": int(chosen.sum()),
        "ne": {"unknown": found.baseline_ne, "content": found.ne},
        "increase": [found.ne_increase_low, found.ne_increase, found.ne_increase_high],
        "auc": {task: [round(auc(before, at), 4), round(auc(after, at), 4)] for at, task in enumerate(config.tasks)},
    }


def one(seed: int, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The figures of one seed."""
    learned, data = options.hours - options.after, root / "stream"
    made = SyntheticStream(
        SyntheticConfig(
            hours=options.hours, requests_per_hour=options.requests_per_hour, born_later=options.born_later, seed=seed
        )
    )
    there = made.catalogue.born < learned
    old = ItemTable(made.items.ids[there], made.items.content[there])
    write_dataset(data, made.dataset, old, made.segments())
    end = made.config.start_ms + learned * 3_600_000
    bundle = trained(data, root / "models", end, seed, options)
    without, ids = scored(bundle, data, end, None)
    with_content, _ = scored(bundle, data, end, made.items.without(old))
    born = ~np.isin(ids, old.ids)
    return {
        "seed": seed,
        "items": {"known": len(old), "new": int((~there).sum())},
        "of new items": figures(with_content, without, born, bundle.config),
        "of known items": figures(with_content, without, ~born, bundle.config),
    }


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="streams and trainings (default: %(default)s)")
    parser.add_argument("--hours", type=int, default=72, help="of the stream (default: %(default)s)")
    parser.add_argument("--after", type=int, default=24, help="of them that nobody learns (default: %(default)s)")
    parser.add_argument("--requests-per-hour", type=int, default=400, help="(default: %(default)s)")
    parser.add_argument("--born-later", type=float, default=0.3, help="share of items (default: %(default)s)")
    parser.add_argument("--learning-rate", default="0.01", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            found.append(one(seed, options, Path(scratch)))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
