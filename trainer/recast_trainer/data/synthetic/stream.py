"""From a world to rows: hour by hour, each a pure function of seed and hour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recast_trainer.data.schema import Dataset, Rows, SurfaceInfo
from recast_trainer.data.synthetic.catalogue import APPEAL, Catalogue
from recast_trainer.data.synthetic.config import SyntheticConfig
from recast_trainer.data.synthetic.users import AWAKE_SHARE, HOUR_MS, Floats, Ints, Users

CHUNK = 4096
"""Requests that are made at once, which bounds what memory an hour takes beside its rows."""
Bools = NDArray[np.bool_]


class SyntheticStream:
    """The world of one configuration. ``dataset`` describes it, ``items`` are its items with their content."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.dataset = Dataset(
            name="synthetic",
            surfaces=[SurfaceInfo(name=s.name, tasks=list(s.base_rates)) for s in config.surfaces],
            content_dim=config.content_dim,
        )
        tasks = [config.tasks[name] for name in self.dataset.tasks]
        random = np.random.default_rng(config.seed)
        self.catalogue = Catalogue(config, random, len(tasks))
        self.users = Users(config, random)
        self.items = self.catalogue.table
        rotations = [_rotation(random, config.latent_dim, angle=0.5) for _ in config.surfaces]
        self.rotations = np.stack(rotations)  # (S, d, d)
        self.strength = np.array([task.strength for task in tasks], np.float32)  # (T,)
        self._delay = np.array([task.delay_seconds for task in tasks], np.float32) * 1000
        self._window = np.array([task.window_seconds for task in tasks], np.float32) * 1000
        self.has_task: Bools = np.array([[t in s.base_rates for t in self.dataset.tasks] for s in config.surfaces])
        self.base = self._base()  # (S, T)

    def segments(self) -> Iterator[tuple[int, Rows]]:
        """(start in ms, rows) of each hour; an hour always holds ``requests_per_hour`` requests."""
        for hour in range(self.config.hours):
            yield self.config.start_ms + hour * HOUR_MS, self.hour(hour)

    def hour(self, hour: int) -> Rows:
        """The rows of one hour, whatever was made before."""
        config = self.config
        random = np.random.default_rng([config.seed, hour])
        start = config.start_ms + hour * HOUR_MS
        times = start + np.sort(random.integers(0, HOUR_MS, config.requests_per_hour))
        chunks = range(0, len(times), CHUNK)
        return Rows.concatenate([self._chunk(random, hour, begin, times[begin : begin + CHUNK]) for begin in chunks])

    def _chunk(self, random: np.random.Generator, hour: int, begin: int, times: Ints) -> Rows:
        """The rows of the requests at ``times`` (B,), which are the hour's from number ``begin`` on."""
        config, slate = self.config, self.config.slate
        shares = np.array([surface.share for surface in config.surfaces])
        surfaces = random.choice(len(shares), len(times), p=shares / shares.sum())
        users = self.users.visiting(random, hour, len(times))
        items = self.catalogue.slates(random, hour, self.users.interests(users, surfaces, times)[0])  # (B, slate)
        truth = self.probabilities(users, surfaces, times, items)  # (B, slate, T)
        has = np.broadcast_to(self.has_task[surfaces][:, None, :], truth.shape)
        labels = (random.random(truth.shape, dtype=np.float32) < truth) & has
        delays = np.where(has, self._delays(random, truth.shape), 0)
        delays = np.where(has, delays, delays.max(-1, keepdims=True)).reshape(-1, truth.shape[-1])
        requests = np.arange(len(times), dtype=np.int64) + hour * config.requests_per_hour + begin
        event_times = np.repeat(times, slate)
        rows, tasks = items.size, truth.shape[-1]
        return Rows(
            row_ids=np.arange(rows, dtype=np.int64) + requests[0] * slate + 1,
            request_ids=np.repeat(requests + 1, slate),
            users=np.repeat(users + 1, slate),
            items=self.items.ids[items.reshape(-1)],
            surfaces=np.repeat(surfaces.astype(np.int64), slate),
            event_times=event_times,
            available_at=event_times[:, None] + delays,
            positions=np.tile(np.arange(slate, dtype=np.int64), len(times)),
            labels=labels.reshape(rows, tasks).astype(np.float32),
            label_mask=has.reshape(rows, tasks).copy(),
            oracle=np.where(has, truth, np.float32(np.nan)).reshape(rows, tasks),
            context_values=np.empty((rows, 0), np.int64),
            context_numbers=np.empty((rows, 0), np.float32),
        )

    def probabilities(self, users: Ints, surfaces: Ints, times: Ints, items: Ints) -> Floats:
        """(B, slate, T) p(y | x) of slates (B, slate), in the order shown; also of tasks that a surface lacks."""
        taste = self.users.taste(users, surfaces, times)
        for surface, rotation in enumerate(self.rotations):
            mine = surfaces == surface
            taste[mine] = taste[mine] @ rotation.T
        affinity = np.einsum("bkd,bd->bk", self.catalogue.vectors[items], taste) / np.float32(taste.shape[1] ** 0.5)
        wanted, awake = self.users.interests(users, surfaces, times)
        wanted = np.where(awake, wanted, -1)
        awakened = (self.catalogue.categories[items][:, :, None] == wanted[:, None, :]).any(-1)
        pull = np.float32(self.config.signal) * affinity + np.float32(self.config.interest) * awakened
        logits = pull[..., None] * self.strength
        logits += self.base[surfaces][:, None, :] + self.catalogue.appeal[items]
        logits -= self._position_bias()[:, None]
        return _sigmoid(logits)

    def _position_bias(self) -> Floats:
        """(slate,) what a place takes from the logit."""
        places = np.arange(1, self.config.slate + 1)
        return (self.config.position_bias * np.log(places)).astype(np.float32)

    def _delays(self, random: np.random.Generator, shape: tuple[int, ...]) -> Ints:
        """(B, slate, T) ms until each label is known, at least 1; a day at most beside the window."""
        waits = np.exp(random.standard_normal(shape, dtype=np.float32)) * self._delay
        return 1 + (self._window + np.minimum(waits, 24 * HOUR_MS)).astype(np.int64)

    def _base(self) -> Floats:
        """(S, T) offsets of the logit that give each surface its base rates, over all places of a slate."""
        config, random = self.config, np.random.default_rng(0)
        size = 20_000
        seen = config.targeted + (1 - config.targeted) * min(1.0, config.interests / config.categories)
        awake = random.random(size) < seen * AWAKE_SHARE
        pull = config.signal * random.standard_normal(size) + config.interest * awake
        rest = APPEAL * random.standard_normal(size) - random.choice(self._position_bias(), size)
        base = np.zeros((len(config.surfaces), len(self.strength)), np.float32)
        for row, surface in enumerate(config.surfaces):
            for column, task in enumerate(self.dataset.tasks):
                if task in surface.base_rates:
                    spread = self.strength[column] * pull + rest
                    base[row, column] = _offset(spread, surface.base_rates[task])
        return base


def _offset(spread: NDArray[np.float64], rate: float) -> float:
    """What to add to logits so that their mean probability is ``rate``: by bisection, there is no closed form."""
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(middle + spread).mean() < rate else (low, middle)
    return low


def _rotation(random: np.random.Generator, dim: int, angle: float) -> Floats:
    """A rotation (dim, dim) by ``angle`` radians in random planes."""
    basis, _ = np.linalg.qr(random.standard_normal((dim, dim)))
    turn = np.eye(dim)
    for plane in range(dim // 2):
        i, j = 2 * plane, 2 * plane + 1
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    rotation: Floats = (basis @ turn @ basis.T).astype(np.float32)
    return rotation


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (1 + np.tanh(values / 2))
