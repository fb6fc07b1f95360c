"""Models and versions from the apiserver's JSON, each parsed once and complained about once.

Between :mod:`recast_operator.observe`, which asks for an object in every pass, and :mod:`recast_api.reading`, which
says what of it this version understands. What cannot be read is remembered as well: it is not tried again, and not
logged again, until the object changes.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from recast_api.reading import Reading, read
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.children.labels import Object

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", FoundationModel, ExpertModel, ModelVersion)


class Parser:
    """Remembers, by kind and UID, the newest state that it was asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, Reading[Any] | Invalid]] = {}
        self._said: dict[tuple[str, str], str] = {}

    def read(self, kind: type[ModelT], raw: Object) -> Reading[ModelT]:
        """The object as far as it is understood. Raises :class:`Invalid` for one that cannot be read."""
        metadata = raw["metadata"]
        identity, version = (kind.__name__, metadata["uid"]), metadata["resourceVersion"]
        known = self._known.get(identity)
        if known is None or known[0] != version:
            known = (version, _parsed(kind, raw))
            self._known[identity] = known
            self._say(identity, raw, known[1])
        if isinstance(known[1], Invalid):
            raise known[1]
        return cast("Reading[ModelT]", known[1])

    def forget(self, kind: str, uid: str) -> None:
        """Drop what was parsed of an object that is gone."""
        self._known.pop((kind, uid), None)
        self._said.pop((kind, uid), None)

    def _say(self, identity: tuple[str, str], raw: Object, outcome: Reading[Any] | Invalid) -> None:
        """Log what is not understood; not again while it is the same, as after each status write."""
        if isinstance(outcome, Invalid):
            text = str(outcome)
        else:
            metadata = raw["metadata"]
            about = f"{identity[0]} {metadata['namespace']}/{metadata['name']}"
            text = "; ".join(f"{about}: {doubt}" for doubt in outcome.doubts)
        if text and self._said.get(identity) != text:
            logger.warning("%s", text)
        self._said[identity] = text


def _parsed(kind: type[ModelT], raw: Object) -> Reading[ModelT] | Invalid:
    metadata = {key: value for key, value in raw["metadata"].items() if value is not None}
    try:
        return read(kind, {**raw, "metadata": metadata})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Invalid(
            f"{kind.__name__} {metadata['namespace']}/{metadata['name']}: {where}: {first['msg']}; correct it, or "
            "install the CustomResourceDefinitions of this operator's version"
        )
