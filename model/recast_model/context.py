"""Context of a request: named features beside its user, surface and time, such as the device. NumPy only.

A feature is categorical, one of the values that its version lists, or a number; of either kind it may be unknown.
Trainer and servers turn what they are given into arrays by :meth:`ContextFeature.encode` alone, so that the same
context gives the same tensors on both sides. :mod:`recast_model.context_encoder` makes vectors of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

FeatureType = Literal["Categorical", "Numeric"]
TYPES: tuple[FeatureType, ...] = get_args(FeatureType)
UNKNOWN_VALUE = 0
"""Index of a categorical feature's value where there is none, or one that is not listed."""
MAX_FEATURES = 64
MAX_VALUES = 10_000
"""Values of one feature."""
MAX_VALUES_IN_ALL = 20_000
"""Values of all features together: each has a vector that the dense optimiser moves in each step."""
VALUE_LENGTH = 200
"""Characters of a value at most."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest number that a numeric feature can be."""

NO_CONTEXT: Mapping[str, str | float | None] = MappingProxyType({})
"""Of a request of which nothing else is known."""


@dataclass(frozen=True)
class ContextFeature:
    """One feature: its name, its kind and, where it is categorical, its values; value ``values[i]`` is index i + 1."""

    name: str
    type: FeatureType
    values: tuple[str, ...] = ()

    @property
    def categorical(self) -> bool:
        """Whether it is one of a list of values, and not a number."""
        return self.type == "Categorical"

    @cached_property
    def _index(self) -> dict[object, int]:
        return {value: place for place, value in enumerate(self.values, 1)}

    def encode(self, given: Sequence[object] | NDArray[np.float64]) -> NDArray[Any]:
        """What was given of n requests: (n,) int64 indices, or (n,) float32 numbers with NaN where unknown.

        Nothing is refused: what is of another type, not listed or not finite is unknown.
        """
        if self.categorical:
            known = (self._index.get(value, UNKNOWN_VALUE) if isinstance(value, str) else 0 for value in given)
            return np.fromiter(known, np.int64, len(given))
        numbers = given if isinstance(given, np.ndarray) else np.fromiter(map(_number, given), np.float64, len(given))
        return np.where(np.abs(numbers) <= LARGEST, numbers, np.nan).astype(np.float32)

    def decode(self, encoded: float) -> str | float | None:
        """What gives this index or number again; None where it is unknown."""
        if self.categorical:
            return None if encoded == UNKNOWN_VALUE else self.values[int(encoded) - 1]
        return None if math.isnan(encoded) else float(encoded)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for a manifest."""
        return {"name": self.name, "type": self.type} | ({"values": list(self.values)} if self.categorical else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave."""
        return cls(**{**values, "values": tuple(values.get("values", ()))})


Features = tuple[ContextFeature, ...]


def _number(value: object) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
    return float(value) if known else math.nan  # type: ignore[arg-type]


@dataclass(frozen=True)
class Context:
    """The context of n requests, categorical features apart from numeric ones, each kind in its features' order."""

    values: NDArray[np.int64]  # (n, C) index, 0 unknown
    numbers: NDArray[np.float32]  # (n, K), NaN unknown

    @classmethod
    def of(cls, features: Features, column: Callable[[ContextFeature], NDArray[Any]], count: int) -> Self:
        """``count`` requests, of which ``column`` has each feature as :meth:`ContextFeature.encode` gives it."""
        values = [column(feature) for feature in features if feature.categorical]
        numbers = [column(feature) for feature in features if not feature.categorical]
        return cls(
            np.stack(values, 1) if values else np.empty((count, 0), np.int64),
            np.stack(numbers, 1) if numbers else np.empty((count, 0), np.float32),
        )

    @classmethod
    def given(cls, features: Features, by_name: Mapping[str, object]) -> Self:
        """One request's, as it names them; what it does not name is unknown, and other names are passed over."""
        return cls.of(features, lambda feature: feature.encode([by_name.get(feature.name)]), 1)

    def of_feature(self, features: Features, feature: ContextFeature) -> NDArray[Any]:
        """(n,) one of the features that this is the context of."""
        place = [each for each in features if each.categorical == feature.categorical].index(feature)
        return self.values[:, place] if feature.categorical else self.numbers[:, place]

    def known_by(self, own: Features, others: Features) -> Context:
        """The same context, of the features ``own``, as it is of other features: by name and value.

        What ``own`` lacks, or has as another kind, is unknown.
        """
        if own == others:
            return self
        there = {(feature.name, feature.type): feature for feature in own}
        count = len(self.values)

        def column(feature: ContextFeature) -> NDArray[Any]:
            source = there.get((feature.name, feature.type))
            if source is None:
                return feature.encode([None] * count)
            found = self.of_feature(own, source)
            return feature.encode([None, *source.values])[found] if feature.categorical else found

        return Context.of(others, column, count)


@dataclass(frozen=True)
class Moments:
    """Of K numeric features, over what is known of them; (K,) float64 each."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    """Sum of squared deviations from the mean."""

    @classmethod
    def none(cls, features: int) -> Self:
        """Nothing known yet."""
        return cls(*(np.zeros(features) for _ in range(3)))

    def and_these(self, numbers: NDArray[np.float32]) -> Moments:
        """With further numbers (n, K), NaN where unknown (Chan et al., 1979)."""
        known = ~np.isnan(numbers)
        wide = np.where(known, numbers.astype(np.float64), 0.0)
        more = known.sum(0).astype(np.float64)
        mean = wide.sum(0) / np.maximum(more, 1)
        squares = (np.where(known, wide - mean, 0.0) ** 2).sum(0)
        count, apart = self.count + more, mean - self.mean
        share = more / np.maximum(count, 1)
        return Moments(count, self.mean + apart * share, self.squares + squares + apart**2 * self.count * share)

    @property
    def scale(self) -> NDArray[np.float64]:
        """(K,) standard deviation; 1 where a feature is constant or unknown."""
        found = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(found > 0, found, 1.0)
