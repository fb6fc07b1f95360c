"""What a data set is: ``dataset.json``, ``items.parquet`` and ``segments/<YYYY-MM-DDTHH>.parquet``.

The last may be a folder ``segments/<YYYY-MM-DDTHH>`` of several files.

A row is one impression: an item shown to a user on a surface, with the labels that came of it. ``event_time`` is when
it was shown, and each label has its own ``available_at``, when it was known: a click at once, a purchase after its
window. Nothing may learn a label, or show it as history, before that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from recast_api.base import Identifier, Wire
from recast_model.context import (
    MAX_FEATURES,
    MAX_VALUES,
    MAX_VALUES_IN_ALL,
    VALUE_LENGTH,
    Context,
    ContextFeature,
    Features,
    FeatureType,
)

DATASET = "dataset.json"
ITEMS = "items.parquet"
SEGMENTS = "segments"
PARQUET = ".parquet"
SHOWN = "[!._]*"
"""Names in :data:`SEGMENTS` that are read: writers hide what is not whole yet."""
SEGMENT_FORMAT = "%Y-%m-%dT%H"

COLUMNS = ("row_id", "request_id", "user_id", "item_id", "surface", "event_time", "available_at")
"""Columns of every segment: int64, but ``surface`` is a string. Beside them a ``label_<task>`` (int8, null where the
surface has no such task) for each task, and optionally ``position`` (int64), ``available_at_<task>`` (int64, null where
it is ``available_at``), ``p_<task>`` (float32), the true probability, and ``context_<feature>`` (a string or a number,
null where unknown) for each feature of the request's context."""

MAX_TASKS = 32
ALL_SURFACES = "all"
"""What figures over all surfaces together are called; so no surface may be."""
UNKNOWN_POSITION = -1


class SurfaceInfo(Wire):
    """A surface of the data and the tasks that its rows carry labels for."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    tasks: Annotated[list[str], Field(min_length=1, max_length=MAX_TASKS)]


class ContextInfo(Wire):
    """A feature of requests, beside their user, surface and time."""

    name: Identifier
    type: FeatureType
    values: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=VALUE_LENGTH)]] | None,
        Field(min_length=1, max_length=MAX_VALUES),
    ] = None
    """What a categorical feature may be; anything else is unknown."""

    @model_validator(mode="after")
    def _values_of_its_type(self) -> ContextInfo:
        if (self.values is None) == (self.type == "Categorical"):
            raise ValueError("values are listed where type is Categorical, and only there")
        if self.values is not None and len(set(self.values)) != len(self.values):
            raise ValueError("values must not repeat")
        return self


class Dataset(Wire):
    """``dataset.json``."""

    format: Literal[2] = 2
    name: str
    surfaces: Annotated[list[SurfaceInfo], Field(min_length=1, max_length=64)]
    content_dim: Annotated[int, Field(ge=0, le=4096)] = 0
    """0 where items have no content: an item is then what its events say of it."""
    segment_seconds: Annotated[int, Field(ge=3600, multiple_of=3600)] = 3600
    """Files are named by the hour, so a segment is a number of whole hours."""
    history: Literal["Engagements", "Events"] = "Engagements"
    """What a user's history holds: rows with a positive label alone, or every row. Impressions that came to nothing
    would crowd out the rest; where each row is itself something the user did, such as a rating, none may be lost."""
    context: Annotated[list[ContextInfo] | None, Field(max_length=MAX_FEATURES)] = None
    """Features of a request's context, if there are any."""

    @model_validator(mode="after")
    def _distinct(self) -> Dataset:
        if len(set(self.surface_names)) != len(self.surfaces):
            raise ValueError("surfaces must not repeat a name")
        if ALL_SURFACES in self.surface_names:
            raise ValueError(f'a surface cannot be called "{ALL_SURFACES}": that names all of them together')
        if len(self.tasks) > MAX_TASKS:
            raise ValueError(f"at most {MAX_TASKS} tasks over all surfaces: an action mask holds one bit each")
        features = self.context_features
        if len({feature.name for feature in features}) != len(features):
            raise ValueError("context must not repeat a name")
        if sum(len(feature.values) for feature in features) > MAX_VALUES_IN_ALL:
            raise ValueError(f"at most {MAX_VALUES_IN_ALL} values over all features of context")
        return self

    @property
    def surface_names(self) -> tuple[str, ...]:
        """Surfaces in the order of their indices."""
        return tuple(surface.name for surface in self.surfaces)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Union of all surfaces' tasks, in order of first mention: bits of action masks, columns of labels."""
        return tuple(dict.fromkeys(task for surface in self.surfaces for task in surface.tasks))

    @property
    def context_features(self) -> Features:
        """Features of a request's context, in the order of their columns in :class:`Rows`."""
        return tuple(ContextFeature(each.name, each.type, tuple(each.values or ())) for each in self.context or ())

    def tasks_of(self, surface: str) -> tuple[str, ...]:
        """The tasks of one surface."""
        return next(tuple(entry.tasks) for entry in self.surfaces if entry.name == surface)


@dataclass(frozen=True)
class Rows:
    """Impressions as arrays of the same length R, ordered by (event_time, request_id, row_id)."""

    row_ids: NDArray[np.int64]
    request_ids: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]  # raw item id
    surfaces: NDArray[np.int64]  # index into Dataset.surfaces
    event_times: NDArray[np.int64]  # ms
    available_at: NDArray[np.int64]  # (R, T) ms at which each label was known; where there is none it means nothing
    positions: NDArray[np.int64]  # place in the slate from 0, or UNKNOWN_POSITION
    labels: NDArray[np.float32]  # (R, T), 0 where there is none
    label_mask: NDArray[np.bool_]  # (R, T)
    oracle: NDArray[np.float32]  # (R, T) true probability, NaN where unknown
    context_values: NDArray[np.int64]  # (R, C) index of each categorical feature's value, 0 where unknown
    context_numbers: NDArray[np.float32]  # (R, K) each numeric feature, NaN where unknown

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Rows:
        """The rows that an index, a mask or a slice names."""
        chosen = np.arange(len(self))[index]  # np.take gathers rows of labels several times as fast as an index
        return Rows(**{name: np.take(getattr(self, name), chosen, axis=0) for name in self.__dataclass_fields__})

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        """Rows of several segments, in the order given; at least one."""
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__})

    @property
    def context(self) -> Context:
        """The rows' context; those of one request have the same."""
        return Context(self.context_values, self.context_numbers)

    def with_context(self, context: Context) -> Rows:
        """The same rows with another context."""
        return replace(self, context_values=context.values, context_numbers=context.numbers)

    @property
    def first_known(self) -> NDArray[np.int64]:
        """(R,) ms at which the first label of each row was known, or that it has none."""
        latest = self.available_at.max(1, keepdims=True)
        first: NDArray[np.int64] = np.where(self.label_mask, self.available_at, latest).min(1)
        return first

    @property
    def last_known(self) -> NDArray[np.int64]:
        """(R,) ms at which the last label of each row was known, or that it has none."""
        earliest = self.available_at.min(1, keepdims=True)
        last: NDArray[np.int64] = np.where(self.label_mask, self.available_at, earliest).max(1)
        return last


def segment_name(start_ms: int) -> str:
    """File name, without suffix, of the segment that starts at an instant."""
    return datetime.fromtimestamp(start_ms / 1000, UTC).strftime(SEGMENT_FORMAT)


def segment_start(name: str) -> int:
    """Milliseconds at which the segment of that name starts. Raises ``ValueError`` for another name."""
    return int(datetime.strptime(name, SEGMENT_FORMAT).replace(tzinfo=UTC).timestamp() * 1000)
