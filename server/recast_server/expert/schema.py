"""``POST /v1/rank``: what may come in, checked before anything is computed, and how a refusal reads.

400 is for bodies that are no JSON, 413 for too many bytes, 422 for JSON that says something else than the contract.
Identifiers that no model has seen are not errors: an unknown user has an empty history, an unknown item is scored by
the unknown row and listed in ``unknownItems``; unknown surfaces and actions in an inline history are left out of it; a
value of context that the version does not list is unknown, and its feature is listed in ``unknownContext``. A feature
that it does not know is an error: it would be passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from recast_model.context import LARGEST, MAX_FEATURES, VALUE_LENGTH, Features
from recast_server.runtime.events import Events

BODY_BYTES = 512 * 1024
CANDIDATES = 2048
HISTORY_EVENTS = 1024
_INT64 = 2**63 - 1
_LAST_MILLISECOND = 253_402_300_799_999  # 9999-12-31
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TIME = "an RFC 3339 instant such as 2026-05-01T12:00:00Z, or milliseconds since 1970"


def _milliseconds(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= _LAST_MILLISECOND:
            return value
    elif isinstance(value, str) and len(value) <= 40 and _RFC3339.fullmatch(value):
        try:
            instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
            if (milliseconds := int(instant.timestamp() * 1000)) >= 0:
                return milliseconds
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"must be {_TIME}")


def _context_value(value: object) -> str | float | None:
    if value is None or (isinstance(value, str) and len(value) <= VALUE_LENGTH):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    raise ValueError(f"must be a text of at most {VALUE_LENGTH} characters, a finite number, or null where unknown")


class Strict(BaseModel):
    """A body: types as they are, and no field that is not named."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


Id = Annotated[int, Field(ge=0, le=_INT64)]
Milliseconds = Annotated[
    int,
    BeforeValidator(_milliseconds),
    WithJsonSchema(
        {
            "description": _TIME[0].upper() + _TIME[1:],
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _LAST_MILLISECOND},
                {"type": "string", "format": "date-time", "maxLength": 40},
            ],
        }
    ),
]
_NameText = Annotated[str, Field(min_length=1, max_length=40)]
ContextValue = Annotated[
    str | float | None,
    BeforeValidator(_context_value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": VALUE_LENGTH},
                {"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
                {"type": "null"},
            ]
        }
    ),
]


class HistoryEvent(Strict):
    """One past action of the user. ``availableAt``, when it became known, is for replays of the past: what a client
    sends of a user's present is known to it, and a request sees what was known strictly before its own time. An action
    that became known after others on the same item, as a purchase does after its click, is an event of its own.
    """

    item: Id
    surface: _NameText
    time: Milliseconds
    actions: Annotated[list[_NameText], Field(max_length=16)] = []
    available_at: Annotated[Milliseconds | None, Field(alias="availableAt")] = None


class RankRequest(Strict):
    """Which candidates to rank for whom. ``time`` defaults to now; ``history`` stands in for the stored one.

    ``context`` has features of the request by name; null is unknown, as what it does not name.
    """

    user: Id
    candidates: Annotated[list[Id], Field(min_length=1, max_length=CANDIDATES)]
    time: Milliseconds | None = None
    limit: Annotated[int, Field(ge=1, le=CANDIDATES)] | None = None
    history: Annotated[list[HistoryEvent], Field(max_length=HISTORY_EVENTS)] | None = None
    context: Annotated[dict[_NameText, ContextValue], Field(max_length=MAX_FEATURES)] = {}


class RefusedError(Exception):
    """A request that is not served, with the status and the words its sender gets."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        fields: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.fields = fields or []
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body."""
        error: dict[str, Any] = {"reason": self.reason, "message": self.message, "requestId": request_id}
        if self.fields:
            error["fields"] = self.fields
        return {"error": error}


_ALLOWED = {
    "user": "an integer from 0 to 9223372036854775807",
    "candidates": f"1 to {CANDIDATES} item ids, each an integer from 0 to 9223372036854775807",
    "time": _TIME,
    "limit": f"an integer from 1 to {CANDIDATES}, or absent for all candidates",
    "history": f"at most {HISTORY_EVENTS} objects {{item, surface, time, actions, availableAt}}, or absent for the "
    "stored history",
    "context": f"at most {MAX_FEATURES} features by name, each a text or a number, null where unknown",
}


def parse(body: bytes) -> RankRequest:
    """The request in a body. Raises :class:`RefusedError` that names each wrong field and what is allowed there."""
    try:
        return RankRequest.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error, _ALLOWED, "an object with user and candidates") from None


def checked(values: object) -> RankRequest:
    """The request that these fields by name are. Raises :class:`RefusedError` as :func:`parse` does."""
    try:
        return RankRequest.model_validate(values)
    except ValidationError as error:
        raise refusal_of(error, _ALLOWED, "an object with user and candidates") from None


def refusal_of(error: ValidationError, allowed: Mapping[str, str], whole: str) -> RefusedError:
    """The refusal of a body that is no JSON, or not of its contract.

    ``allowed`` says of each field of the body what may be in it, ``whole`` of the body itself.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return RefusedError(400, "InvalidJson", f"the body is not JSON that can be read: {details[0]['msg']}")
    fields = []
    for detail in details[:8]:
        path = ".".join(str(part) for part in detail["loc"])[:80]
        entry = {"field": path or "(body)", "problem": detail["msg"]}
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if name in allowed:
            entry["allowed"] = allowed[name]
        elif name:
            entry["allowed"] = f"only {', '.join(allowed)}"
        else:
            entry["allowed"] = whole
        fields.append(entry)
    return refused(fields)


def require_known_context(request: RankRequest, features: Features) -> None:
    """Raise :class:`RefusedError` unless a version of these features knows those of the request, by name and kind."""
    known = {feature.name: "a text" if feature.categorical else "a number" for feature in features}
    fields = []
    for name, value in request.context.items():
        field = f"context.{name}"
        if name not in known:
            allowed = f"only {', '.join(known)}" if known else "nothing: this version knows no context"
            fields.append({"field": field, "problem": "this version knows no such feature", "allowed": allowed})
        elif value is not None and isinstance(value, str) != (known[name] == "a text"):
            fields.append({"field": field, "problem": f"must be {known[name]}", "allowed": f"{known[name]} or null"})
    if fields:
        raise refused(fields[:8])


def inline_history(request: RankRequest) -> Events | None:
    """The history that the request brings. Raises :class:`RefusedError` where its names are too many."""
    if (events := request.history) is None:
        return None
    try:
        return Events.named(
            [event.item for event in events],
            [event.surface for event in events],
            [event.actions for event in events],
            [event.time for event in events],
            [event.available_at for event in events],
        )
    except ValueError as error:
        raise refused([{"field": "history", "problem": str(error), "allowed": _ALLOWED["history"]}]) from error


def refused(fields: list[dict[str, str]]) -> RefusedError:
    """The refusal over fields of a body: each has ``field``, ``problem`` and ``allowed``."""
    message = "; ".join(f"{entry['field']}: {entry['problem']} (allowed: {entry['allowed']})" for entry in fields[:3])
    return RefusedError(422, "InvalidRequest", message, fields)
