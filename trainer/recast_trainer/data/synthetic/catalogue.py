"""The items: categories, vectors, content, lives, and how slates are drawn from them at a cost that knows no size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recast_model.items import ItemTable
from recast_trainer.data.synthetic.config import SyntheticConfig
from recast_trainer.data.synthetic.users import Floats, Ints, lives

CENTRE = 0.5
"""Share of an item's vector, in variance, that it has of its category."""
APPEAL = 0.3
"""Standard deviation of an item's appeal in the logit."""
PATIENCE = 8
"""Draws of a slot from its own category, before any category will do."""


class Catalogue:
    """The items of a world by index 0..items-1; ``table`` has their ids and content."""

    def __init__(self, config: SyntheticConfig, random: np.random.Generator, tasks: int) -> None:
        self.config = config
        count, d = config.items, config.latent_dim
        # Rank r of category c stands at r * categories + c: categories differ in size by one item at most.
        self._order = random.permutation(count).astype(np.int32)
        self.categories = np.empty(count, np.int32)
        self.categories[self._order] = np.arange(count, dtype=np.int32) % config.categories
        centres, codes = _normals(random, config.categories, d), _normals(random, config.categories, config.content_dim)
        visible = _normals(random, count, d)
        visible *= np.float32(np.sqrt(1 - CENTRE))
        visible += np.float32(np.sqrt(CENTRE)) * centres[self.categories]
        content = visible @ (_normals(random, d, config.content_dim) / np.float32(np.sqrt(d)))
        content += np.float32(0.5) * codes[self.categories]
        content += np.float32(0.1) * _normals(random, count, config.content_dim)
        self.vectors = visible
        self.vectors *= np.float32(np.sqrt(1 - config.hidden))
        self.vectors += np.float32(np.sqrt(config.hidden)) * _normals(random, count, d)
        self.appeal = np.float32(APPEAL) * _normals(random, count, tasks)
        self.born, self.dies = lives(random, count, config.hours, config.born_later, config.dying)
        ids = np.sort(random.choice(10 * count, count, replace=False)).astype(np.int64) + 1
        self.table = ItemTable(ids, content)

    def slates(self, random: np.random.Generator, hour: int, interests: Ints) -> Ints:
        """(B, slate) items, distinct and alive in the hour, for users with these interests (B, interests)."""
        count, slate = len(interests), self.config.slate
        targeted = interests[np.arange(count)[:, None], random.integers(0, interests.shape[1], (count, slate))]
        categories = self._anything(random, (count, slate))
        categories = np.where(random.random((count, slate)) < self.config.targeted, targeted, categories)
        slates, left, tries = self._draw(random, categories), np.arange(count), 1
        while len(left):
            redo = self._dead(slates[left], hour) | _repeats(slates[left])
            left, redo = left[redo.any(1)], redo[redo.any(1)]
            # Not of the same category for ever: it may have no other item that is alive.
            again = categories[left][redo] if tries < PATIENCE else self._anything(random, int(redo.sum()))
            chosen = slates[left]
            chosen[redo] = self._draw(random, again)
            slates[left] = chosen
            tries += 1
        return slates

    def _anything(self, random: np.random.Generator, shape: int | tuple[int, int]) -> Ints:
        return random.integers(0, self.config.categories, shape)

    def _draw(self, random: np.random.Generator, categories: Ints) -> Ints:
        """An item of each category, of any shape, by a power law of rank: its cumulative share, inverted."""
        sizes = (self.config.items - 1 - categories) // self.config.categories + 1
        power = 1 - self.config.popularity
        top = (sizes + 1.0) ** power
        rank = (1 + random.random(categories.shape) * (top - 1)) ** (1 / power) - 1
        place = np.minimum(rank.astype(np.int64), sizes - 1) * self.config.categories + categories
        return self._order[place].astype(np.int64)

    def _dead(self, items: Ints, hour: int) -> NDArray[np.bool_]:
        dead: NDArray[np.bool_] = (hour < self.born[items]) | (hour >= self.dies[items])
        return dead


def _repeats(slates: Ints) -> NDArray[np.bool_]:
    """(B, slate) whether the same item stands earlier in the slate."""
    order = np.argsort(slates, axis=1, kind="stable")
    ranked = np.take_along_axis(slates, order, 1)
    again = np.zeros(slates.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return again


def _normals(random: np.random.Generator, rows: int, columns: int) -> Floats:
    return random.standard_normal((rows, columns), dtype=np.float32)
