"""Events: in order, beside the passes, bounded, and lost only where that is counted."""

from __future__ import annotations

import asyncio

import pytest

from recast_operator import events as module
from recast_operator.adapters.errors import Blocked, Transient
from recast_operator.adapters.kube import Kube
from recast_operator.events import ATTEMPTS, EventQueue
from recast_operator.metrics import Metrics
from recast_operator.planning.plan import Event
from tests.unit.operator.fake_apiserver import FakeApiserver
from tests.unit.operator.operator_harness import REELS

POST = "POST events"


def queue(api: FakeApiserver, room: int = 10) -> tuple[EventQueue, Metrics]:
    metrics = Metrics()
    return EventQueue(Kube(api), metrics, room=room, retry_seconds=0.0), metrics


def events(*reasons: str) -> list[Event]:
    return [Event("Normal", reason, f"because of {reason}") for reason in reasons]


def posted(api: FakeApiserver) -> list[str]:
    return [raw["reason"] for (kind, _, _), raw in api.objects.items() if kind == "Event"]


def lost(metrics: Metrics, reason: str) -> float:
    return metrics.registry.get_sample_value("recast_operator_events_lost_total", {"reason": reason}) or 0.0


async def test_events_are_posted_in_order_about_the_model() -> None:
    api = FakeApiserver()
    waiting, _ = queue(api)
    waiting.add(REELS, "uid-1", events("One", "Two"))
    waiting.add(REELS, "uid-1", events("Three"))
    assert waiting.depth() == 3
    await waiting.drain()
    assert (posted(api), waiting.depth()) == (["One", "Two", "Three"], 0)
    raw = next(raw for (kind, _, _), raw in api.objects.items() if kind == "Event")
    assert raw["regarding"] == {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "ExpertModel",
        "namespace": "n",
        "name": "reels",
        "uid": "uid-1",
    }
    assert (raw["type"], raw["note"], raw["action"]) == ("Normal", "because of One", "Reconcile")


async def test_a_slow_event_api_delays_nobody_and_what_finds_no_room_is_counted() -> None:
    api, gate = FakeApiserver(), asyncio.Event()

    async def hold() -> None:
        await gate.wait()

    api.before(POST, hold)
    waiting, metrics = queue(api, room=2)
    posting = asyncio.create_task(waiting.run())
    waiting.add(REELS, "u", events("One"))
    await asyncio.sleep(0)
    waiting.add(REELS, "u", events("Two", "Three", "Four"))  # returns at once, whatever the apiserver does
    assert (waiting.depth(), lost(metrics, "overflow")) == (2, 2)
    gate.set()
    while waiting.depth():
        await asyncio.sleep(0)
    posting.cancel()
    assert posted(api) == ["One", "Two"]


async def test_a_failing_event_api_is_tried_again_a_few_times_and_a_refusal_is_not() -> None:
    api = FakeApiserver()
    waiting, metrics = queue(api)
    for _ in range(ATTEMPTS - 1):
        api.refuse(POST, Transient("tired"))
    waiting.add(REELS, "u", events("One"))
    await waiting.drain()
    assert (posted(api), lost(metrics, "Transient")) == (["One"], 0)
    for _ in range(ATTEMPTS):
        api.refuse(POST, Transient("tired"))
    waiting.add(REELS, "u", events("Two", "Three"))
    await waiting.drain()
    assert (posted(api), lost(metrics, "Transient")) == (["One", "Three"], 1)
    api.refuse(POST, Blocked("no permission", status=403))
    waiting.add(REELS, "u", events("Four", "Five"))
    await waiting.drain()
    assert (posted(api), lost(metrics, "Blocked")) == (["One", "Three", "Five"], 1)


async def test_a_failing_event_api_is_asked_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    api, waits = FakeApiserver(), list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    for _ in range(ATTEMPTS):
        api.refuse(POST, Transient("tired"))
    waiting = EventQueue(Kube(api), Metrics(), retry_seconds=1.0)
    waiting.add(REELS, "u", events("One"))
    await waiting.drain()
    assert waits == [1, 2, 4]


async def test_the_queue_wakes_for_every_event_that_comes_later() -> None:
    api = FakeApiserver()
    waiting, _ = queue(api)
    posting = asyncio.create_task(waiting.run())
    for reason in ("One", "Two"):
        waiting.add(REELS, "u", events(reason))
        async with asyncio.timeout(5):
            while waiting.depth():
                await asyncio.sleep(0)
    posting.cancel()
    assert posted(api) == ["One", "Two"]


async def test_at_the_end_what_can_be_posted_in_time_is_and_the_rest_is_counted() -> None:
    api = FakeApiserver()

    async def hold() -> None:
        await asyncio.Event().wait()

    waiting, metrics = queue(api)
    waiting.add(REELS, "u", events("One"))
    await waiting.flush(5)
    assert posted(api) == ["One"]
    api.before(POST, hold)
    waiting.add(REELS, "u", events("Two", "Three"))
    await waiting.flush(0.01)
    assert (posted(api), lost(metrics, "shutdown")) == (["One"], 2)


async def test_a_note_is_cut_to_what_the_apiserver_takes(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApiserver()
    waiting, _ = queue(api)
    waiting.add(REELS, "u", [Event("Warning", "Long", "x" * 5000)])
    await waiting.drain()
    raw = next(raw for (kind, _, _), raw in api.objects.items() if kind == "Event")
    assert len(raw["note"]) == 1024
    assert caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize("letter", ["a", "ü", "→", "🚀"])
async def test_a_note_keeps_to_the_bytes_that_the_apiserver_allows(letter: str) -> None:
    api = FakeApiserver()
    waiting, _ = queue(api)
    waiting.add(REELS, "u", [Event("Warning", "Long", letter * 2000)])
    await waiting.drain()
    (note,) = [raw["note"] for (kind, _, _), raw in api.objects.items() if kind == "Event"]
    assert 1020 < len(note.encode()) <= 1024
    assert set(note) == {letter}
