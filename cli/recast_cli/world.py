"""The snapshot that every view is rendered from: all models and versions of one namespace, typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion

Resource = FoundationModel | ExpertModel | ModelVersion

PLURALS: dict[str, str] = {
    "FoundationModel": "foundationmodels",
    "ExpertModel": "expertmodels",
    "ModelVersion": "modelversions",
}


def parse(item: Mapping[str, Any]) -> Resource:
    """The typed resource in a JSON object of the apiserver.

    Raises ``ValueError`` for a kind that is not ours or a spec that this version of the plugin does not know.
    """
    kind = item.get("kind")
    match kind:
        case "FoundationModel":
            return FoundationModel.model_validate(item)
        case "ExpertModel":
            return ExpertModel.model_validate(item)
        case "ModelVersion":
            return ModelVersion.model_validate(item)
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
