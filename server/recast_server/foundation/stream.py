"""Many requests over one stream, each answered when it can be; what is ready together leaves together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
import grpc.aio

from recast_server.proto import foundation_pb2 as wire

TOGETHER = 16
"""Answers of one message, at most."""
OUTSTANDING = 512
"""Questions without an answer that its caller has read. Until there are fewer, no more are read."""
_TWICE = grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def answer_questions(
    context: grpc.aio.ServicerContext[wire.TaeQuestions, wire.TaeAnswers],
    answer: Callable[[wire.TaeQuestion], Awaitable[wire.TaeAnswer]],
) -> None:
    """Returns when the caller has asked all it will and all is answered.

    Cancelled, as a stream is whose caller is gone, it cancels what is being answered.
    """
    running: dict[int, asyncio.Task[wire.TaeAnswer]] = {}
    ready: list[wire.TaeAnswer] = []
    changed, fewer = asyncio.Event(), asyncio.Event()
    asked_all = False

    def begin(question: wire.TaeQuestion) -> None:
        def ended(task: asyncio.Task[wire.TaeAnswer]) -> None:
            del running[question.id]
            if not task.cancelled():
                ready.append(task.result())
            changed.set()

        running[question.id] = task = asyncio.ensure_future(answer(question))
        task.add_done_callback(ended)

    async def write() -> None:
        while not (asked_all and not running and not ready):
            await changed.wait()
            changed.clear()
            while ready:
                together, ready[:TOGETHER] = ready[:TOGETHER], []
                await context.write(wire.TaeAnswers(answers=together))
            fewer.set()

    writing = asyncio.create_task(write())
    writing.add_done_callback(lambda _: fewer.set())
    try:
        while (message := await context.read()) is not grpc.aio.EOF:
            questions = cast("wire.TaeQuestions", message)
            for number in questions.abandoned:
                if (task := running.get(number)) is not None:
                    task.cancel()
            for question in questions.questions:
                if question.id in running:
                    ready.append(wire.TaeAnswer(id=question.id, code=_TWICE, message="this id is being answered"))
                    changed.set()
                else:
                    begin(question)
            while len(running) + len(ready) > OUTSTANDING and not writing.done():
                fewer.clear()
                await fewer.wait()
        asked_all = True
        changed.set()
        await writing
    finally:
        for task in (*running.values(), writing):
            task.cancel()
