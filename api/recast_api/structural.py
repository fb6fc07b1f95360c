"""Turns a pydantic model into a structural schema, the dialect of OpenAPI that a CustomResourceDefinition takes.

The apiserver refuses much of what pydantic writes: references, ``anyOf`` with null, ``const``, numeric
``exclusiveMinimum``, ``additionalProperties: false``. Each has one rule here. What has no rule is an error, so that
nothing is dropped silently. :mod:`recast_api.crd` wraps the result.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python
from pydantic_core.core_schema import WithDefaultSchema

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        "type",
        "enum",
        "default",
        "description",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "pattern",
        "required",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
    }
)


class _WithFactories(GenerateJsonSchema):
    """Pydantic's generator, which also writes the defaults that come out of a factory."""

    def default_schema(self, schema: WithDefaultSchema) -> Schema:
        factory = schema.get("default_factory")
        if factory is None:
            return super().default_schema(schema)
        json_schema = self.generate_inner(schema["schema"])
        return {**json_schema, "default": self.encode_default(factory())}  # type: ignore[call-arg]

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, BaseModel):
            # In full: the apiserver judges a default by the CEL rules before it fills in the nested ones.
            return dft.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(dft, (list, tuple)):
            return [
                entry.model_dump(mode="json", by_alias=True, exclude_none=True)
                if isinstance(entry, BaseModel)
                else to_jsonable_python(entry)
                for entry in dft
            ]
        return to_jsonable_python(dft)


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural schema of ``model``.

    With ``defaults=False`` the schema sets none: a status says only what the operator wrote.
    Raises ``ValueError`` where the apiserver's dialect cannot say what pydantic says.
    """
    document = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_WithFactories)
    return _node(document, document.get("$defs", {}), model.__name__, defaults=defaults, open_refs=())


def _node(node: Schema, definitions: Schema, where: str, *, defaults: bool, open_refs: tuple[str, ...]) -> Schema:
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        if name in open_refs:
            raise ValueError(f"{where}: {name} holds itself; a CustomResourceDefinition has no recursion")
        node = {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}}
        return _node(node, definitions, where, defaults=defaults, open_refs=(*open_refs, name))
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        # ``T | None``: null means absent, and the apiserver prunes the null of a field that is not nullable.
        members = [member for member in node["anyOf"] if member != {"type": "null"}]
        if len(members) != 1 or len(node["anyOf"]) != 2:
            raise ValueError(f"{where}: a union; write optional members and a CEL rule for exactly one of them")
        outer = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _node({**members[0], **outer}, definitions, where, defaults=defaults, open_refs=open_refs)

    def inner(child: Schema, suffix: str) -> Schema:
        return _node(child, definitions, where + suffix, defaults=defaults, open_refs=open_refs)

    result: Schema = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: inner(child, f".{name}") for name, child in value.items()}
        elif key == "items":
            result[key] = inner(value, "[]")
        elif key == "additionalProperties":
            if value is not False:  # the apiserver prunes, or with strict validation refuses, what it does not know
                result[key] = inner(value, "{}")
        elif key == "const":
            result["enum"] = [value]
        elif key == "exclusiveMinimum":
            result |= {"minimum": value, "exclusiveMinimum": True}
        elif key == "exclusiveMaximum":
            result |= {"maximum": value, "exclusiveMaximum": True}
        elif key == "anyOf":
            result[key] = value
        elif key == "description":
            result[key] = _first_paragraph(value)
        elif key in _KEPT:
            if key != "default" or defaults:
                result[key] = value
        elif key not in ("title", "$defs"):
            raise ValueError(f"{where}: no rule for {key!r} in a structural schema")
    if "type" not in result and not result.get("x-kubernetes-int-or-string"):
        raise ValueError(f"{where}: no type; give the field one that the apiserver can check")
    return result


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].replace("``", "").split())
