"""Whom an expert asks of several replicas, over real gRPC: who keeps a user, who is left alone, who comes back."""

from __future__ import annotations

import asyncio
import logging
import time

import grpc
import pytest
from real_edge import until
from scripted_replicas import DIM, PIN, RIGHT, WRONG, Scripted, fleet
from server_builders import a_context

from recast_server.expert import replicas as module
from recast_server.expert.breaker import FAILURES
from recast_server.expert.handshake import handshake
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.replicas import resolver
from recast_server.proto import foundation_pb2 as wire
from recast_server.runtime.inputs import Query


@pytest.fixture(autouse=True)
def quick_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(module, "SOONEST_SECONDS", 0.01)


async def test_a_user_keeps_a_replica_and_users_are_spread_over_all() -> None:
    async with fleet(Scripted(1.0), Scripted(2.0), Scripted(3.0)) as made:
        await made.ask()
        await until(lambda: all(r.connected() for r in made.client._replicas._usable))
        first = [await made.ask(user) for user in range(40)]
        assert [await made.ask(user) for user in range(40)] == first
        assert set(first) == {1.0, 2.0, 3.0}
        assert (made.known("used"), made.known("ejected"), made.ejections) == (3, 0, 0)


async def test_one_that_has_too_many_calls_in_flight_is_passed_over() -> None:
    async with fleet(Scripted(1.0), Scripted(2.0)) as made:
        slow = made.replicas[0]
        user = await made.user_of(slow)
        slow.ready.clear()
        waiting = [asyncio.create_task(made.ask(user)) for _ in range(3)]
        await until(lambda: made.client._replicas._known[slow.address].in_flight == 3)
        assert await asyncio.wait_for(made.ask(user), 10) == 2.0
        slow.ready.set()
        assert await asyncio.gather(*waiting) == [1.0] * 3


async def test_a_frozen_replica_is_ejected_nobody_waits_for_it_and_it_is_back_when_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "recast.replicas")
    async with fleet(Scripted(1.0), Scripted(2.0), deadline_seconds=0.3) as made:
        frozen = made.replicas[0]
        user = await made.user_of(frozen)
        frozen.running.clear()
        for _ in range(FAILURES):
            assert await made.ask(user) == "DEADLINE_EXCEEDED"
        assert (made.known("used"), made.known("ejected"), made.ejections) == (1, 1, 1)
        asked = frozen.asked
        assert [await made.ask(user) for user in range(30)] == [2.0] * 30
        assert frozen.asked == asked, "no request of a user probes it"
        await until(lambda: frozen.described > 0)
        frozen.running.set()
        await until(lambda: made.known("used") == 2)
        assert await made.ask(user) == 1.0
        told = [record.message for record in caplog.records if record.name == "recast.replicas"]
        assert told == ["a foundation's replica is ejected", "a foundation's replica is back"]


async def test_a_model_that_is_busy_is_not_taken_for_a_frozen_process() -> None:
    async with fleet(Scripted(1.0), deadline_seconds=0.05) as made:
        (busy,) = made.replicas
        await made.user_of(busy)
        busy.ready.clear()
        for _ in range(FAILURES):
            assert await made.ask() == "DEADLINE_EXCEEDED"
        await until(lambda: made.known("used") == 1)
        assert busy.described == 1
        busy.ready.set()
        assert await made.ask() == 1.0
        assert made.ejections == 1


async def test_deadlines_shorter_than_the_usual_time_eject_nobody() -> None:
    async with fleet(Scripted(1.0)) as made:
        (slow,) = made.replicas
        slow.ready.clear()
        first = asyncio.create_task(made.ask())
        await until(lambda: slow.asked == 1)
        await asyncio.sleep(0.2)  # what its answers take
        slow.ready.set()
        assert await first == 1.0
        slow.ready.clear()
        for _ in range(3 * FAILURES):
            assert await made.ask(within=0.02) == "DEADLINE_EXCEEDED"
        assert made.ejections == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_burst_of_refusals_ejects_nobody(code: grpc.StatusCode) -> None:
    async with fleet(Scripted(1.0, code=code), Scripted(2.0, code=code)) as made:
        assert set(await asyncio.gather(*(made.ask(user) for user in range(100)))) == {code.name}
        assert made.ejections == 0


async def test_callers_that_give_up_eject_nobody() -> None:
    async with fleet(Scripted(1.0)) as made:
        (busy,) = made.replicas
        await made.ask()
        busy.ready.clear()
        for _ in range(3 * FAILURES):
            call, asked = asyncio.create_task(made.ask()), busy.asked
            await until(lambda asked=asked: busy.asked > asked)  # type: ignore[misc]
            call.cancel()
            await asyncio.wait({call})
        assert made.ejections == 0


async def test_where_all_are_ejected_no_call_is_made_and_probes_go_on() -> None:
    async with fleet(Scripted(1.0), Scripted(2.0), deadline_seconds=0.2) as made:
        for replica in made.replicas:
            replica.running.clear()
        for user in range(100):
            await made.ask(user)
            if made.known("used") == 0:
                break
        asked, counted = sum(r.asked for r in made.replicas), made.counted("UNAVAILABLE")
        begin = time.monotonic()
        assert [await made.ask(user) for user in range(50)] == ["UNAVAILABLE"] * 50
        assert time.monotonic() - begin < 50 * 0.2, "nobody waits for a deadline"
        assert sum(r.asked for r in made.replicas) == asked
        assert counted is not None
        assert made.counted("UNAVAILABLE") == counted + 50
        for replica in made.replicas:
            replica.running.set()
        await until(lambda: made.known("used") == 2)
        assert await made.ask() in {1.0, 2.0}


async def test_a_replica_of_another_version_is_ejected_at_once_until_it_serves_the_pairs() -> None:
    async with fleet(Scripted(1.0), Scripted(2.0)) as made:
        other = made.replicas[0]
        user = await made.user_of(other)
        other.version = WRONG
        assert await made.ask(user) == "PAIR_MISMATCH"
        assert [await made.ask(user) for user in range(20)] == [2.0] * 20
        await until(lambda: other.described > 1)
        assert made.known("ejected") == 1
        other.version = RIGHT
        await until(lambda: made.known("used") == 2)


async def test_a_later_version_of_the_lineage_is_no_reason_to_eject() -> None:
    async with fleet(Scripted(1.0)) as made:
        later = wire.Version(model=PIN.name, number=4, lineage=PIN.lineage, digest="sha256:" + "ef" * 32)
        made.replicas[0].version = later
        assert await made.ask() == 1.0


async def test_the_handshake_meets_the_pairs_version_where_any_replica_serves_it() -> None:
    async with fleet(Scripted(1.0, version=WRONG), Scripted(2.0), Scripted(3.0, version=WRONG)) as made:
        assert await handshake(made.client, PIN, DIM)


async def test_a_foundation_without_an_address_is_unavailable_at_once_after_the_first_lookup() -> None:
    async with fleet(Scripted(1.0)) as made:
        addresses, made.addresses = made.addresses, OSError("no such name")
        assert await asyncio.wait_for(made.ask(), 10) == "UNAVAILABLE"
        with pytest.raises(TaeUnavailableError):
            await made.client.describe(0.05)
        made.addresses = addresses
        await until(lambda: made.known("used") == 1)
        assert await made.ask() == 1.0


@pytest.mark.parametrize("failure", [OSError("no such name"), []], ids=["an error", "no address"])
async def test_a_lookup_that_fails_keeps_what_is_known(failure: OSError | list[str]) -> None:
    async with fleet(Scripted(1.0)) as made:
        assert await made.ask() == 1.0
        made.addresses = failure
        looked = made.lookups
        await until(lambda: made.lookups > looked + 2)
        assert await made.ask() == 1.0
        assert made.known("used") == 1


async def test_replicas_come_and_go_and_one_that_goes_still_answers_what_it_was_asked() -> None:
    async with fleet(Scripted(1.0)) as made:
        (old,) = made.replicas
        assert await made.ask() == 1.0
        old.ready.clear()
        last = asyncio.create_task(made.ask())
        await until(lambda: old.asked == 2)
        new = Scripted(2.0)
        await new.start()
        made.replicas.append(new)
        made.addresses = [new.address]
        await until(lambda: made.client._replicas._known.keys() == {new.address})
        assert await made.ask() == 2.0
        old.ready.set()
        assert await last == 1.0


async def test_one_whose_connection_ended_is_passed_over_at_once() -> None:
    async with fleet(Scripted(1.0), Scripted(2.0)) as made:
        gone = made.replicas[0]
        await made.user_of(gone)
        await until(lambda: all(r.connected() for r in made.client._replicas._usable))
        await gone.server.stop(None)
        lost = next(r for r in made.client._replicas._usable if r.address == gone.address)
        await until(lambda: not lost.connected())
        assert [await made.ask(user) for user in range(20)] == [2.0] * 20


async def test_a_lookup_that_hangs_holds_no_request_beyond_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 30.0)
    async with fleet(Scripted(1.0), deadline_seconds=0.05) as made:
        made.hangs = True
        assert await asyncio.wait_for(made.ask(), 10) == "UNAVAILABLE"
        with pytest.raises(TaeUnavailableError) as raised:
            await asyncio.wait_for(made.client.tae(Query(1, "feed", 0, [1]), a_context(), 0.0), 10)
        assert raised.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("address", ["127.0.0.1:7", "[::1]:7"])
async def test_an_address_is_looked_up_as_itself(address: str) -> None:
    assert await resolver(address)() == [address]


async def test_a_name_is_looked_up_as_all_its_addresses() -> None:
    assert set(await resolver("localhost:7")()) <= {"127.0.0.1:7", "[::1]:7"}
