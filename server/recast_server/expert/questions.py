"""Questions to one replica of the foundation, over streams that many requests share.

What is asked while a message is on its way leaves with the next one, as do answers on the other side: so a request's
share of what a message costs falls as there are more of them, and one that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar, cast

import grpc
import grpc.aio

from recast_api import names
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.foundation_pb2_grpc import FoundationStub
from recast_server.runtime.context import RequestContext

TOGETHER = 16
"""Questions of one message, at most."""
MESSAGE_BYTES = 2 * 1024 * 1024
"""Of one message, but for the question that passes it: neighbours must not fail by what a server does not take."""
ENDING_SECONDS = 10.0
"""How long a server may take to end a stream of which all is answered."""
ONE_BY_ONE_SECONDS = 60.0
"""How long a server of before there were streams is taken for one: a newer may come to its address."""
STREAM_SECONDS = 2.0
"""How long a stream takes questions. A connection that was told to go away is left with its streams, so long before
the server that said so ends them."""
_CODES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
T = TypeVar("T")


class TaeUnavailableError(Exception):
    """No embeddings for this request. ``code`` is the gRPC status, or ``PAIR_MISMATCH``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Questions:
    """Asks one replica."""

    def __init__(self, stub: FoundationStub) -> None:
        self._stub = stub
        self._stream: _Stream | None = None
        self._one_by_one_until = 0.0

    async def ask(self, request: wire.TaeRequest, context: RequestContext, timeout: float) -> wire.TaeReply:
        """The reply. Raises :class:`TaeUnavailableError`, at the latest after so many seconds.

        Cancelling it lets the replica know that nobody waits.
        """
        end = time.monotonic() + timeout
        if time.monotonic() >= self._one_by_one_until:
            stream = self._current()
            try:
                return await stream.ask(request, context, timeout)
            except TaeUnavailableError:
                if not stream.unknown:
                    raise
                self._one_by_one_until = time.monotonic() + ONE_BY_ONE_SECONDS
        call = self._stub.Tae(request, timeout=max(0.0, end - time.monotonic()), metadata=_metadata(context))
        return await answer_of(call)

    def _current(self) -> _Stream:
        stream = self._stream
        if stream is None or stream.finished:
            self._stream = stream = _Stream(self._stub.TaeStream())
        return stream


class _Stream:
    def __init__(self, call: grpc.aio.StreamStreamCall[wire.TaeQuestions, wire.TaeAnswers]) -> None:
        self.finished = False
        """Whether nothing more may be asked."""
        self.unknown = False
        """Whether the other side knows no streams, as a server of before there were any."""
        self._call = call
        self._ended = False  # by the other side
        self._number = 0
        self._waiting: dict[int, asyncio.Future[wire.TaeAnswer]] = {}
        self._unsent: list[wire.TaeQuestion] = []
        self._abandoned: list[int] = []
        self._changed = asyncio.Event()
        asyncio.get_running_loop().call_later(STREAM_SECONDS, self._finish)
        self._tasks = asyncio.create_task(self._write()), asyncio.create_task(self._read())

    async def ask(self, request: wire.TaeRequest, context: RequestContext, timeout: float) -> wire.TaeReply:
        """See :meth:`Questions.ask`."""
        self._number = number = self._number + 1
        self._waiting[number] = waiting = asyncio.get_running_loop().create_future()
        question = wire.TaeQuestion(
            id=number,
            timeout_microseconds=max(1, int(timeout * 1e6)),
            request_id=context.request_id,
            traceparent=context.traceparent or "",
            request=request,
        )
        self._unsent.append(question)
        self._changed.set()
        try:
            async with asyncio.timeout(timeout):
                answer = await waiting
        except TimeoutError:
            self._abandon(number)
            raise TaeUnavailableError("DEADLINE_EXCEEDED", "the foundation did not answer in time") from None
        except asyncio.CancelledError:
            self._abandon(number)
            raise
        finally:
            del self._waiting[number]
            if self.finished:
                self._changed.set()
        if answer.code:
            raise TaeUnavailableError(_CODES.get(answer.code, "UNKNOWN"), answer.message)
        return answer.reply

    def _finish(self) -> None:
        self.finished = True  # what was asked is still answered
        self._changed.set()

    def _abandon(self, number: int) -> None:
        unsent = [question for question in self._unsent if question.id != number]
        if len(unsent) == len(self._unsent):
            self._abandoned.append(number)
            self._changed.set()
        self._unsent = unsent

    async def _write(self) -> None:
        try:
            while not self._ended:
                await self._changed.wait()
                self._changed.clear()
                while self._unsent or self._abandoned:
                    together = self._together()
                    abandoned, self._abandoned = self._abandoned, []
                    await self._call.write(wire.TaeQuestions(questions=together, abandoned=abandoned))
                if self.finished and not self._waiting:
                    await self._call.done_writing()
                    asyncio.get_running_loop().call_later(ENDING_SECONDS, self._call.cancel)
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader hears why

    def _together(self) -> list[wire.TaeQuestion]:
        """The questions of the next message."""
        size = count = 0
        for question in self._unsent[:TOGETHER]:
            if size >= MESSAGE_BYTES:
                break
            size, count = size + question.ByteSize(), count + 1
        together, self._unsent[:count] = self._unsent[:count], []
        return together

    async def _read(self) -> None:
        error = TaeUnavailableError("UNAVAILABLE", "the foundation ended the stream")
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                if message is None:  # how gRPC says that it cannot parse the bytes
                    error = TaeUnavailableError("INTERNAL", "the answer is no message of this protocol")
                    break
                for answer in cast("wire.TaeAnswers", message).answers:
                    waiting = self._waiting.get(answer.id)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
        except grpc.aio.AioRpcError as failed:
            error = TaeUnavailableError(failed.code().name, failed.details() or "")
            self.unknown = failed.code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            self.finished = self._ended = True
            self._call.cancel()
            self._changed.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(TaeUnavailableError(error.code, str(error)))


async def answer_of(call: Awaitable[T | None]) -> T:
    """What a call gives. Raises :class:`TaeUnavailableError`."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        raise TaeUnavailableError(error.code().name, error.details() or "") from error
    if answer is None:  # how gRPC says that it cannot parse the bytes
        raise TaeUnavailableError("INTERNAL", "the answer is no message of this protocol")
    return answer


def _metadata(context: RequestContext) -> list[tuple[str, str]]:
    found = [(names.HEADER_REQUEST_ID, context.request_id)]
    if context.traceparent is not None:
        found.append(("traceparent", context.traceparent))
    return found
