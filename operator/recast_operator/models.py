"""Models parsed from their JSON, each state of one once: the pass that follows a change finds what the change needed.

The memory is bounded, and what is parsed of an object goes with the object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.store import Address, Stored

Model = FoundationModel | ExpertModel | ModelVersion
ModelT = TypeVar("ModelT", FoundationModel, ExpertModel, ModelVersion)
KEPT = 256
"""Parsed models are ten times the size of their text; so many are read again before they change."""


class Models:
    """Parses models; remembers those that were read last."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._parsed: OrderedDict[Address, tuple[str, str, Model]] = OrderedDict()

    def parse(self, model: type[ModelT], entry: Stored) -> ModelT:
        """The model. Raises :class:`Invalid` where this operator cannot read it."""
        known = self._parsed.get(entry.address)
        if known is not None and known[:2] == (entry.uid, entry.resource_version) and isinstance(known[2], model):
            self._parsed.move_to_end(entry.address)
            return known[2]
        parsed = parsed_model(model, entry.raw())
        self._parsed[entry.address] = (entry.uid, entry.resource_version, parsed)
        self._parsed.move_to_end(entry.address)
        if len(self._parsed) > self._kept:
            self._parsed.popitem(last=False)
        return parsed

    def forget(self, address: Address) -> None:
        """The object is gone."""
        self._parsed.pop(address, None)

    def __len__(self) -> int:
        return len(self._parsed)


def parsed_model(model: type[ModelT], raw: Mapping[str, Any]) -> ModelT:
    """One model from its JSON. Raises :class:`Invalid` with the first thing that is wrong."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first, metadata = error.errors()[0], raw["metadata"]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"{model.__name__} {metadata['namespace']}/{metadata['name']}: {where}: {first['msg']}; correct it, or "
            "install the CustomResourceDefinitions of this operator's version"
        ) from error
