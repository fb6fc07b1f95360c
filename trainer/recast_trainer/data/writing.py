"""Writes a data set's folder. ``dataset.json`` comes last: a folder without it is no data set yet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recast_model.items import ItemTable
from recast_trainer.data import context_columns
from recast_trainer.data.schema import DATASET, ITEMS, PARQUET, SEGMENTS, SHOWN, Dataset, Rows, segment_name
from recast_trainer.files import replace, write_bytes


class DatasetWriter:
    """Segments, then :meth:`finish`. An older data set in the folder is no longer one from the start."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._folder, self._dataset = folder, dataset
        (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
        (folder / DATASET).unlink(missing_ok=True)
        for stale in (folder / SEGMENTS).glob(SHOWN):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()

    def items(self, items: ItemTable) -> None:
        """Write the items, with their content where they have any."""
        columns: dict[str, pa.Array] = {"item_id": pa.array(items.ids)}
        if size := items.content.shape[1]:
            columns["content"] = pa.FixedSizeListArray.from_arrays(pa.array(items.content.reshape(-1)), size)
        pq.write_table(pa.table(columns), self._folder / ITEMS)

    def segment(self, start_ms: int, rows: Rows) -> Path:
        """Write one segment; empty ones are left out by the caller."""
        columns: dict[str, pa.Array] = {
            "row_id": pa.array(rows.row_ids),
            "request_id": pa.array(rows.request_ids),
            "user_id": pa.array(rows.users),
            "item_id": pa.array(rows.items),
            "surface": pa.DictionaryArray.from_arrays(
                pa.array(rows.surfaces, pa.int32()), pa.array(self._dataset.surface_names)
            ).cast(pa.string()),
            "event_time": pa.array(rows.event_times),
            "available_at": pa.array(rows.last_known),
            "position": pa.array(rows.positions),
        }
        for column, task in enumerate(self._dataset.tasks):
            columns[f"label_{task}"] = pa.array(
                rows.labels[:, column].astype(np.int8), mask=~rows.label_mask[:, column]
            )
            own = rows.label_mask[:, column] & (rows.available_at[:, column] != rows.last_known)
            if own.any():
                columns[f"available_at_{task}"] = pa.array(rows.available_at[:, column], mask=~own)
            if np.isfinite(rows.oracle[:, column]).any():
                columns[f"p_{task}"] = pa.array(rows.oracle[:, column], mask=~rows.label_mask[:, column])
        columns |= context_columns.written(rows, self._dataset.context_features)
        path = self._folder / SEGMENTS / f"{segment_name(start_ms)}{PARQUET}"
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(pa.table(columns), temporary, compression="zstd")
        replace(temporary, path)
        return path

    def finish(self) -> None:
        """Declare the data set whole."""
        write_description(self._folder, self._dataset)


def write_description(folder: Path, dataset: Dataset) -> None:
    """Write ``dataset.json``, by which a folder is a data set."""
    write_bytes(folder / DATASET, (json.dumps(dataset.wire(), indent=2) + "\n").encode())


def write_dataset(folder: Path, dataset: Dataset, items: ItemTable, parts: Iterable[tuple[int, Rows]]) -> None:
    """Write a whole data set: its items, and of each segment its start in ms and its rows."""
    writer = DatasetWriter(folder, dataset)
    writer.items(items)
    for start, rows in parts:
        writer.segment(start, rows)
    writer.finish()
