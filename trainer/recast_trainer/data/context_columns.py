"""The columns of a segment that hold the context of requests: ``context_<feature>``, one for each feature.

A segment without a feature's column does not know that feature: it may have come later than the segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recast_model.context import Context, ContextFeature, Features
from recast_trainer.data.schema import DATASET, Rows

PREFIX = "context_"


def column(feature: ContextFeature) -> str:
    """The name of a feature's column."""
    return PREFIX + feature.name


def misnamed(columns: Sequence[str], features: Features) -> str:
    """What is wrong with the names of a file's columns; empty where nothing is."""
    strange = sorted({name for name in columns if name.startswith(PREFIX)} - {column(each) for each in features})
    if not strange:
        return ""
    known = ", ".join(feature.name for feature in features) or "none"
    return (
        f"column {strange[0]} is of no feature that context in {DATASET} names ({known}): correct its name, name its "
        "feature there, or leave it out"
    )


def mistyped(schema: pa.Schema, features: Features) -> str:
    """What is wrong with the types of a file's columns; empty where nothing is."""
    for feature in features:
        kind = schema.field(column(feature)).type if column(feature) in schema.names else pa.null()
        if not (pa.types.is_null(kind) or (_is_text(kind) if feature.categorical else _is_number(kind))):
            expected = "string" if feature.categorical else "float32"
            return f"column {column(feature)} is {kind}, expected {expected}"
    return ""


def read(table: pa.Table, features: Features) -> Context:
    """The context of a table's rows. Raises ``ValueError`` where a number is not finite."""
    return Context.of(features, lambda feature: _column(table, feature), len(table))


def written(rows: Rows, features: Features) -> dict[str, pa.Array]:
    """The columns of rows whose context is of these features."""
    found = {}
    for feature in features:
        encoded = rows.context.of_feature(features, feature)
        if feature.categorical:
            values = pa.DictionaryArray.from_arrays(
                pa.array(encoded - 1, pa.int32(), mask=encoded == 0), pa.array(feature.values)
            )
            found[column(feature)] = values.cast(pa.string())
        else:
            found[column(feature)] = pa.array(encoded, mask=np.isnan(encoded))
    return found


def disagreeing(rows: Rows, features: Features) -> str:
    """Which row's context is another than that of its request's other rows; empty where all agree."""
    order = np.lexsort((rows.row_ids, rows.surfaces, rows.users, rows.request_ids, rows.event_times))
    same = np.ones(max(0, len(rows) - 1), np.bool_)
    for key in (rows.event_times, rows.request_ids, rows.users, rows.surfaces):
        same &= np.diff(key[order]) == 0
    for feature in features:
        encoded = rows.context.of_feature(features, feature)[order]
        one, next_ = encoded[:-1], encoded[1:]
        apart = same & (one != next_) & ~(np.isnan(one) & np.isnan(next_))
        if apart.any():
            row = order[1:][apart][0]
            return (
                f"{column(feature)} of row_id {rows.row_ids[row]} is another than that of other rows of request_id "
                f"{rows.request_ids[row]}: context is of a request, so its rows must agree"
            )
    return ""


def _column(table: pa.Table, feature: ContextFeature) -> NDArray[Any]:
    name = column(feature)
    if name not in table.column_names:
        return np.repeat(feature.encode([None]), len(table))
    if not feature.categorical:
        return _numbers(table.column(name).cast(pa.float64()), name, feature)
    encoded = table.column(name).combine_chunks().cast(pa.string()).dictionary_encode()
    places = feature.encode([*encoded.dictionary.to_pylist(), None])
    found: NDArray[Any] = places[encoded.indices.fill_null(len(places) - 1).to_numpy()]
    return found


def _numbers(given: pa.ChunkedArray, name: str, feature: ContextFeature) -> NDArray[Any]:
    if pc.any(pc.invert(pc.is_finite(given))).as_py():
        raise ValueError(f"column {name} holds numbers that are not finite; leave null what is unknown")
    found = feature.encode(given.to_numpy())
    if (np.isnan(found) & given.is_valid().to_numpy()).any():
        raise ValueError(f"column {name} holds numbers that no float32 can hold")
    return found


def unlisted(table: pa.Table, feature: ContextFeature) -> tuple[int, str]:
    """How many rows hold a value of a categorical feature that is not listed, and the most frequent one of those."""
    counts = table.column(column(feature)).cast(pa.string()).drop_null().value_counts()
    strange = [
        (count, value)
        for value, count in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
        if not feature.encode([value])[0]
    ]
    return sum(count for count, _ in strange), max(strange, default=(0, ""))[1]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
