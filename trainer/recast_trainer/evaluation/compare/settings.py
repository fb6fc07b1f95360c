"""What a person chooses of a comparison, in a YAML file; everything has a default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from recast_api.base import Decimal, Identifier, Wire
from recast_api.resources.expert import ExpertArchitecture
from recast_api.run import RecastError


class Settings(Wire):
    """How the arms of a comparison are trained and how often; the same for all of them."""

    surfaces: Annotated[list[Identifier], Field(max_length=64)] = Field(default_factory=list)
    """Surfaces to compare on; all that the foundation knows where there is none."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 5
    """Trainings of each arm."""
    first_seed: Annotated[int, Field(ge=0)] = 0
    """The first training's seed, with which the arms are tuned too; the others follow it."""
    learning_rates: Annotated[list[Decimal], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: ["0.001", "0.003", "0.01"]
    )
    """Every arm is tried with each rate and each number of epochs, and keeps the rate that suits it."""
    epochs: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: [2, 4]
    )
    """All arms of a surface are trained with the number of epochs that suits them best together."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Requests of a step."""
    architecture: ExpertArchitecture = ExpertArchitecture()
    """The expert's own network, as in an ExpertModel."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Draws of seeds and users that the intervals are made from."""

    @property
    def all_seeds(self) -> list[int]:
        """The seeds, in order."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, values in (
            ("surfaces", self.surfaces),
            ("learningRates", [float(rate) for rate in self.learning_rates]),
            ("epochs", self.epochs),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat one")
        if min(map(float, self.learning_rates)) <= 0:
            raise ValueError("learningRates must be above 0")
        return self


def read_settings(path: Path) -> Settings:
    """The settings in a file. Raises ``BadSpec``, naming the field and what to do."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecastError("BadSpec", f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise RecastError("BadSpec", f"{path} must hold fields such as seeds: 5; examples/compare.yaml has all of them")
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        remedy = {
            "string_type": 'write it in quotes, as "0.003"',
            "extra_forbidden": f"the fields are {', '.join(sorted(Settings().wire()))}",
        }
        raise RecastError(
            "BadSpec", f"{path}: {where}: {first['msg']}; {remedy.get(first['type'], 'correct it')}"
        ) from error
