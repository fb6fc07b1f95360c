"""Reads the log of answers that experts' servers keep: whole segments, and of journals what is whole of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from recast_api.answer_log import (
    ANSWERS,
    IMPRESSIONS,
    WRITER_KEY,
    SegmentManifest,
    SegmentName,
    Writer,
    request_number,
)
from recast_api.run import RecastError
from recast_model import answer_journal

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A segment, or the journal of one."""

    path: Path
    table: str
    surface: str
    min_time: int
    max_time: int
    sha256: str | None = None
    """None for a journal."""

    def read(self) -> pa.Table | None:
        """Its rows; None where its writer has removed it to make room. Raises ``AnswerLogCorrupt``."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if self.sha256 is None:
            return pa.Table.from_batches(answer_journal.read(data).batches)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise _corrupt(self.path, "its bytes are not those that its manifest names")
        try:
            return pq.read_table(pa.BufferReader(data))
        except pa.ArrowException as error:
            raise _corrupt(self.path, f"it cannot be read as Parquet ({error})") from error


@dataclass(frozen=True)
class Shown:
    """Answers' rows, one a candidate; all arrays have the same length R."""

    requests: Ints  # number of the request, as data sets have it
    users: Ints
    items: Ints
    times: Ints  # ms
    rungs: NDArray[np.str_]
    digests: NDArray[np.str_]  # of the foundation, "" where there is none
    cursors: Ints  # ms, 0 where it is not said
    propensities: NDArray[np.float32]
    present: NDArray[np.bool_]  # whether there is an embedding
    tae: NDArray[np.float16]  # (R, D), zeros where there is none

    def __len__(self) -> int:
        return len(self.requests)

    def take(self, index: NDArray[np.bool_] | Ints) -> Shown:
        """The rows that a mask or an index names."""
        return Shown(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    @classmethod
    def empty(cls) -> Shown:
        """No rows."""
        none, no_text = np.empty(0, np.int64), np.empty(0, np.str_)
        return cls(
            none, none, none, none, no_text, no_text, none, np.empty(0, np.float32), np.empty(0, np.bool_),
            np.empty((0, 0), np.float16),
        )  # fmt: skip

    @classmethod
    def concatenate(cls, parts: Sequence[Shown]) -> Shown:
        """Rows of several segments, in the order given; at least one. All that have rows have one D."""
        some = [part for part in parts if len(part)] or [parts[0]]
        return cls(**{name: np.concatenate([getattr(p, name) for p in some]) for name in cls.__dataclass_fields__})

    @classmethod
    def of(cls, table: pa.Table) -> Shown:
        """The rows of a segment. Raises ``KeyError`` or ``ArrowException`` where it is none."""
        vectors = table.column("tae").combine_chunks()
        if isinstance(vectors, pa.ChunkedArray):
            vectors = vectors.chunk(0)
        present = vectors.is_valid().to_numpy(zero_copy_only=False)
        tae = np.zeros((len(table), vectors.type.list_size), np.float16)
        tae[present] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
        return cls(
            requests=_numbers(table.column("request_id")),
            users=table.column("user_id").to_numpy(),
            items=table.column("item_id").to_numpy(),
            times=table.column("time").to_numpy(),
            rungs=np.array(table.column("rung").to_pylist(), np.str_),
            digests=np.array(pc.fill_null(table.column("foundation_digest"), "").to_pylist(), np.str_),
            cursors=pc.fill_null(table.column("foundation_cursor"), 0).to_numpy(),
            propensities=table.column("propensity").to_numpy(),
            present=present,
            tae=tae,
        )


def sources(folder: Path) -> list[Source]:
    """What there is of both tables in the folders of all writers, the earliest first.

    Raises ``AnswersNotFound`` where there is nothing, and ``AnswerLogCorrupt`` for a manifest that is none.
    """
    found = sorted(
        (source for writer in folder.glob("[!.]*") if writer.is_dir() for source in _of_writer(writer)),
        key=lambda source: (source.min_time, source.path),
    )
    if not any(source.table == ANSWERS for source in found):
        raise RecastError(
            "AnswersNotFound",
            f"{folder} holds no answers: give the folder that holds those of the writers, such as the volume that "
            "experts' servers write their log to",
        )
    return found


def reported(found: list[Source]) -> NDArray[np.int64]:
    """(I, 2) number of the request and item of each that was shown, sorted, each once."""
    parts = [np.empty((0, 2), np.int64)]
    for source in found:
        if source.table == IMPRESSIONS and (table := source.read()) is not None:
            parts.append(np.stack([_numbers(table.column("request_id")), table.column("item_id").to_numpy()], 1))
    return np.unique(np.concatenate(parts), axis=0)


def _of_writer(folder: Path) -> Iterator[Source]:
    # Journals first: one that becomes a segment meanwhile is then among the manifests, which count.
    journals = {}
    for path in sorted(folder.glob(".*.arrows")):
        if (name := SegmentName.of(path.name)) and (source := _journal(path, name)):
            journals[name] = source
    for path in sorted(folder.glob("[!.]*.json")):
        name = SegmentName.of(path.name)
        if name is None:
            continue
        try:
            manifest = SegmentManifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue
        except ValidationError as error:
            raise _corrupt(path, "it is no manifest of a segment") from error
        journals.pop(name, None)
        yield Source(
            folder / manifest.file,
            manifest.table,
            manifest.writer.surface,
            manifest.min_time,
            manifest.max_time,
            manifest.sha256,
        )
    yield from journals.values()


def _journal(path: Path, name: SegmentName) -> Source | None:
    """None where nothing of it is whole."""
    try:
        found = answer_journal.read(path.read_bytes())
    except FileNotFoundError:
        return None
    if found.schema is None or not found.batches:
        return None
    times = [pc.min_max(batch.column("time")) for batch in found.batches]
    surface = Writer.model_validate_json(found.schema.metadata[WRITER_KEY]).surface
    earliest, latest = min(each["min"].as_py() for each in times), max(each["max"].as_py() for each in times)
    return Source(path, name.table, surface, earliest, latest)


def _numbers(requests: pa.ChunkedArray) -> Ints:
    encoded = requests.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    numbers = np.array([request_number(text) for text in encoded.dictionary.to_pylist()], np.int64)
    return numbers[encoded.indices.to_numpy()] if len(numbers) else numbers


def _corrupt(path: Path, what: str) -> RecastError:
    return RecastError("AnswerLogCorrupt", f"{path}: {what}; remove the segment from the log, or restore it")
