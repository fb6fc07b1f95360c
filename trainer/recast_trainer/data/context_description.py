"""What ``recast data describe`` says of the requests' context, added up a segment at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from recast_model.context import ContextFeature, Features, Moments
from recast_trainer.data.schema import DATASET, Rows

_MANY = 0.01
"""Share of rows with a value that is not listed, from which on that is worth a warning."""
_SHOWN = 5


class DescribedContext:
    """How often each feature is known, and what it is then."""

    def __init__(self, features: Features) -> None:
        self._features, self._rows = features, 0
        categorical = [feature for feature in features if feature.categorical]
        self._seen = {feature.name: np.zeros(1 + len(feature.values), np.int64) for feature in categorical}
        self._unlisted = {feature.name: (0, "") for feature in categorical}
        self._numbers = [feature.name for feature in features if not feature.categorical]
        self._moments = Moments.none(len(self._numbers))

    def add(self, rows: Rows, unlisted: Callable[[ContextFeature], tuple[int, str]]) -> None:
        """Count a segment's rows; ``unlisted`` as :func:`recast_trainer.data.segments.unlisted` of the segment."""
        self._rows += len(rows)
        for feature in self._features:
            if feature.categorical:
                index = rows.context.of_feature(self._features, feature)
                self._seen[feature.name] += np.bincount(index, minlength=1 + len(feature.values))
                count, example = unlisted(feature)
                before, shown = self._unlisted[feature.name]
                self._unlisted[feature.name] = (before + count, shown or example)
        self._moments = self._moments.and_these(rows.context_numbers)

    def lines(self) -> Iterator[str]:
        """For people: each feature, then what may be wrong with it."""
        for feature in self._features:
            said = self._categorical(feature) if feature.categorical else self._numeric(feature)
            yield f"context {feature.name}: {said}"
        for feature in self._features:
            if self._rows and self._known(feature) == 0:
                yield f"WARNING: {feature.name} is known of no row: is there a column context_{feature.name}?"
            count, example = self._unlisted.get(feature.name, (0, ""))
            if self._rows and count / self._rows > _MANY:
                yield (
                    f"WARNING: {count / self._rows:.1%} of rows have a {feature.name} that {DATASET} does not list, "
                    f'such as "{example}". They are learned as unknown; list what matters'
                )

    def _known(self, feature: ContextFeature) -> int:
        if feature.categorical:
            return int(self._seen[feature.name][1:].sum())
        return int(self._moments.count[self._numbers.index(feature.name)])

    def _unknown(self, feature: ContextFeature) -> str:
        return f"unknown in {1 - self._known(feature) / max(1, self._rows):.1%} of rows"

    def _categorical(self, feature: ContextFeature) -> str:
        unseen = [v for v, count in zip(feature.values, self._seen[feature.name][1:], strict=True) if not count]
        shown = ", ".join(unseen[:_SHOWN]) + (f" and {len(unseen) - _SHOWN:,} more" if len(unseen) > _SHOWN else "")
        return f"{len(feature.values):,} values, {self._unknown(feature)}" + (
            f", never seen: {shown}" if unseen else ""
        )

    def _numeric(self, feature: ContextFeature) -> str:
        place = self._numbers.index(feature.name)
        mean, scale = self._moments.mean[place], self._moments.scale[place]
        return f"{self._unknown(feature)}, mean {mean:.6g}, scale {scale:.6g}"
