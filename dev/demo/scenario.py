"""Which files and which models: the same steps on a generated stream or on real people's ratings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dev.demo.target import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@dataclass(frozen=True)
class Expert:
    """An expert of the demo, and the rate of its traffic in requests per second."""

    name: str
    rate: float


@dataclass(frozen=True)
class Scenario:
    """One set of files for the demo. Paths are relative to ``examples/``."""

    name: str
    folder: str
    experts: tuple[Expert, ...]
    pilot: str
    stream_job: str | None
    """The Job that writes the data inside the cluster; None where the demo copies them in from outside."""
    data_arguments: tuple[str, ...] = ()
    """As in the Job, so that this machine generates the same bytes."""
    foundation: str = "home-fm"

    def file(self, name: str) -> Path:
        """An example file of this scenario."""
        return EXAMPLES / self.folder / name

    @property
    def first_files(self) -> tuple[str, ...]:
        """What a team applies on the first day."""
        return (f"{self.foundation}.yaml", *(f"{expert.name}.yaml" for expert in self.experts))


SYNTHETIC = Scenario(
    name="synthetic",
    folder=".",
    experts=(Expert("reels", 12), Expert("feed", 8), Expert("ads", 8)),
    pilot="reels",
    stream_job="01-stream.yaml",
    data_arguments=("--requests-per-hour", "400"),
)

MOVIELENS = Scenario(
    name="movielens",
    folder="movielens",
    experts=(Expert("drama", 12), Expert("comedy", 8), Expert("action", 8)),
    pilot="drama",
    stream_job=None,
)

SCENARIOS = {scenario.name: scenario for scenario in (SYNTHETIC, MOVIELENS)}
