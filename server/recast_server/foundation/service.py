"""The gRPC side of the foundation's server: checks a call, queues it for the model thread, packs the answer.

Overload is said at once: a call that cannot be answered before its deadline is RESOURCE_EXHAUSTED, and one whose
deadline came too near in the queue is dropped before it is computed. The expert falls back; it does not retry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from recast_model.context import MAX_FEATURES
from recast_server.foundation.stream import answer_questions
from recast_server.proto import columns
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.columns import ID_BYTES
from recast_server.runtime import scheduler
from recast_server.runtime.context import deadline_of_call
from recast_server.runtime.inputs import Query, Unread
from recast_server.runtime.metrics import FoundationRequests
from recast_server.runtime.scheduler import ExpiredError, OverloadedError, Scheduler

CANDIDATES = 2048
HISTORY_EVENTS = 1024
"""What a call may bring, or more where the version reads more."""
EVENTS_BEFORE = 2**40
LONGEST_SECONDS = 10.0
"""The deadline of a call that brings none."""
_SCHEMES = {np.dtype(np.float32): wire.FLOAT32, np.dtype(np.float16): wire.FLOAT16}
_log = logging.getLogger("recast.foundation")


@dataclass(frozen=True)
class FoundationMetadata:
    """What is served, for the handshake."""

    model: str
    version: int
    lineage: int
    digest: str
    dim: int
    dtype: np.dtype[np.floating]
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]
    cursor_ms: int = 0
    """Labels up to this instant of availability time were learned."""
    history_events: int = HISTORY_EVENTS
    """The most that it takes with a call."""

    @property
    def wire_version(self) -> wire.Version:
        """The version as it stands in every answer."""
        return wire.Version(model=self.model, number=self.version, lineage=self.lineage, digest=self.digest)


class InvalidError(Exception):
    """A call that cannot be computed, with the words that its sender gets."""


class Engine(scheduler.Engine[Query, NDArray[np.floating]], Protocol):
    """A loaded foundation; it answers each query with embeddings (M, D), contiguous, of ``metadata.dtype``."""

    @property
    def metadata(self) -> FoundationMetadata:
        """What it is."""
        ...


class FoundationService:
    """Implements the servicer of ``foundation.proto``."""

    def __init__(self, engine: Engine, scheduler: Scheduler, calls: FoundationRequests) -> None:
        self._engine, self._scheduler, self._calls = engine, scheduler, calls
        self._metadata = engine.metadata

    async def Describe(  # noqa: N802
        self, request: wire.DescribeRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> wire.Description:
        """Which version is served here."""
        metadata = self._metadata
        return wire.Description(
            version=metadata.wire_version,
            dim=metadata.dim,
            scheme=_SCHEMES[metadata.dtype],
            surfaces=metadata.surfaces,
            tasks=metadata.tasks,
            history_events=metadata.history_events,
        )

    async def Tae(  # noqa: N802
        self, request: wire.TaeRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> wire.TaeReply:
        """The embeddings of one user's candidates."""
        deadline = deadline_of_call(context.time_remaining(), LONGEST_SECONDS)
        code, message, reply = await self._tae(request, deadline)
        if reply is None:
            await context.abort(code, message)
        return reply

    async def TaeStream(  # noqa: N802
        self, requests: object, context: grpc.aio.ServicerContext[wire.TaeQuestions, wire.TaeAnswers]
    ) -> None:
        """The same for many requests at once."""
        await answer_questions(context, self._answer)

    async def _answer(self, question: wire.TaeQuestion) -> wire.TaeAnswer:
        deadline = deadline_of_call(question.timeout_microseconds / 1e6 or None, LONGEST_SECONDS)
        code, message, reply = await self._tae(question.request, deadline)
        number: int = code.value[0]
        return wire.TaeAnswer(id=question.id, code=number, message=message, reply=reply)

    async def _tae(
        self, request: wire.TaeRequest, deadline: float
    ) -> tuple[grpc.StatusCode, str, wire.TaeReply | None]:
        """How the call ends, with a reply where that is OK."""
        begin = time.monotonic()
        self._calls.begin()
        code, message, reply = grpc.StatusCode.UNKNOWN, "", None
        try:
            if problem := self._problem(request):
                code, message = grpc.StatusCode.INVALID_ARGUMENT, problem
            else:
                reply = await self._compute(request, deadline)
                code = grpc.StatusCode.OK
        except InvalidError as error:
            code, message = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except OverloadedError as error:
            code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except ExpiredError as error:
            code, message = grpc.StatusCode.DEADLINE_EXCEEDED, str(error)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            code, message = grpc.StatusCode.INTERNAL, "the foundation failed on the request; its log has the cause"
            _log.exception("TAE call failed", extra={"fields": {"candidates": _candidate_count(request)}})
        finally:
            self._calls.observe(code.name, time.monotonic() - begin)
        return code, message, reply

    def _problem(self, request: wire.TaeRequest) -> str:
        if request.surface not in self._metadata.surfaces:
            return f"surface: this foundation was trained on {', '.join(self._metadata.surfaces)}"
        candidates, events = _candidate_count(request), _event_count(request)
        if not 1 <= candidates <= CANDIDATES:
            return f"candidates: 1 to {CANDIDATES} are allowed, not {candidates}"
        if events is not None and events > (most := self._metadata.history_events):
            return f"history: at most {most} events are allowed, not {events}"
        if len(request.context) > MAX_FEATURES:
            return f"context: at most {MAX_FEATURES} features are allowed, not {len(request.context)}"
        numbers = (request.user, request.time_milliseconds, request.sequence, request.events_before)
        if min(numbers) < 0:
            return "user, time, events_before and sequence must not be negative"
        if request.events_before > EVENTS_BEFORE:
            return f"events_before: at most {EVENTS_BEFORE} are believed, not {request.events_before}"
        return ""

    async def _compute(self, request: wire.TaeRequest, deadline: float) -> wire.TaeReply:
        query = _unread(request)
        with self._scheduler.admit(self._engine, query, deadline) as ticket:
            rows = await ticket.run(_read(request, query))  # only now: what is refused costs nothing
        return wire.TaeReply(
            version=self._metadata.wire_version,
            data=rows.tobytes(),
            rows=rows.shape[0],
            dim=rows.shape[1],
            scheme=_SCHEMES[rows.dtype],
            cursor_milliseconds=self._metadata.cursor_ms,
        )


def _candidate_count(request: wire.TaeRequest) -> int:
    return len(request.candidate_ids) // ID_BYTES or len(request.candidates)


def _event_count(request: wire.TaeRequest) -> int | None:
    """None where the user's stored history is meant."""
    if request.HasField("events"):
        return len(request.events.item) // ID_BYTES
    return len(request.history.events) if request.HasField("history") else None


def _unread(request: wire.TaeRequest) -> Query:
    """What says how much work the request is."""
    events = _event_count(request)
    return Query(
        request.user,
        request.surface,
        request.time_milliseconds,
        range(_candidate_count(request)),
        None if events is None else Unread(events),
        _context(request.context),
        request.sequence if request.HasField("sequence") else None,
        request.events_before,
    )


def _read(request: wire.TaeRequest, query: Query) -> Query:
    """The query with its columns. Raises :class:`InvalidError`, which names the field."""
    try:
        ids = request.candidate_ids
        candidates = columns.unpack_ids(ids) if ids else np.array(request.candidates, np.int64)
        if candidates.min() < 0:
            raise ValueError("must not be negative")
    except ValueError as error:
        raise InvalidError(f"candidates: {error}") from error
    try:
        history = None
        if request.HasField("events"):
            history = columns.unpack(request.events)
        elif request.HasField("history"):
            history = columns.unpack_messages(request.history)
    except ValueError as error:
        raise InvalidError(f"history: {error}") from error
    return replace(query, candidates=candidates, history=history)


def _context(features: Iterable[wire.ContextFeature]) -> dict[str, str | float]:
    given = ((feature.name, feature.WhichOneof("value"), feature) for feature in features)
    return {name: getattr(feature, kind) for name, kind, feature in given if kind}
