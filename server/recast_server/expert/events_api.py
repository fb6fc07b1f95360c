"""``POST /v1/events``: what a user just did, into the store of histories.

Answered once the events are in the store, as durably as the store says; a call that is sent again under its key, after
a failure or none, adds nothing. 200 says the number of the append; 404 where histories come with the version and
nothing can be added, 409 for a key that was used for other events, 422 with the path of each wrong field, 503 where the
store is down or full: send it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError
from typing_extensions import TypedDict

from recast_api import names
from recast_server.expert.compression import inflated
from recast_server.expert.edge import Exchange, Reply, Route, encode_json
from recast_server.expert.schema import HistoryEvent, Id, RefusedError, Strict, refusal_of, refused
from recast_server.histories.store import (
    AHEAD_MILLISECONDS,
    EVENTS_AN_APPEND,
    KEY_LENGTH,
    Append,
    ConflictError,
    FullError,
    HistoryStore,
    ReadOnlyError,
    RefusedAppendError,
    StoreError,
)
from recast_server.runtime.events import Events

PATH = "/v1/events"
APPEND_SECONDS = 5.0
EARLIEST_MILLISECONDS = 946_684_800_000
"""The year 2000: what seems older was told in seconds, and would stay in the store."""
_KEY = f"1 to {KEY_LENGTH} printable ASCII characters, in the body or in the header Idempotency-Key"
_ALLOWED = {
    "user": "an integer from 0 to 9223372036854775807",
    "events": f"1 to {EVENTS_AN_APPEND} objects {{item, surface, time, actions, availableAt}}",
    "idempotencyKey": _KEY,
}
_log = logging.getLogger("recast.histories")
_Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_LENGTH, pattern=r"^[!-~]+$")]


class EventsRequest(Strict):
    """Events of one user that became known; ``availableAt`` is when, where that was later than ``time``."""

    user: Id
    events: Annotated[list[HistoryEvent], Field(min_length=1, max_length=EVENTS_AN_APPEND)]
    idempotency_key: Annotated[_Key | None, Field(alias="idempotencyKey")] = None


class EventsAnswer(TypedDict):
    """Events that are in the store."""

    requestId: str
    user: int
    sequence: Annotated[int, Field(description="The number of this append among the user's")]
    total: Annotated[int, Field(description="The user's events so far")]
    repeated: Annotated[bool, Field(description="Whether an earlier call had made it")]


def events_route(store: HistoryStore | None) -> Mapping[str, Route]:
    """What answers at :data:`PATH`; without a store that takes events, it says so."""

    async def append(exchange: Exchange) -> Reply:
        if store is None or not store.writable:
            raise _read_only()
        body = inflated(await exchange.body(), exchange.headers.get("content-encoding"))
        asked = parse(body, exchange.headers.get(names.HEADER_IDEMPOTENCY_KEY), _now_ms())
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                done = await store.append(asked, _now_ms())
        except TimeoutError as error:
            raise _unavailable(f"it took longer than {APPEND_SECONDS:.0f} s") from error
        except StoreError as error:
            raise _refusal(error) from error
        except Exception as error:
            _log.exception("events were not appended", extra={"fields": {"requestId": exchange.request_id}})
            raise _unavailable("it failed; the log has the cause under this request id") from error
        answer: EventsAnswer = {
            "requestId": exchange.request_id,
            "user": asked.user,
            "sequence": done.sequence,
            "total": done.total,
            "repeated": done.repeated,
        }
        return Reply(200, encode_json(answer))

    return {"POST": Route(append)}


def parse(body: bytes, header_key: str | None, now_ms: int) -> Append:
    """The append in a body. Raises :class:`RefusedError` that names each wrong field and what is allowed there."""
    try:
        asked = EventsRequest.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error, _ALLOWED, "an object with user and events") from error
    key = asked.idempotency_key
    if header_key is not None:
        if key is not None and key != header_key:
            raise _refused_field("idempotencyKey", "the body and the header Idempotency-Key differ", _KEY)
        key = _checked_key(header_key)
    if key is None:
        raise _refused_field("idempotencyKey", "is missing: without it, a call that is sent again adds twice", _KEY)
    for place, event in enumerate(asked.events):
        if event.time < EARLIEST_MILLISECONDS:
            raise _refused_field(
                f"events.{place}.time",
                "is before the year 2000",
                "milliseconds since 1970, or text; these are seconds?",
            )
        known = event.time if event.available_at is None else event.available_at
        if known < event.time:
            raise _refused_field(f"events.{place}.availableAt", "is before the event's time", "at or after time")
        if known > now_ms + AHEAD_MILLISECONDS:
            field = "time" if event.available_at is None else "availableAt"
            raise _refused_field(
                f"events.{place}.{field}", "is in the future", "not later than now, give or take 5 minutes"
            )
    events = asked.events
    try:
        columns = Events.named(
            [event.item for event in events],
            [event.surface for event in events],
            [event.actions for event in events],
            [event.time for event in events],
            [event.available_at for event in events],
        )
    except ValueError as error:
        raise _refused_field("events", str(error), _ALLOWED["events"]) from error
    return Append(asked.user, columns, key)


def _checked_key(key: str) -> str:
    if not 1 <= len(key) <= KEY_LENGTH or not all("!" <= letter <= "~" for letter in key):
        raise _refused_field("Idempotency-Key", "this header cannot be a key", _KEY)
    return key


def _refused_field(field: str, problem: str, allowed: str) -> RefusedError:
    return refused([{"field": field, "problem": problem, "allowed": allowed}])


def _refusal(error: StoreError) -> RefusedError:
    match error:
        case ConflictError():
            return RefusedError(409, "IdempotencyKeyReused", f"{error}: give each append a key of its own")
        case RefusedAppendError():
            return _refused_field("events", str(error), _ALLOWED["events"])
        case ReadOnlyError():
            return _read_only()
        case FullError():
            _log.error("the store of histories is full", extra={"fields": {"problem": str(error)}})
            return _unavailable("it has no room left")
    _log.error("events were not appended", extra={"fields": {"reason": error.reason, "problem": str(error)}})
    return _unavailable("it cannot be reached, or failed")


def _unavailable(why: str) -> RefusedError:
    message = f"the store of histories did not take the events: {why}. Send them again under the same key"
    return RefusedError(503, "HistoryStoreUnavailable", message, headers={"retry-after": "1"})


def _read_only() -> RefusedError:
    return RefusedError(
        404,
        "NoHistoryStore",
        "histories come with this expert's version, and nothing can be added: spec.serving.histories.store chooses a"
        " store that takes events",
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
