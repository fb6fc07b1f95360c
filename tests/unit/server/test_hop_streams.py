"""Many requests over one stream: who gets whose answer, and what becomes of them when the stream ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from real_edge import until
from server_builders import a_context

from recast_server.expert import questions as questions_module
from recast_server.expert.questions import Questions, TaeUnavailableError
from recast_server.foundation import stream as stream_module
from recast_server.foundation.stream import answer_questions
from recast_server.proto import foundation_pb2 as wire
from recast_server.proto.foundation_pb2_grpc import FoundationStub

Streams = Callable[[Any], Any]
"""Plays one stream to its end, given the call's context; messages are bytes."""


@dataclass
class Far:
    """The other side of the hop, as a script plays it."""

    play: Streams | None = None
    streams: int = 0
    calls: int = 0
    ended: int = 0
    server: Any = None
    questions: Questions = field(init=False)
    channel: Any = None

    async def ask(self, user: int = 1, timeout: float = 30.0) -> int | str:
        """The rows of the reply, or the code of why there is none."""
        try:
            return (await self.questions.ask(wire.TaeRequest(user=user), a_context(), timeout)).rows
        except TaeUnavailableError as error:
            return error.code


@asynccontextmanager
async def far(play: Streams | None) -> AsyncIterator[Far]:
    """A server that plays its streams as told, and a caller of it; it knows no streams without."""
    made = Far(play)

    async def stream(_requests: object, context: Any) -> None:
        made.streams += 1
        try:
            assert made.play is not None
            await made.play(context)
        finally:
            made.ended += 1

    async def tae(request: bytes, _context: Any) -> bytes:
        made.calls += 1
        return wire.TaeReply(rows=wire.TaeRequest.FromString(request).user).SerializeToString()

    handlers: dict[str, Any] = {"Tae": grpc.unary_unary_rpc_method_handler(tae)}
    if play is not None:
        handlers["TaeStream"] = grpc.stream_stream_rpc_method_handler(stream)
    made.server = grpc.aio.server()
    made.server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("recast.v1alpha1.Foundation", handlers),)
    )
    port = made.server.add_insecure_port("127.0.0.1:0")
    await made.server.start()
    made.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    made.questions = Questions(FoundationStub(made.channel))
    yield made
    await made.channel.close()
    await made.server.stop(None)


def answers(*given: wire.TaeAnswer) -> bytes:
    return wire.TaeAnswers(answers=given).SerializeToString()


def reply(question: wire.TaeQuestion, rows: int | None = None) -> wire.TaeAnswer:
    return wire.TaeAnswer(id=question.id, reply=wire.TaeReply(rows=question.request.user if rows is None else rows))


async def read(context: Any, count: int) -> list[wire.TaeQuestion]:
    """So many questions."""
    found: list[wire.TaeQuestion] = []
    while len(found) < count:
        data = await context.read()
        assert data is not grpc.aio.EOF
        found.extend(wire.TaeQuestions.FromString(data).questions)
    return found


async def echo(context: Any) -> None:
    while (data := await context.read()) is not grpc.aio.EOF:
        await context.write(answers(*map(reply, wire.TaeQuestions.FromString(data).questions)))


async def test_many_share_a_stream_and_each_gets_its_own_answer_in_whatever_order_they_come() -> None:
    async def shuffled(context: Any) -> None:
        asked = await read(context, 100)
        random.Random(0).shuffle(asked)
        for question in asked:
            await context.write(answers(reply(question)))

    async with far(shuffled) as made:
        assert await asyncio.gather(*(made.ask(user) for user in range(100))) == list(range(100))
        assert made.streams == 1


async def test_a_server_of_before_there_were_streams_is_asked_one_by_one() -> None:
    async with far(None) as made:
        assert await asyncio.gather(*(made.ask(user) for user in (3, 4))) == [3, 4]
        assert await made.ask(5) == 5
        assert (made.streams, made.calls) == (0, 3)


async def test_an_answer_to_nobody_or_a_second_one_is_passed_over() -> None:
    async def talkative(context: Any) -> None:
        (first,) = await read(context, 1)
        stranger = wire.TaeAnswer(id=10**9, reply=wire.TaeReply(rows=99))
        await context.write(answers(stranger, reply(first), reply(first, 98)))
        (second,) = await read(context, 1)
        await context.write(answers(reply(first, 97), reply(second)))
        await context.read()

    async with far(talkative) as made:
        assert [await made.ask(1), await made.ask(2)] == [1, 2]
        assert made.streams == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED])
async def test_a_refusal_is_its_questions_own(code: grpc.StatusCode) -> None:
    async def refusing(context: Any) -> None:
        first, second = await read(context, 2)
        await context.write(answers(wire.TaeAnswer(id=first.id, code=code.value[0], message="no"), reply(second)))
        await echo(context)

    async with far(refusing) as made:
        assert await asyncio.gather(made.ask(1), made.ask(2)) == [code.name, 2]
        assert await made.ask(3) == 3
        assert (made.streams, made.calls) == (1, 0)


async def test_a_code_that_no_one_knows_is_unknown() -> None:
    async def odd(context: Any) -> None:
        (question,) = await read(context, 1)
        await context.write(answers(wire.TaeAnswer(id=question.id, code=4711)))
        await context.read()

    async with far(odd) as made:
        assert await made.ask() == "UNKNOWN"


async def ends(context: Any) -> None:
    await read(context, 2)


async def aborts(context: Any) -> None:
    await read(context, 2)
    await context.abort(grpc.StatusCode.DATA_LOSS, "scripted")


async def garbage(context: Any) -> None:
    await read(context, 2)
    await context.write(b"\xff\xff garbage")
    await context.read()


@pytest.mark.parametrize(
    ("play", "code"),
    [(ends, "UNAVAILABLE"), (aborts, "DATA_LOSS"), (garbage, "INTERNAL")],
    ids=["end", "abort", "bytes"],
)
async def test_the_end_of_a_stream_is_told_to_all_who_wait_and_the_next_has_a_new_one(play: Streams, code: str) -> None:
    async with far(play) as made:
        assert await asyncio.gather(made.ask(1), made.ask(2)) == [code, code]
        made.play = echo
        assert await made.ask(3) == 3
        assert made.streams == 2


async def test_nobody_waits_for_longer_than_the_time_it_has_and_the_other_side_is_told() -> None:
    told: list[int] = []

    async def silent(context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            message = wire.TaeQuestions.FromString(data)
            told.extend(-number for number in message.abandoned)
            told.extend(question.id for question in message.questions)

    async with far(silent) as made:
        assert await made.ask(timeout=0.05) == "DEADLINE_EXCEEDED"
        await until(lambda: told == [1, -1])
        asking = asyncio.create_task(made.ask())
        await until(lambda: told == [1, -1, 2])
        asking.cancel()
        await until(lambda: told == [1, -1, 2, -2])


async def test_the_other_side_knows_how_long_is_left_and_whose_request_it_is() -> None:
    seen: list[wire.TaeQuestion] = []

    async def noting(context: Any) -> None:
        seen.extend(await read(context, 1))
        await context.write(answers(reply(seen[0])))
        await context.read()

    async with far(noting) as made:
        context = a_context()
        await made.questions.ask(wire.TaeRequest(user=1), context, 2.5)
        (question,) = seen
        assert question.timeout_microseconds == 2_500_000
        assert question.request_id == context.request_id


async def test_a_stream_is_left_after_a_while_and_ends_when_all_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions_module, "STREAM_SECONDS", 0.1)
    release = asyncio.Event()

    async def slow(context: Any) -> None:
        (question,) = await read(context, 1)
        await release.wait()
        await context.write(answers(reply(question)))
        assert await context.read() is grpc.aio.EOF

    async with far(slow) as made:
        first = asyncio.create_task(made.ask(1))
        await until(lambda: made.streams == 1)
        await until(lambda: made.questions._stream is not None and made.questions._stream.finished)
        made.play = echo
        assert await made.ask(2) == 2
        assert made.ended == 0
        release.set()
        assert await first == 1
        await until(lambda: made.ended == 2)  # the second too: nobody asks any more, and a drain is not held


async def test_a_server_that_drains_is_left_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions_module, "STREAM_SECONDS", 0.2)
    async with far(echo) as made:
        assert await made.ask(1) == 1
        begin = time.monotonic()
        stopping = asyncio.ensure_future(made.server.stop(60.0))
        await stopping
        assert time.monotonic() - begin < 30
        assert await made.ask(2) == "UNAVAILABLE"


async def test_what_is_too_much_for_one_message_goes_in_several_and_neighbours_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions_module, "MESSAGE_BYTES", 1000)
    sizes: list[int] = []

    async def measuring(context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            sizes.append(len(data))
            await context.write(answers(*map(reply, wire.TaeQuestions.FromString(data).questions)))

    async with far(measuring) as made:
        large = wire.TaeRequest(user=7, candidate_ids=bytes(800))
        asked = [made.questions.ask(large, a_context(), 30.0) for _ in range(20)]
        assert [found.rows for found in await asyncio.gather(*asked)] == [7] * 20
        assert max(sizes) < 1000 + 1000
        assert len(sizes) >= 10


async def test_a_server_that_was_updated_is_asked_on_streams_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far(None) as made:
        assert await made.ask(3) == 3
        assert made.questions._one_by_one_until > time.monotonic()
        monkeypatch.setattr(made.questions, "_one_by_one_until", 0.0)
        monkeypatch.setattr(questions_module, "ONE_BY_ONE_SECONDS", -1.0)
        assert await made.ask(4) == 4  # it was tried, and is still of before


async def test_a_server_that_does_not_end_its_side_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions_module, "STREAM_SECONDS", 0.05)
    monkeypatch.setattr(questions_module, "ENDING_SECONDS", 0.05)

    async def never_ends(context: Any) -> None:
        (question,) = await read(context, 1)
        await context.write(answers(reply(question)))
        await asyncio.Event().wait()

    async with far(never_ends) as made:
        assert await made.ask(1) == 1
        stream = made.questions._stream
        assert stream is not None
        await until(lambda: made.ended == 1 and all(task.done() for task in stream._tasks))


class Context:
    """The far end of a stream whose caller says ``said`` and reads when it is let."""

    def __init__(self, *said: wire.TaeQuestions) -> None:
        self.said, self.written = list(said), list[wire.TaeAnswer]()
        self.reads = 0
        self.more, self.unread = asyncio.Event(), asyncio.Event()
        self.unread.set()

    async def read(self) -> Any:
        self.reads += 1
        if not self.said:
            await self.more.wait()
        return self.said.pop(0) if self.said else grpc.aio.EOF

    async def write(self, message: wire.TaeAnswers) -> None:
        await self.unread.wait()
        self.written.extend(message.answers)


def asked(*numbers: int, abandoned: tuple[int, ...] = ()) -> wire.TaeQuestions:
    return wire.TaeQuestions(questions=[wire.TaeQuestion(id=number) for number in numbers], abandoned=abandoned)


async def at_once(question: wire.TaeQuestion) -> wire.TaeAnswer:
    return wire.TaeAnswer(id=question.id)


async def test_answers_do_not_wait_for_each_other_and_the_end_waits_for_them() -> None:
    gates = {1: asyncio.Event(), 2: asyncio.Event()}

    async def answer(question: wire.TaeQuestion) -> wire.TaeAnswer:
        await gates[question.id].wait()
        return wire.TaeAnswer(id=question.id)

    context = Context(asked(1, 2))
    context.more.set()
    served = asyncio.create_task(answer_questions(context, answer))  # type: ignore[arg-type]
    gates[2].set()
    await until(lambda: [one.id for one in context.written] == [2])
    assert not served.done()
    gates[1].set()
    await served
    assert [one.id for one in context.written] == [2, 1]


async def test_what_nobody_waits_for_any_more_is_cancelled_and_so_is_all_when_the_caller_is_gone() -> None:
    begun, cancelled = set[int](), list[int]()

    async def answer(question: wire.TaeQuestion) -> wire.TaeAnswer:
        begun.add(question.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(question.id)
            raise
        raise AssertionError

    context = Context(asked(1, 2, 3), asked(abandoned=(2, 77)))
    served = asyncio.create_task(answer_questions(context, answer))  # type: ignore[arg-type]
    await until(lambda: begun == {1, 3})  # the other was taken back before it began
    context.said.append(asked(abandoned=(3,)))
    context.more.set()
    await until(lambda: cancelled == [3])
    served.cancel()
    await until(lambda: cancelled == [3, 1])


async def test_one_number_asked_twice_is_refused_and_the_first_is_answered() -> None:
    gate = asyncio.Event()

    async def answer(question: wire.TaeQuestion) -> wire.TaeAnswer:
        await gate.wait()
        return wire.TaeAnswer(id=question.id)

    context = Context(asked(1, 1))
    context.more.set()
    served = asyncio.create_task(answer_questions(context, answer))  # type: ignore[arg-type]
    await until(lambda: len(context.written) == 1)
    gate.set()
    await served
    assert [one.code for one in context.written] == [grpc.StatusCode.INVALID_ARGUMENT.value[0], 0]


async def test_who_does_not_read_its_answers_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "OUTSTANDING", 4)
    monkeypatch.setattr(stream_module, "TOGETHER", 2)
    context = Context(*(asked(*range(10 * n, 10 * n + 10)) for n in range(20)))
    context.unread.clear()
    context.more.set()
    served = asyncio.create_task(answer_questions(context, at_once))  # type: ignore[arg-type]
    for _ in range(50):
        await asyncio.sleep(0)
    assert context.reads == 1
    context.unread.set()
    await served
    assert sorted(one.id for one in context.written) == list(range(200))
