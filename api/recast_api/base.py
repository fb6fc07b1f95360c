"""The pydantic base of every wire type, and how a rule for the apiserver is kept with the type that it is about.

A resource is described once. Pydantic checks it in Python; :mod:`recast_api.crd` turns the same classes into the
CustomResourceDefinition that the apiserver enforces. Rules across fields are CEL in the CRD and a validator here;
a test posts one corpus to both and fails where they disagree.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel


class Wire(BaseModel):
    """A frozen value with camelCase names on the wire; an unknown field is an error, never ignored.

    Types are strict (``"2"`` is no integer), and null means absent: both as the apiserver reads an object.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {key: entry for key, entry in value.items() if entry is not None}
        return value

    def wire(self) -> dict[str, Any]:
        """The JSON object as written to the apiserver: camelCase, without the fields that are absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Status(Wire):
    """A part of a status. Reading one that a newer operator wrote must not fail, so unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore")


def rules(*pairs: tuple[str, str], **extra: Any) -> dict[str, Any]:
    """The schema extras for CEL ``(rule, message)`` pairs."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs], **extra}


_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


def _quantity(value: int | str) -> int | str:
    text = str(value)
    if len(text) > 32 or not re.fullmatch(_QUANTITY, text):
        raise ValueError("a quantity is a non-negative integer or a string such as 500m, 2 or 4Gi")
    return value


Name = Annotated[str, Field(max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS-1035 label short enough that every child's name fits into 63 characters."""

Identifier = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z][a-zA-Z0-9_]*$")]
"""A task's or a surface's name as it stands in the data."""

Decimal = Annotated[str, Field(max_length=16, pattern=r"^(0|[1-9][0-9]*)(\.[0-9]+)?$")]
"""A non-negative decimal number as a string: the API conventions ban floats in a spec."""

Fraction = Annotated[str, Field(max_length=16, pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$")]
"""A decimal string from 0 to 1."""

Duration = Annotated[str, Field(max_length=12, pattern=r"^[1-9][0-9]{0,5}(s|m|h|d)$")]
"""A positive duration such as ``90s``, ``5m``, ``24h`` or ``30d``."""

Timestamp = Annotated[
    str, Field(max_length=32, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$")
]
"""An instant in UTC, RFC 3339 with a ``Z``."""

Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
Digest = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Message = Annotated[str, Field(max_length=1024)]
Short = Annotated[str, Field(max_length=64)]
"""A name or a printer column's text in a status."""
Reason = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]
RelativePath = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        pattern=r"^(\.|[A-Za-z0-9_\-][A-Za-z0-9_.\-]*(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)*)$",
    ),
]
"""A path below a root, or ``.`` for the root. No part begins with a dot, so none climbs out."""

Quantity = Annotated[
    int | str,
    AfterValidator(_quantity),
    WithJsonSchema(
        {
            "description": "A Kubernetes quantity: 2, 500m, 4Gi.",
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "maxLength": 32,
            "pattern": _QUANTITY,
        }
    ),
]
"""A Kubernetes quantity: ``2``, ``500m``, ``4Gi``."""


def timestamp(instant: datetime) -> str:
    """An aware instant as a :data:`Timestamp` of whole seconds: ``2026-11-21T12:00:00Z``."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_seconds(value: str) -> int:
    """The seconds in a :data:`Duration`."""
    return int(value[:-1]) * _UNIT_SECONDS[value[-1]]
