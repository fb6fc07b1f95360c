"""Data sets of format 1 as data sets of format 2.

Format 2 added times of single labels, segments of several files and items without content, and took nothing away: what
was written as format 1 is, but for the number in ``dataset.json``, format 2 with one time for all labels of a row.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from recast_api.run import RecastError
from recast_trainer.data.schema import DATASET, ITEMS, Dataset
from recast_trainer.data.segments import (
    list_segments,
    load_dataset,
    load_items,
    parse_dataset,
    read_dataset,
    require_readable,
)
from recast_trainer.data.writing import write_description
from recast_trainer.files import sync_tree


def convert(folder: Path, out: Path) -> int:
    """Copy a data set of format 1 to ``out`` as format 2, and return its number of rows. ``folder`` is only read.

    Files are copied byte by byte once all have been looked at, and ``dataset.json`` comes last. Raises ``BadSpec``
    where ``out`` holds anything or lies in ``folder``, or nothing is to be converted, and the errors of reading a data
    set.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecastError("BadSpec", f"{out} is there already; give --out a new folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise RecastError("BadSpec", f"{out} lies in the data set that is converted; give --out a folder beside it")
    dataset = _of_format_1(folder)
    load_items(folder, dataset)
    segments = list_segments(folder, dataset)
    rows = require_readable(segments, dataset)
    for path in (folder / ITEMS, *(path for segment in segments for path in segment.files)):
        copy = out / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    sync_tree(out)
    write_description(out, dataset)
    return rows


def _of_format_1(folder: Path) -> Dataset:
    text = read_dataset(folder)
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    if isinstance(about, dict) and about.get("format") == 1:
        return parse_dataset(folder, json.dumps(about | {"format": 2}).encode())
    load_dataset(folder)  # says what is wrong with it, if anything is
    raise RecastError("BadSpec", f"{folder / DATASET} is of format 2 already; there is nothing to convert")
