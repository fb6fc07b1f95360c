"""The snapshot that every view is rendered from: all models and versions of one namespace, typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from recast_api.names import PLURALS
from recast_api.reading import read as read_tolerantly
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion

Resource = FoundationModel | ExpertModel | ModelVersion


def parse(item: Mapping[str, Any]) -> Resource:
    """The typed resource in a JSON object of the apiserver, as far as this version of the plugin understands it.

    Control characters in its texts become ``?``.

    Raises ``ValueError`` for a kind that is not ours or an object that cannot be read.
    """
    kind = item.get("kind")
    printable = _printable(item)
    match kind:
        case "FoundationModel":
            return read_tolerantly(FoundationModel, printable).model
        case "ExpertModel":
            return read_tolerantly(ExpertModel, printable).model
        case "ModelVersion":
            return read_tolerantly(ModelVersion, printable).model
    raise ValueError(f"kind {kind!r} is not one of {', '.join(PLURALS)}")


@dataclass(frozen=True)
class Unreadable:
    """An object whose spec this version of the plugin does not know, such as one that a newer release wrote."""

    kind: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} cannot be read by this version of kubectl recast: {self.why}"


def read(item: Mapping[str, Any]) -> Resource | Unreadable:
    """As :func:`parse`; what cannot be parsed is named, since one such object must not hide all others."""
    try:
        return parse(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Unreadable(str(item.get("kind")), str(item["metadata"]["name"]), f"{where}: {first['msg']}")


_CONTROL = dict.fromkeys([*range(32), *range(127, 160)], "?") | {9: " ", 10: " ", 13: " "}


def _printable(value: Any) -> Any:
    """A message may come from anybody's container: none may move the cursor of the terminal that shows it."""
    if isinstance(value, str):
        return value.translate(_CONTROL)
    if isinstance(value, Mapping):
        return {key: _printable(entry) for key, entry in value.items()}
    return [_printable(entry) for entry in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class World:
    """Everything of Recast in a namespace, each list in order of name (versions: of model, then number)."""

    foundations: tuple[FoundationModel, ...] = ()
    experts: tuple[ExpertModel, ...] = ()
    versions: tuple[ModelVersion, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @classmethod
    def of(cls, resources: Iterable[Resource | Unreadable]) -> World:
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
            unreadable=tuple(sorted((r for r in everything if isinstance(r, Unreadable)), key=str)),
        )

    def expert(self, name: str) -> ExpertModel | None:
        """The expert of that name."""
        return next((expert for expert in self.experts if expert.metadata.name == name), None)

    def foundation(self, name: str) -> FoundationModel | None:
        """The foundation of that name."""
        return next((model for model in self.foundations if model.metadata.name == name), None)

    def cannot_read(self, kind: str, name: str) -> Unreadable | None:
        """The object of that kind and name, if there is one that cannot be read."""
        return next((item for item in self.unreadable if (item.kind, item.name) == (kind, name)), None)

    def versions_of(self, kind: str, name: str) -> tuple[ModelVersion, ...]:
        """The versions of one model, oldest first."""
        return tuple(v for v in self.versions if v.spec.model.kind == kind and v.spec.model.name == name)


def _name(resource: Resource) -> str:
    return resource.metadata.name
