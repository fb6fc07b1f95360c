"""Reading objects that a newer release wrote: strict for writing, tolerant for reading, closed on doubt.

What people write is validated strictly, here as by the apiserver. But an operator that was rolled back finds objects
with fields and words that it does not know, and one such field must not make an expert unreadable. So :func:`read`
takes the strict way first; what that refuses is taken out where leaving it out has a safe meaning, and said as a
:class:`Doubt`. A doubt about what decides a training run, a roll-out or a verdict *holds* it: this version neither
starts nor promotes what it does not fully understand. Whatever else is wrong raises, as ever: the object is unreadable.

A status is written by :func:`preserved`, so that what a newer operator keeps there survives an older one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from recast_api.resources import CanaryStatus, Condition, ExpertModel, FoundationModel, ModelVersion, RunStatus
from recast_api.resources.expert import Policy

ModelT = TypeVar("ModelT", FoundationModel, ExpertModel, ModelVersion)
Object = dict[str, Any]
Path = tuple[str | int, ...]
Decision = Literal["Training", "Run", "Rollout", "Acceptance"]
"""What a doubt may hold: which runs are due; the run in progress; the roll-out and the pods; verdicts not yet given."""

ROUNDS = 4
"""Rules across fields are checked only once the fields are right; each round may uncover some."""


@dataclass(frozen=True)
class Doubt:
    """Something in an object that this version does not know, and what it did about it."""

    path: str
    text: str
    holds: frozenset[Decision] = frozenset()

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Reading(Generic[ModelT]):
    """An object as far as this version understands it."""

    model: ModelT
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class _Meaning:
    """What is made of an error at ``path`` (``*`` stands for any index) or below it."""

    path: Path
    text: str
    holds: frozenset[Decision] = frozenset()
    stand_in: Any = None
    """Replaces the value; None: it is taken out."""
    known: tuple[str, ...] = ()
    """Of a list: the only entries that stay."""
    words: tuple[str, ...] = ()
    """Of a word with a stand-in: those that this version knows."""
    exact: bool = False
    """Only for the very value, not for what lies below it."""
    whole: bool = False
    """An unknown field below it makes all of it unknown."""


_HELD_RUN = frozenset[Decision]({"Run"})
_HELD_ROLLOUT = frozenset[Decision]({"Rollout"})
_MEANINGS = (
    _Meaning(
        ("spec", "refresh", "triggers"),
        "triggers that this version does not know are ignored",
        known=get_args(get_args(Policy)[0]),
    ),
    _Meaning(("spec", "rollout", "request"), "this version does not know it; the request waits", whole=True),
    _Meaning(
        ("spec", "rollout", "analysis", "*"), "this version cannot judge it, and promotes no canary", _HELD_ROLLOUT
    ),
    _Meaning(("spec", "rollout", "analysis"), "this version cannot judge it, and promotes no canary", _HELD_ROLLOUT),
    _Meaning(("spec", "rollout", "steps"), "this version cannot take these steps, and moves no traffic", _HELD_ROLLOUT),
    _Meaning(
        ("status", "canary", "state"),
        "this version does not know the state; the roll-out stands still",
        _HELD_ROLLOUT,
        stand_in="Progressing",
        words=get_args(CanaryStatus.model_fields["state"].annotation),
        exact=True,
    ),
    _Meaning(
        ("status", "run", "state"),
        "this version does not know the state; the run is left alone",
        _HELD_RUN,
        stand_in="Running",
        words=get_args(RunStatus.model_fields["state"].annotation),
        exact=True,
    ),
    _Meaning(("status", "canary", "results", "*"), "the result is left out"),
    _Meaning(("status", "failedRevisions", "*", "results", "*"), "the result is left out"),
    _Meaning(
        ("status", "conditions", "*", "status"),
        "read as Unknown",
        stand_in="Unknown",
        words=get_args(Condition.model_fields["status"].annotation),
        exact=True,
    ),
)
"""The first that fits an error is what is made of it. What none fits makes the object unreadable."""
_HOLDING: tuple[tuple[Path, frozenset[Decision]], ...] = (
    (("spec", "training"), frozenset({"Training"})),
    (("spec", "architecture"), frozenset({"Training"})),
    (("spec", "data"), frozenset({"Training"})),
    (("spec", "tasks"), frozenset({"Training", "Rollout"})),
    (("spec", "gates"), frozenset({"Training", "Run", "Acceptance"})),
    (("spec", "serving"), _HELD_ROLLOUT),
    (("spec", "rollout", "request"), frozenset()),
    (("spec", "rollout"), _HELD_ROLLOUT),
    (("status", "stable"), _HELD_ROLLOUT),
    (("status", "canary"), _HELD_ROLLOUT),
    (("status", "previous"), _HELD_ROLLOUT),
    (("status", "retiring"), _HELD_ROLLOUT),
    (("status", "run"), _HELD_RUN),
)
"""Where an unknown *field* decides about more than this version can see: identities would change without it."""
_IDENTITY = {
    "stable": "revision",
    "canary": "revision",
    "previous": "revision",
    "retiring": "revision",
    "lastRequest": "id",
    "run": "number",
    "refresh": "since",
    "current": "version",
    "candidate": "version",
    "conditions": "type",
    "failures": "inputsHash",
    "failedRevisions": "revision",
    "lineages": "lineage",
    "results": "metric",
}
"""By field: what tells whether a part of a status is still about the same thing. Others always are."""
_GONE = object()


def read(kind: type[ModelT], raw: Mapping[str, Any]) -> Reading[ModelT]:
    """An object of the apiserver, without what this version does not know. Raises pydantic's ``ValidationError``."""
    try:
        return Reading(kind.model_validate(raw))
    except ValidationError as error:
        first = error
    rest: Object = copy.deepcopy(dict(raw))
    doubts: dict[str, Doubt] = {}
    for _ in range(ROUNDS):
        try:
            return Reading(kind.model_validate(rest), tuple(doubts.values()))
        except ValidationError as error:
            found = [(str(entry["type"]), tuple(entry["loc"])) for entry in error.errors(include_url=False)]
        for error_type, path in found:
            meaning = _meaning(error_type, path)
            if meaning is None:
                raise first
            place = path[: len(meaning.path)]
            shown = "" if error_type == "extra_forbidden" else _shown(_get(rest, place))
            doubt = Doubt(_words(place), f"{shown}{meaning.text}", meaning.holds)
            doubts.setdefault(doubt.path, doubt)
            _replace(rest, place, meaning)
        rest = _swept(rest)
    raise first


def preserved(status: BaseModel, before: Mapping[str, Any] | None) -> Object:
    """The JSON of a status to write, with what stood there before and this version does not know.

    Unknown fields are kept on the same thing: on the status itself, on the same revision, run, condition. So are words
    in whose place :func:`read` has put another, unless this version has something else to say there by now.
    """
    wire: Object = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    _preserve(type(status), wire, dict(before or {}), ("status",))
    return wire


def _meaning(error_type: str, path: Path) -> _Meaning | None:
    for meaning in _MEANINGS:
        length = len(meaning.path)
        covers = _fits(meaning.path, path[:length]) and (not meaning.exact or len(path) == length)
        if covers and (error_type != "extra_forbidden" or meaning.whole):
            return meaning
    if error_type != "extra_forbidden":
        return None
    holds = next((holds for prefix, holds in _HOLDING if path[: len(prefix)] == prefix), frozenset[Decision]())
    return _Meaning(path, "this version does not know the field" + (", and does not guess" if holds else ""), holds)


def _fits(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(
        isinstance(there, int) if part == "*" else part == there for part, there in zip(pattern, path, strict=True)
    )


def _get(value: Any, path: Path) -> Any:
    """What stands at ``path``; gone where another error of the same round has taken it out."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _GONE
    return value


def _replace(rest: Any, path: Path, meaning: _Meaning) -> None:
    holder, value = _get(rest, path[:-1]), _get(rest, path)
    if value is _GONE:
        return
    if meaning.known:
        kept = value if isinstance(value, list) else []
        holder[path[-1]] = list(dict.fromkeys(entry for entry in kept if entry in meaning.known))
    else:
        holder[path[-1]] = _GONE if meaning.stand_in is None else meaning.stand_in


def _swept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _swept(entry) for key, entry in value.items() if entry is not _GONE}
    if isinstance(value, list):
        return [_swept(entry) for entry in value if entry is not _GONE]
    return value


def _preserve(kind: type[BaseModel], wire: Object, before: Object, path: Path) -> None:
    fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    wire |= {key: value for key, value in before.items() if key not in fields and value is not None}
    for key, annotation in fields.items():
        part, new, old = _part(annotation), wire.get(key), before.get(key)
        _keep_word(wire, key, old, (*path, key))
        if part is not None and isinstance(new, dict) and isinstance(old, dict) and _same(key, new, old):
            _preserve(part, new, old, (*path, key))
        elif part is not None and isinstance(new, list) and isinstance(old, list):
            for entry in new:
                twin = next((item for item in old if isinstance(item, dict) and _same(key, entry, item)), None)
                if twin is not None:
                    _preserve(part, entry, twin, (*path, key, 0))


def _keep_word(wire: Object, key: str, old: Any, path: Path) -> None:
    meaning = next((entry for entry in _MEANINGS if entry.stand_in and _fits(entry.path, path)), None)
    if meaning is not None and wire.get(key) == meaning.stand_in and isinstance(old, str) and old not in meaning.words:
        wire[key] = old


def _same(key: str, new: Object, old: Object) -> bool:
    identity = _IDENTITY.get(key)
    return identity is None or new.get(identity) == old.get(identity)


def _part(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type: itself, optional, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for entry in get_args(annotation) if (part := _part(entry)) is not None), None)


def _words(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _shown(value: Any) -> str:
    """A word that is not known; never what stands in a field that is not known, which may be anything."""
    return f"{json.dumps(value)}: " if isinstance(value, str | int) and len(str(value)) <= 64 else ""
