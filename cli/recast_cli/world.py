"""The snapshot that every view is rendered from: all models and versions of one namespace, typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from recast_api.crd import PRESENTATION
from recast_api.reading import read
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion

Resource = FoundationModel | ExpertModel | ModelVersion

PLURALS: dict[str, str] = {
    kind.__name__: PRESENTATION[kind.__name__].plural for kind in (FoundationModel, ExpertModel, ModelVersion)
}


def parse(item: Mapping[str, Any]) -> Resource:
    """The typed resource in a JSON object of the apiserver, as far as this version of the plugin understands it.

    Raises ``ValueError`` for a kind that is not ours or an object that cannot be read.
    """
    kind = item.get("kind")
    try:
        match kind:
            case "FoundationModel":
                return read(FoundationModel, item).model
            case "ExpertModel":
                return read(ExpertModel, item).model
            case "ModelVersion":
                return read(ModelVersion, item).model
    except ValidationError as error:
        first = error.errors()[0]
        name, where = item.get("metadata", {}).get("name"), ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{kind} {name} is left out: {where}: {first['msg']}; update the plugin") from error
    raise ValueError(f"kind {kind!r} is not one of {', '.join(PLURALS)}")


@dataclass(frozen=True)
class World:
    """Everything of Recast in a namespace, each list in order of name (versions: of model, then number)."""

    foundations: tuple[FoundationModel, ...] = ()
    experts: tuple[ExpertModel, ...] = ()
    versions: tuple[ModelVersion, ...] = ()

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> World:
        """The world made of these resources, in any order."""
        everything = list(resources)
        return cls(
            foundations=tuple(sorted((r for r in everything if isinstance(r, FoundationModel)), key=_name)),
            experts=tuple(sorted((r for r in everything if isinstance(r, ExpertModel)), key=_name)),
            versions=tuple(
                sorted(
                    (r for r in everything if isinstance(r, ModelVersion)),
                    key=lambda v: (v.spec.model.kind, v.spec.model.name, v.spec.number),
                )
            ),
        )

    def expert(self, name: str) -> ExpertModel | None:
        """The expert of that name."""
        return next((expert for expert in self.experts if expert.metadata.name == name), None)

    def foundation(self, name: str) -> FoundationModel | None:
        """The foundation of that name."""
        return next((model for model in self.foundations if model.metadata.name == name), None)

    def versions_of(self, kind: str, name: str) -> tuple[ModelVersion, ...]:
        """The versions of one model, oldest first."""
        return tuple(v for v in self.versions if v.spec.model.kind == kind and v.spec.model.name == name)


def _name(resource: Resource) -> str:
    return resource.metadata.name
