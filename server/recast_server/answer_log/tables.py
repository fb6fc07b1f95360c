"""The two tables as Arrow: their columns, and records as batches of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recast_api.answer_log import ANSWERS, IMPRESSIONS, WRITER_KEY, Writer
from recast_server.answer_log.answer import Answer
from recast_server.expert.impressions_api import Impressions


class Record(Protocol):
    """What the log takes."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        ...


@dataclass(frozen=True)
class Table:
    """A table of the log."""

    name: str
    schema: pa.Schema
    batch: Callable[[Sequence[Any]], pa.RecordBatch]
    """Rows of one or more records."""


def answers_table(writer: Writer, tae_dim: int) -> Table:
    """Takes :class:`Answer`; a row is one candidate."""
    tasks = len(writer.tasks)
    schema = pa.schema(
        [
            ("request_id", pa.string()),
            ("time", pa.int64()),
            ("answered_at", pa.int64()),
            ("user_id", pa.int64()),
            ("rung", pa.string()),
            ("foundation_version", pa.int64()),
            ("foundation_digest", pa.string()),
            ("foundation_cursor", pa.int64()),
            ("candidates", pa.int32()),
            ("item_id", pa.int64()),
            ("position", pa.int32()),
            ("propensity", pa.float32()),
            ("score", pa.float64()),
            ("probabilities", pa.list_(pa.float32(), tasks)),
            ("tae", pa.list_(pa.float16(), tae_dim)),
        ],
        metadata=_metadata(writer),
    )

    def batch(answers: Sequence[Answer]) -> pa.RecordBatch:
        counts = np.array([len(answer.items) for answer in answers])

        def of_each(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
            return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(answers)), counts)))

        def joined(name: str) -> pa.Array:
            return pa.array(np.concatenate([getattr(answer, name) for answer in answers]))

        there = np.repeat([answer.tae is not None for answer in answers], counts)
        tae = np.zeros((int(counts.sum()), tae_dim), np.float16)
        if there.any():
            tae[there] = np.concatenate([answer.tae for answer in answers if answer.tae is not None])
        return pa.record_batch(
            [
                of_each([a.request_id for a in answers], pa.string()),
                of_each([a.time_ms for a in answers], pa.int64()),
                of_each([a.answered_ms for a in answers], pa.int64()),
                of_each([a.user for a in answers], pa.int64()),
                of_each([a.rung for a in answers], pa.string()),
                of_each([a.foundation_version for a in answers], pa.int64()),
                of_each([a.foundation_digest for a in answers], pa.string()),
                of_each([a.foundation_cursor_ms for a in answers], pa.int64()),
                of_each([a.candidates for a in answers], pa.int32()),
                joined("items"),
                joined("positions"),
                joined("propensities"),
                joined("scores"),
                pa.FixedSizeListArray.from_arrays(
                    pa.array(np.concatenate([answer.probabilities for answer in answers]).reshape(-1)), tasks
                ),
                pa.FixedSizeListArray.from_arrays(pa.array(tae.reshape(-1)), tae_dim, mask=pa.array(~there)),
            ],
            schema=schema,
        )

    return Table(ANSWERS, schema, batch)


def impressions_table(writer: Writer) -> Table:
    """Takes :class:`Impressions`; a row is one item that was shown."""
    schema = pa.schema(
        [
            ("request_id", pa.string()),
            ("item_id", pa.int64()),
            ("position", pa.int32()),
            ("time", pa.int64()),
            ("received_at", pa.int64()),
        ],
        metadata=_metadata(writer),
    )

    def batch(reports: Sequence[Impressions]) -> pa.RecordBatch:
        rows = [(report, item) for report in reports for item in report.items]
        return pa.record_batch(
            [
                pa.array([report.request_id for report, _ in rows], pa.string()),
                pa.array([item.item for _, item in rows], pa.int64()),
                pa.array([item.position for _, item in rows], pa.int32()),
                pa.array([report.received_ms if item.time is None else item.time for report, item in rows], pa.int64()),
                pa.array([report.received_ms for report, _ in rows], pa.int64()),
            ],
            schema=schema,
        )

    return Table(IMPRESSIONS, schema, batch)


def _metadata(writer: Writer) -> dict[bytes, bytes]:
    return {WRITER_KEY: writer.model_dump_json(by_alias=True).encode()}
