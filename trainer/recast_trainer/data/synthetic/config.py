"""Size and nature of a generated stream."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SyntheticTask:
    """What users may do: how much taste decides it, and when its label is known."""

    strength: float
    """Weight of taste and interests in the logit."""
    delay_seconds: float
    """Median of the log-normal part of the delay."""
    window_seconds: float = 0.0
    """How long a no may still become a yes: yes and no alike are known only when this is over."""


@dataclass(frozen=True)
class SyntheticSurface:
    """One surface: its share of requests, and its tasks with their base rates."""

    name: str
    share: float
    base_rates: dict[str, float]


TASKS = {
    "click": SyntheticTask(strength=1.0, delay_seconds=5),
    "long_view": SyntheticTask(strength=0.9, delay_seconds=60),
    "purchase": SyntheticTask(strength=1.1, delay_seconds=60, window_seconds=1800),
}
SURFACES = (
    SyntheticSurface("reels", 0.5, {"click": 0.30, "long_view": 0.15}),
    SyntheticSurface("feed", 0.35, {"click": 0.22, "long_view": 0.10}),
    SyntheticSurface("ads", 0.15, {"click": 0.12, "purchase": 0.05}),
)


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and nature of a stream; the formulas are in :mod:`recast_trainer.data.synthetic`."""

    users: int = 300
    items: int = 1500
    hours: int = 72
    requests_per_hour: int = 160
    slate: int = 8
    start_ms: int = 1_767_225_600_000  # 2026-01-01T00:00:00Z
    seed: int = 0
    rho: float = 0.85
    """Share that all surfaces have in common: of a taste's variance, and of the interests."""
    latent_dim: int = 4
    content_dim: int = 32
    signal: float = 3.0
    """Standard deviation of the taste's part of the logit."""
    hidden: float = 0.1
    """Share of an item's vector, in variance, that its content does not show."""
    drift_hours: float = 240.0
    """Hours in which a taste turns by a right angle."""
    categories: int = 24
    interests: int = 4
    """Recurring interests of a user on a surface."""
    interest: float = 1.5
    """What an awake interest adds to the logit."""
    cycle_hours: float = 24.0
    """Typical hours from one awakening of an interest to the next."""
    targeted: float = 0.5
    """Share of slots that show the user's interests."""
    popularity: float = 0.7
    """Exponent of the power law by which items are shown, by rank in their category; below 1."""
    position_bias: float = 0.3
    born_later: float = 0.15
    """Share of items that first appear during the stream."""
    dying: float = 0.15
    """Share of items, others than those, that disappear during it."""
    arriving: float = 0.2
    """Share of users whose first visit is during the stream."""
    leaving: float = 0.1
    """Share of users, others than those, whose last one is."""
    surfaces: tuple[SyntheticSurface, ...] = SURFACES
    tasks: dict[str, SyntheticTask] = field(default_factory=lambda: dict(TASKS))

    def __post_init__(self) -> None:
        for name in ("rho", "hidden", "targeted", "born_later", "dying", "arriving", "leaving"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.popularity < 1:
            raise ValueError(f"popularity must be at least 0 and below 1, not {self.popularity}")
        if self.content_dim < 0:
            raise ValueError("content-dim must be at least 0, which is no content")
        sizes = (self.users, self.hours, self.requests_per_hour, self.slate, self.latent_dim)
        if min(sizes) < 1 or min(self.categories, self.interests) < 1:
            raise ValueError("all sizes must be at least 1")
        if min(self.drift_hours, self.cycle_hours) <= 0:
            raise ValueError("drift-hours and cycle-hours must be above 0")
        if self.items < self.categories:
            raise ValueError(f"items must be at least the {self.categories} categories, not {self.items}")
        if (1 - self.born_later - self.dying) * self.items < 2 * self.slate:
            raise ValueError("items that are there all the time must be at least twice the slate")
        if (1 - self.arriving - self.leaving) * self.users < 1:
            raise ValueError("users who are there all the time must be at least 1")
        unknown = [task for surface in self.surfaces for task in surface.base_rates if task not in self.tasks]
        if unknown:
            raise ValueError(f"tasks must be described in tasks: {', '.join(unknown)}")
