"""The operator's one event loop: what wakes a model, what a pass's end leads to, and what counts as a sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from recast_operator import runtime as module
from recast_operator.adapters.errors import OutsideError, Transient
from recast_operator.adapters.kube import Kube, Request
from recast_operator.controller import Away
from recast_operator.keys import Key
from recast_operator.metrics import Metrics
from recast_operator.queue import Pace, WorkQueue
from recast_operator.runtime import Runtime, Settings
from recast_operator.writes import Outside
from tests.unit.operator.documents import expert, foundation
from tests.unit.operator.fake_apiserver import FakeApiserver
from tests.unit.operator.operator_harness import HOME, REELS

HEARTBEAT = {"limit": "1", "resourceVersion": "0"}


class Apiserver(FakeApiserver):
    """Answers heartbeats as ``beat`` says, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = 0
        self.beat: OutsideError | None = None

    async def send(self, request: Request) -> Any:
        if request.params == HEARTBEAT:
            self.beats += 1
            if self.beat is not None:
                raise self.beat
        return await super().send(request)


class Passes:
    """In the place of the controller: each pass ends as ``end`` says, None where it simply ends."""

    outside: Outside

    def __init__(self) -> None:
        self.begun: list[Key] = []
        self.end: Callable[[Key], float | None] = lambda key: None
        self.gates: dict[Key, asyncio.Event] = {}
        self.asking: set[Key] = set()
        """Those that wait for their gates away from their places."""
        self.back: list[Key] = []

    async def reconcile(self, key: Key, away: Away) -> float | None:
        self.begun.append(key)
        async with away() if key in self.asking else nullcontext():
            if key in self.gates:
                await self.gates[key].wait()
        self.back.append(key)
        return self.end(key)


class RecordingQueue(WorkQueue[Key]):
    """Remembers what was asked for later, and what was given back."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.later: list[tuple[Key, float]] = []
        self.given_back: list[tuple[Key, bool]] = []

    def add(self, key: Key, after: float = 0.0) -> None:
        if after:
            self.later.append((key, after))
        super().add(key, after)

    def done(self, key: Key, *, failed: bool = False) -> float:
        self.given_back.append((key, failed))
        return super().done(key, failed=failed)


class Operator:
    """A runtime in namespace ``n`` with scripted passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.api, self.passes = Apiserver(), Passes()
        monkeypatch.setattr(module, "Controller", self._controller)
        monkeypatch.setattr(module, "WorkQueue", self._queue)
        monkeypatch.setattr(module, "PACES", {"FoundationModel": Pace(urgent=True), "ExpertModel": Pace()})
        self.metrics = Metrics()
        self.runtime = Runtime(Settings(namespaces=("n",), **settings), Kube(self.api), self.metrics)
        self.said: list[str] = []
        for name in ("heard", "refused"):
            monkeypatch.setattr(self.runtime.liveness, name, lambda name=name: self.said.append(name))

    def _controller(self, _: Any, outside: Outside, *__: Any) -> Passes:
        self.passes.outside = outside
        return self.passes

    def _queue(self, *parts: Any) -> RecordingQueue:
        self.queue = RecordingQueue(*parts)
        return self.queue

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    def passes_over(self, key: Key) -> int:
        return self.passes.begun.count(key)

    def change(self, raw: dict[str, Any], event: str = "MODIFIED") -> None:
        """A watch sees an object."""
        self.runtime.seen(raw["kind"], event, raw)


async def test_a_model_is_looked_at_after_the_first_listing_and_whenever_a_watch_sees_it_change_or_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = Operator(monkeypatch)
    operator.api.seed("ExpertModel", "n", "reels", metadata={"uid": "reels"}, spec=expert()["spec"])
    assert not operator.runtime.liveness.ready
    await operator.runtime.start()
    assert operator.runtime.liveness.ready
    await operator.until(lambda: operator.passes_over(REELS) == 1)
    operator.change(expert(version=1000))
    await operator.until(lambda: operator.passes_over(REELS) == 2)
    operator.change(expert(version=1001), "DELETED")
    await operator.until(lambda: operator.passes_over(REELS) == 3)
    assert operator.passes.outside.store.get(*REELS) is None
    await operator.runtime.stop()


async def test_a_pass_is_followed_by_one_at_the_time_that_its_plan_names_and_a_failed_one_by_a_retry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator(monkeypatch)
    ends: list[float | Exception | None] = [700.0, None, Transient("tired"), ZeroDivisionError("ours")]

    def end(key: Key) -> float | None:
        found = ends.pop(0) if key == REELS and ends else None
        if isinstance(found, Exception):
            raise found
        return found

    operator.passes.end = end
    finished: list[Any] = []
    monkeypatch.setattr(operator.runtime.liveness, "finished", finished.append)
    await operator.runtime.start()
    for version in range(1, 4):
        operator.change(expert(version=version))
        await operator.until(lambda version=version: finished.count(REELS) == version)  # type: ignore[misc]
    await operator.until(lambda: finished.count(REELS) == 4)  # the failed one comes back by itself
    await operator.runtime.stop()
    queue = operator.queue
    assert queue.later == [(REELS, 700.0)]
    assert [failed for key, failed in queue.given_back if key == REELS][:4] == [False, False, True, True]
    assert len(finished) == len(queue.given_back)
    assert "a pass failed" in caplog.text
    text = operator.metrics.text().decode()
    for result in ("Success", "Transient", "Error"):
        assert f'result="{result}"' in text


async def test_a_foundation_never_waits_for_a_worker_that_an_expert_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, workers=1)
    kept = [Key("ExpertModel", "n", name) for name in ("a", "b")]
    operator.passes.gates = {key: asyncio.Event() for key in kept}
    await operator.runtime.start()
    for key in kept:
        operator.change(expert(key.name))
    await operator.until(lambda: {HOME, kept[0]} <= set(operator.passes.begun))
    before = operator.passes_over(HOME)
    operator.change(foundation())
    await operator.until(lambda: operator.passes_over(HOME) > before)
    assert [key for key in operator.passes.begun if key != HOME] == kept[:1], "the worker for urgent keys took another"
    await operator.runtime.stop()


async def test_a_pass_that_waits_for_prometheus_leaves_its_place_to_others_and_needs_one_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = Operator(monkeypatch, workers=1)
    asking, second, third = keys = [Key("ExpertModel", "n", name) for name in ("a", "b", "c")]
    operator.passes.gates = {key: asyncio.Event() for key in keys}
    operator.passes.asking = {asking}
    await operator.runtime.start()
    for key in keys:
        operator.change(expert(key.name))
    await operator.until(lambda: second in operator.passes.begun)
    assert third not in operator.passes.begun, "two are at work"
    operator.passes.gates[asking].set()
    operator.passes.gates[third].set()
    await asyncio.sleep(0)
    operator.change(foundation())  # in a place of its own: when it is over, the others have had their time
    await operator.until(lambda: (HOME, False) in operator.queue.given_back)
    assert asking not in operator.passes.back, "back at work where another one is"
    operator.passes.gates[second].set()
    await operator.until(lambda: set(keys) <= {key for key, _ in operator.queue.given_back})
    await operator.runtime.stop()
    counted = operator.metrics.registry.get_sample_value
    assert counted("recast_operator_prometheus_seconds_count") == operator.passes.back.count(asking)
    work, result = "recast_operator_reconcile_seconds_count", {"kind": "ExpertModel", "result": "Success"}
    assert counted(work, result) == len([key for key, _ in operator.queue.given_back if key in keys])


async def test_passes_that_are_under_way_end_with_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch)
    operator.passes.gates = {REELS: asyncio.Event()}
    await operator.runtime.start()
    operator.change(expert())
    await operator.until(lambda: REELS in operator.passes.begun)
    await operator.runtime.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_heartbeat_that_is_answered_is_heard_and_one_that_is_refused_is_an_answer_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = Operator(monkeypatch, heartbeat_seconds=0.001)
    await operator.runtime.start()
    await operator.until(lambda: operator.api.beats >= 2)
    assert set(operator.said) == {"heard"}
    operator.api.beat = Transient("away", status=503)
    await operator.until(lambda: operator.said[-1] == "refused")
    operator.api.beat = None
    await operator.until(lambda: operator.said[-1] == "heard")
    await operator.runtime.stop()


async def test_a_heartbeat_without_an_answer_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch, heartbeat_seconds=0.001)
    monkeypatch.setattr(module, "HEARTBEAT_DEADLINE_SECONDS", 0.001)
    beats: list[str] = []

    async def silent(*_: Any) -> None:
        beats.append("asked")
        await asyncio.Event().wait()

    monkeypatch.setattr(operator.runtime.kube, "exists", silent)
    await operator.runtime.start()
    await operator.until(lambda: len(beats) >= 3)
    assert operator.said == []
    await operator.runtime.stop()


async def test_what_the_watches_missed_is_found_by_the_next_listing_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator = Operator(monkeypatch, resync_seconds=0.001)
    await operator.runtime.start()
    operator.api.seed("ExpertModel", "n", "reels", metadata={"uid": "reels"}, spec=expert()["spec"])
    await operator.until(lambda: operator.passes_over(REELS) >= 2)  # and every listing has all models looked at
    await operator.runtime.stop()
    missed = operator.metrics.registry.get_sample_value("recast_operator_watch_missed_total", {"kind": "ExpertModel"})
    assert missed == 1


async def test_the_start_waits_for_an_apiserver_that_cannot_list_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(monkeypatch)
    monkeypatch.setattr(module, "START_RETRY_SECONDS", 0.0)
    operator.api.refuse("GET pods", Transient("starting", status=503))
    await operator.runtime.start()
    assert operator.api.log.count("GET pods") == 2
    await operator.runtime.stop()
