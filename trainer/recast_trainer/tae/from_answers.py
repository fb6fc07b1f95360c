"""A TAE log for an expert, made of what servers logged: the very embeddings that its predecessor saw.

The rows are those of a data set, which has their labels and what users did before and after; each is found among the
answers by request, user, surface and item. A row counts if its embedding is the given foundation version's answer to
that very request, and if it cannot hold the row's label: that version had not learned it (*cursor*), and the request
was not later than when it was known, or else its history would tell. Where clients reported what they showed of an
answer, only that counts.

Rows weigh one over the probability with which they were logged. The newest segments become the tail, as in the log that
a foundation writes itself (:mod:`recast_trainer.tae.log`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recast_api import server as contract
from recast_api.answer_log import ANSWERS
from recast_api.manifest import Manifest
from recast_api.run import RecastError
from recast_trainer import clock
from recast_trainer.data.schema import Dataset, Rows
from recast_trainer.data.segments import Segment, list_segments, load_dataset, read_segment
from recast_trainer.files import replace, write_bytes
from recast_trainer.tae import log as tae_log
from recast_trainer.tae.answers import Ints, Shown, Source, reported, sources
from recast_trainer.training.split import split

ABOUT = "answers.json"
"""Written last: a folder without it is no log yet."""
SLACK_MS = 3_600_000
"""How far the time of an answer may be from the event time of its rows in the data."""
_KEPT = 8
"""Files of the log that are in memory at once."""


@dataclass
class Report:
    """What became of the rows of the data that were answered."""

    rows: int = 0
    """Joined, and in the log."""
    weighted: int = 0
    """Of these, logged with a probability below 1."""
    segments: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Answers' rows or data's rows that are not, by reason."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.rows:,} rows of {self.segments} segments, {self.weighted:,} of them from the sample"
        for reason, count in sorted(self.left_out.items()):
            yield f"  left out: {count:,} {reason}"


def convert(answers: Path, data: Path, foundation: Manifest, out: Path, tail_ms: int | None = None) -> Report:
    """Write the log of a data set's rows to ``out``, a new folder.

    ``foundation`` is the version whose embeddings count. Raises ``BadSpec`` where ``out`` is there, ``AnswersNotFound``
    where none of the data's rows was answered so that it counts, and the errors of reading either side.
    """
    if out.exists():
        raise RecastError("BadSpec", f"{out} is there already; give --out a new folder")
    dataset = load_dataset(data)
    segments = list_segments(data, dataset)
    found, report = sources(answers), Report()
    logged, shown = _Logged(found, dataset, foundation.digest), reported(found)
    work = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    covered = []
    for index, segment in enumerate(segments):
        rows, answered = _join(read_segment(segment, dataset), *logged.near(segment))
        keep = _counts(rows, answered, shown, foundation, report)
        rows, answered = rows.take(keep), answered.take(keep)
        if len(rows):
            cursors = _cursors(answered, foundation)
            made = tae_log.TaeRows(rows.row_ids, rows.first_known, cursors, answered.tae, answered.propensities)
            names = np.array(dataset.surface_names)[rows.surfaces]
            tae_log.write_segment(work, index, "prequential", made, names, segment.name, partial=True)
            covered.append(segment)
            report.rows += len(rows)
            report.weighted += int((answered.propensities < 1).sum())
    report.left_out += logged.left_out
    report.segments = len(covered)
    if not covered:
        raise RecastError(
            "AnswersNotFound",
            f"no row of {data} is among the answers in {answers} so that it counts for {foundation.model} "
            f"v{foundation.number}: rows of data and answers meet by request id, user, surface and item. "
            + " ".join(f"Left out: {count} {reason}." for reason, count in sorted(report.left_out.items())),
        )
    _name_the_tail(work, segments, covered, tail_ms)
    about = {"format": 1, "foundation": foundation.digest, "rows": report.rows, "leftOut": dict(report.left_out)}
    write_bytes(work / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    replace(work, out)
    return report


def require_of(folder: Path, digest: str) -> None:
    """Raise ``TaeLogCorrupt`` unless the folder has a log of the foundation version with this digest."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError) as error:
        raise RecastError(
            "TaeLogCorrupt", f"{folder} has no {ABOUT}: make it with `recast data from-answers`"
        ) from error
    if about.get("foundation") != digest:
        raise RecastError(
            "TaeLogCorrupt",
            f"{folder} has embeddings of {about.get('foundation')}, and the expert is to read {digest}: make it again "
            "with `recast data from-answers` and that foundation version",
        )


class _Logged:
    """The answers' rows that have an embedding which this foundation version made for that very request."""

    def __init__(self, found: Sequence[Source], dataset: Dataset, digest: str) -> None:
        self._sources = [source for source in found if source.table == ANSWERS]
        self._surfaces, self._digest = dataset.surface_names, digest
        self._kept: OrderedDict[Path, Shown] = OrderedDict()
        self._left_out: dict[Path, Counter[str]] = {}

    @property
    def left_out(self) -> Counter[str]:
        """Rows that are not among them, of all files that were looked at."""
        return sum(self._left_out.values(), Counter())

    def near(self, segment: Segment) -> tuple[Shown, Ints]:
        """Those that may be of a segment of the data, with the index of each one's surface; the earliest first."""
        begin, end = segment.start - SLACK_MS, segment.end + SLACK_MS
        parts, surfaces = [Shown.empty()], [np.empty(0, np.int64)]
        for source in self._sources:
            if source.surface in self._surfaces and source.max_time >= begin and source.min_time < end:
                parts.append(self._read(source))
                surfaces.append(np.full(len(parts[-1]), self._surfaces.index(source.surface)))
        found, surface = Shown.concatenate(parts), np.concatenate(surfaces)
        order = np.argsort(found.times, kind="stable")
        return found.take(order), surface[order]

    def _read(self, source: Source) -> Shown:
        if source.path not in self._kept:
            self._kept[source.path], self._left_out[source.path] = self._usable(source)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[source.path]

    def _usable(self, source: Source) -> tuple[Shown, Counter[str]]:
        table = source.read()
        if table is None or not len(table):
            return Shown.empty(), Counter()
        try:
            rows = Shown.of(table)
        except (KeyError, pa.ArrowException) as error:
            raise RecastError("AnswerLogCorrupt", f"{source.path} has not the columns of answers ({error})") from error
        fresh = (rows.rungs == contract.TAE_FRESH) & rows.present
        own = rows.digests == self._digest
        left_out = Counter(
            {
                "answered without a fresh embedding": int((~fresh).sum()),
                "with an embedding of another foundation version": int((fresh & ~own).sum()),
            }
        )
        return rows.take(fresh & own), +left_out


def _join(rows: Rows, logged: Shown, surfaces: Ints) -> tuple[Rows, Shown]:
    """The rows that were answered, each with its answer; of a request that was sent again, the earliest."""
    place = match(
        np.stack([rows.request_ids, rows.users, rows.surfaces, rows.items], 1),
        np.stack([logged.requests, logged.users, surfaces, logged.items], 1),
    )
    return rows.take(place >= 0), logged.take(place[place >= 0])


def _counts(rows: Rows, logged: Shown, shown: Ints, foundation: Manifest, report: Report) -> NDArray[np.bool_]:
    """(R,) which of the joined rows count; the others are added to the report, each by its first reason."""
    known = rows.first_known
    told = np.isin(rows.request_ids, shown[:, 0])
    reasons = {
        "whose label the foundation had learned": _cursors(logged, foundation) >= known,
        "asked for after their label was known": logged.times > known,
        "that were not shown, as clients reported": told
        & (match(np.stack([rows.request_ids, rows.items], 1), shown) < 0),
    }
    keep = np.ones(len(rows), np.bool_)
    for reason, applies in reasons.items():
        report.left_out += Counter({reason: int((keep & applies).sum())})  # which passes over what is 0
        keep &= ~applies
    return keep


def _cursors(logged: Shown, foundation: Manifest) -> Ints:
    """Labels up to here were learned by what made the rows: what a server says may move it on, and never back."""
    return np.maximum(logged.cursors, clock.from_rfc3339(foundation.watermark))


def match(left: NDArray[np.int64], right: NDArray[np.int64]) -> Ints:
    """(N,) for each row of ``left`` (N, K) the first one of ``right`` (M, K) that is equal, -1 where there is none."""
    both = np.concatenate([left, right])
    order = np.lexsort(both.T)
    changed = np.ones(len(both), np.int64)
    changed[1:] = (both[order[1:]] != both[order[:-1]]).any(1)
    group = np.empty(len(both), np.int64)
    group[order] = np.cumsum(changed) - 1
    first = np.full(int(changed.sum()), -1, np.int64)
    first[group[len(left) :][::-1]] = np.arange(len(right))[::-1]
    return first[group[: len(left)]]


def _name_the_tail(folder: Path, segments: Sequence[Segment], covered: Sequence[Segment], tail_ms: int | None) -> None:
    """Which segments are the tail is known once all are there."""
    for segment in covered[split(covered, tail_ms).learn :]:
        index = segments.index(segment)
        replace(folder / tae_log.file_name(index, "prequential"), folder / tae_log.file_name(index, "tail"))
