"""Who visits, and what a user is at a time: a pure function of seed, user, surface and time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recast_trainer.data.synthetic.config import SyntheticConfig
from recast_trainer.data.synthetic.hashing import Keys, mix, normal, uniform

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
HOUR_MS = 3_600_000
COMMON = 0
"""What is said of all surfaces together; of surface s it is s + 1."""
_TASTE, _SHARED, _INTEREST = 1, 2, 3
AWAKE_SHARE = 0.5
"""Share of its cycle for which an interest is awake."""


class Users:
    """The users 0..users-1 of a world. Times are ms; B visits at once."""

    def __init__(self, config: SyntheticConfig, random: np.random.Generator) -> None:
        self.config = config
        activity = random.lognormal(0, 0.7, config.users)
        self._cumulative = np.cumsum(activity / activity.sum())
        self.arrives, self.leaves = lives(random, config.users, config.hours, config.arriving, config.leaving)

    def visiting(self, random: np.random.Generator, hour: int, count: int) -> Ints:
        """(count,) users by their activity, of those who are there in an hour."""
        users = self._any(random, count)
        while len(away := np.flatnonzero((hour < self.arrives[users]) | (hour >= self.leaves[users]))):
            users[away] = self._any(random, len(away))
        return users

    def _any(self, random: np.random.Generator, count: int) -> Ints:
        found = np.searchsorted(self._cumulative, random.random(count), side="right")
        return np.minimum(found, self.config.users - 1)  # the sum may end below 1

    def taste(self, users: Ints, surfaces: Ints, times: Ints) -> Floats:
        """(B, d) of variance 1: theta of the package's formulas."""
        rho = self.config.rho
        taste = np.float32(np.sqrt(rho)) * self._turning(users, np.full_like(surfaces, COMMON), times)
        return taste + np.float32(np.sqrt(1 - rho)) * self._turning(users, surfaces + 1, times)

    def _turning(self, users: Ints, part: Ints, times: Ints) -> Floats:
        """(B, d) on the great circle from one knot to the next: of variance 1 at any time between."""
        key = mix(self.config.seed, _TASTE, users, part)
        place = self._hours(times) / self.config.drift_hours + uniform(key)
        knot = place.astype(np.int64)
        angle = (place - knot)[:, None] * (np.pi / 2)
        before, after = (normal(mix(key, knot + step), self.config.latent_dim) for step in (0, 1))
        return np.cos(angle).astype(np.float32) * before + np.sin(angle).astype(np.float32) * after

    def interests(self, users: Ints, surfaces: Ints, times: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """(B, interests) categories, and whether each is awake."""
        config = self.config
        key = self._interest_keys(users, surfaces)
        categories = (uniform(mix(key, 0)) * config.categories).astype(np.int64)
        cycle = config.cycle_hours * 2.0 ** (2 * uniform(mix(key, 1)) - 1)
        phase = self._hours(times)[:, None] / cycle + uniform(mix(key, 2))
        return categories, phase - np.floor(phase) < AWAKE_SHARE

    def _interest_keys(self, users: Ints, surfaces: Ints) -> Keys:
        """(B, interests): the same key on all surfaces where the interest is common."""
        config = self.config
        number = np.arange(config.interests)
        shared = uniform(mix(config.seed, _SHARED, users[:, None], number)) < config.rho
        part = np.where(shared, COMMON, surfaces[:, None] + 1)
        return mix(config.seed, _INTEREST, users[:, None], number, part)

    def _hours(self, times: Ints) -> NDArray[np.float64]:
        return (times - self.config.start_ms) / HOUR_MS


def lives(
    random: np.random.Generator, count: int, hours: int, later: float, ending: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First hour (count,), and the hour (count,) from which on it is no more.

    A share ``later`` begins during the stream, another share ``ending`` ends during it, the rest is always there.
    """
    lot = random.permutation(count)
    moment = random.integers(1, max(2, hours), count)
    begins = np.where(lot < int(later * count), moment, 0)
    ends = np.where(lot >= count - int(ending * count), moment, hours)
    return begins.astype(np.int32), ends.astype(np.int32)
