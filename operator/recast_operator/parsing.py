"""Models and versions from the apiserver's JSON, each state of one parsed once and complained about once.

Between :mod:`recast_operator.observe`, which asks for an object in every pass, and :mod:`recast_api.reading`, which
says what of it this version understands. What cannot be read is remembered as well: it is not tried again, and not
logged again, until the object changes. The memory is bounded, and what is known of an object goes with it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from recast_api.reading import Reading, read
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.store import Stored

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", FoundationModel, ExpertModel, ModelVersion)
ROOM = 256
"""A parsed model takes ten times the memory of its text; so many are asked for again before they change."""


class Complaints:
    """What was logged about objects that are not understood: each thing once, until it changes."""

    def __init__(self) -> None:
        self._said: dict[Hashable, str] = {}

    def hear(self, identity: Hashable, text: str) -> None:
        """Log what is wrong with an object, unless that was the last that was said of it; empty: all is well."""
        if text and self._said.get(identity) != text:
            logger.warning("%s", text)
        if text:
            self._said[identity] = text
        else:
            self.forget(identity)

    def forget(self, identity: Hashable) -> None:
        """The object is gone, or well again."""
        self._said.pop(identity, None)


class Parser:
    """Remembers, by kind and UID, the state of each object that it was last asked for; of the last ``room`` objects."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._known: OrderedDict[tuple[str, str], tuple[str, Reading[Any] | Invalid]] = OrderedDict()
        self._complaints = Complaints()

    def read(self, kind: type[ModelT], entry: Stored) -> Reading[ModelT]:
        """The object as far as it is understood. Raises :class:`Invalid` for one that cannot be read."""
        identity = (kind.__name__, entry.uid)
        known = self._known.get(identity)
        if known is None or known[0] != entry.resource_version:
            raw = entry.raw()
            try:
                found: Reading[ModelT] | Invalid = parsed_model(kind, raw)
            except Invalid as error:
                found = error
            known = self._known[identity] = (entry.resource_version, found)
            self._complaints.hear(identity, str(found) if isinstance(found, Invalid) else doubts_of(raw, found))
        self._known.move_to_end(identity)
        if len(self._known) > self._room:
            self._known.popitem(last=False)
        if isinstance(known[1], Invalid):
            raise known[1]
        return cast("Reading[ModelT]", known[1])

    def forget(self, kind: str, uid: str) -> None:
        """Drop what was parsed of an object that is gone."""
        self._known.pop((kind, uid), None)
        self._complaints.forget((kind, uid))

    def __len__(self) -> int:
        return len(self._known)


def parsed_model(kind: type[ModelT], raw: Mapping[str, Any]) -> Reading[ModelT]:
    """One model from its JSON. Raises :class:`Invalid` with the first thing that makes no sense."""
    metadata = {key: value for key, value in raw["metadata"].items() if value is not None}
    try:
        return read(kind, {**raw, "metadata": metadata})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"{kind.__name__} {metadata['namespace']}/{metadata['name']}: {where}: {first['msg']}; correct it, or "
            "install the CustomResourceDefinitions of this operator's version"
        ) from error


def doubts_of(raw: Mapping[str, Any], found: Reading[Any]) -> str:
    """What of a model is not understood, for the log; empty where all is."""
    metadata = raw["metadata"]
    about = f"{found.model.kind} {metadata['namespace']}/{metadata['name']}"
    return "; ".join(f"{about}: {doubt}" for doubt in found.doubts)
