"""A generated stream of several surfaces with a known p(y | x), so that a model's gain has an upper bound.

A user has one common taste that drifts and a private taste per surface; ``rho`` is the share of the common one. An item
has a taste vector: most of it shows in its content, a hidden residual does not. A surface turns item vectors by its own
rotation and has its own base rates. A label is drawn from

    p = sigmoid(base(surface, task) + strength(task) * <taste(user, surface, t), rotated item> + appeal(item, task))

With a common taste, what a user did on a large surface says much about a small one: that is what a foundation can give
its experts, and it fades as ``rho`` goes to 0. All is drawn from one seed; the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recast_model.items import ItemTable
from recast_trainer.data.schema import Dataset, Rows, SurfaceInfo

HOUR_MS = 3_600_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SyntheticSurface:
    """One surface: its share of requests, its tasks with their base rates, and how long its labels take."""

    name: str
    share: float
    base_rates: dict[str, float]
    delay_median_seconds: float


SURFACES = (
    SyntheticSurface("reels", 0.5, {"click": 0.30, "long_view": 0.15}, 60),
    SyntheticSurface("feed", 0.35, {"click": 0.22, "long_view": 0.10}, 120),
    SyntheticSurface("ads", 0.15, {"click": 0.12, "purchase": 0.05}, 600),
)
TASK_STRENGTH = {"click": 1.0, "long_view": 0.9, "purchase": 1.1}


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and nature of a stream."""

    users: int = 300
    items: int = 1500
    hours: int = 72
    requests_per_hour: int = 160
    slate: int = 8
    start_ms: int = 1_767_225_600_000  # 2026-01-01T00:00:00Z
    seed: int = 0
    rho: float = 0.85
    """Share of a user's taste that all surfaces have in common, in variance."""
    latent_dim: int = 4
    content_dim: int = 16
    signal: float = 3.0
    """Standard deviation of the taste's part of the logit."""
    hidden: float = 0.1
    """Share of an item's vector, in variance, that its content does not show."""
    drift_hours: float = 240.0
    """Time in which a taste forgets itself to 1/e."""
    born_later: float = 0.15
    """Share of items that first appear during the stream."""
    surfaces: tuple[SyntheticSurface, ...] = SURFACES

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho must be between 0 and 1, not {self.rho}")
        if min(self.users, self.hours, self.requests_per_hour, self.slate) < 1 or self.items < 2 * self.slate:
            raise ValueError("users, hours, requests-per-hour and slate must be at least 1, items twice the slate")


class SyntheticStream:
    """The world of one seed. :meth:`segments` walks through it hour by hour, once."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.dataset = Dataset(
            name="synthetic",
            surfaces=[SurfaceInfo(name=s.name, tasks=list(s.base_rates)) for s in config.surfaces],
            content_dim=config.content_dim,
        )
        random = self._random = np.random.default_rng(config.seed)
        d, surfaces, tasks = config.latent_dim, len(config.surfaces), self.dataset.tasks
        self._common = random.standard_normal((config.users, d))
        self._private = random.standard_normal((config.users, surfaces, d))
        self._activity = random.lognormal(0, 0.7, config.users)
        self._activity /= self._activity.sum()
        visible = random.standard_normal((config.items, d))
        hidden = random.standard_normal((config.items, d))
        self._vectors = np.sqrt(1 - config.hidden) * visible + np.sqrt(config.hidden) * hidden
        self._rotations = np.stack([_rotation(random, d, angle=0.5) for _ in range(surfaces)])
        self._appeal = 0.3 * random.standard_normal((config.items, len(tasks)))
        self._popularity = -0.7 * np.log1p(random.permutation(config.items))
        late = random.random(config.items) < config.born_later
        self._born = np.where(late, random.integers(0, config.hours, config.items), 0)
        mixing = random.standard_normal((d, config.content_dim)) / np.sqrt(d)
        noise = 0.1 * random.standard_normal((config.items, config.content_dim))
        ids = np.sort(random.choice(10 * config.items, config.items, replace=False)).astype(np.int64) + 1
        self.items = ItemTable(ids, (visible @ mixing + noise).astype(np.float32))
        self._offsets, self._has_task = self._base_rates(tasks)
        self._strength = np.array([TASK_STRENGTH.get(task, 1.0) for task in tasks])

    def segments(self) -> Iterator[tuple[int, Rows]]:
        """(start in ms, rows) of each hour; an hour always holds ``requests_per_hour`` requests."""
        keep = np.exp(-1 / self.config.drift_hours)
        fresh = np.sqrt(1 - keep**2)
        for hour in range(self.config.hours):
            yield self.config.start_ms + hour * HOUR_MS, self._hour(hour)
            self._common = keep * self._common + fresh * self._random.standard_normal(self._common.shape)
            self._private = keep * self._private + fresh * self._random.standard_normal(self._private.shape)

    def _base_rates(self, tasks: tuple[str, ...]) -> tuple[Floats, NDArray[np.bool_]]:
        """(S, T) offsets of the logit that give each surface its base rates, and which tasks each has."""
        config = self.config
        offsets = np.zeros((len(config.surfaces), len(tasks)))
        has = np.zeros(offsets.shape, np.bool_)
        sample = np.random.default_rng(0).standard_normal(20_000)
        for row, surface in enumerate(config.surfaces):
            for task, rate in surface.base_rates.items():
                column = tasks.index(task)
                spread = np.hypot(config.signal * TASK_STRENGTH.get(task, 1.0), 0.3)
                low, high = -20.0, 20.0
                for _ in range(40):  # bisection: the mean of a sigmoid has no closed form
                    middle = (low + high) / 2
                    low, high = (middle, high) if _sigmoid(middle + spread * sample).mean() < rate else (low, middle)
                offsets[row, column], has[row, column] = low, True
        return offsets, has

    def _hour(self, hour: int) -> Rows:
        config, random = self.config, self._random
        count, slate = config.requests_per_hour, config.slate
        users = random.choice(config.users, count, p=self._activity)
        shares = np.array([surface.share for surface in config.surfaces])
        surfaces = random.choice(len(shares), count, p=shares / shares.sum())
        start = config.start_ms + hour * HOUR_MS
        times = start + np.sort(random.integers(0, HOUR_MS, count))
        items = self._slates(hour, count)  # (requests, slate)

        taste = np.sqrt(config.rho) * self._common[users]
        taste += np.sqrt(1 - config.rho) * self._private[users, surfaces]  # (requests, d)
        turned = np.einsum("rkd,rde->rke", self._vectors[items], self._rotations[surfaces])
        affinity = np.einsum("rke,re->rk", turned, taste) / np.sqrt(config.latent_dim)
        logits = (
            self._offsets[surfaces][:, None, :]
            + config.signal * affinity[..., None] * self._strength
            + self._appeal[items]
        )
        truth = _sigmoid(logits)  # (requests, slate, T)
        has = np.broadcast_to(self._has_task[surfaces][:, None, :], truth.shape)
        labels = (random.random(truth.shape) < truth) & has
        medians = np.array([surface.delay_median_seconds for surface in config.surfaces])[surfaces]
        delay_ms = np.minimum(medians[:, None] * random.lognormal(0, 1, (count, slate)) * 1000, 6 * HOUR_MS)

        rows, tasks = count * slate, truth.shape[-1]
        request_ids = np.arange(count, dtype=np.int64) + hour * count + 1
        event_times = np.repeat(times.astype(np.int64), slate)
        return Rows(
            row_ids=np.arange(rows, dtype=np.int64) + hour * rows + 1,
            request_ids=np.repeat(request_ids, slate),
            users=np.repeat(users.astype(np.int64) + 1, slate),
            items=self.items.ids[items.reshape(-1)],
            surfaces=np.repeat(surfaces.astype(np.int64), slate),
            event_times=event_times,
            available_at=event_times + 1 + delay_ms.reshape(-1).astype(np.int64),
            positions=np.tile(np.arange(slate, dtype=np.int64), count),
            labels=labels.reshape(rows, tasks).astype(np.float32),
            label_mask=has.reshape(rows, tasks).copy(),
            oracle=np.where(has, truth, np.nan).reshape(rows, tasks).astype(np.float32),
        )

    def _slates(self, hour: int, count: int) -> Ints:
        """(count, slate) distinct items each, drawn by popularity among those born: a Gumbel top-k."""
        weight = np.where(self._born <= hour, self._popularity, -np.inf).astype(np.float32)
        keys = weight + self._random.gumbel(size=(count, self.config.items)).astype(np.float32)
        chosen: Ints = np.argpartition(-keys, self.config.slate, axis=1)[:, : self.config.slate]
        return chosen


def _rotation(random: np.random.Generator, dim: int, angle: float) -> Floats:
    """A rotation (dim, dim) by ``angle`` radians in random planes."""
    basis, _ = np.linalg.qr(random.standard_normal((dim, dim)))
    turn = np.eye(dim)
    for plane in range(dim // 2):
        i, j = 2 * plane, 2 * plane + 1
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    rotation: Floats = basis @ turn @ basis.T
    return rotation


def _sigmoid(values: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(values / 2))
