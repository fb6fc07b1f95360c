"""One request through both hops: what is refused before the foundation is asked, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from past_events import rows
from prometheus_client import CollectorRegistry
from server_builders import NOW, a_context, a_reader, a_scheduler

from recast_server.expert.model_ranker import Embedded, ModelRanker
from recast_server.expert.questions import TaeUnavailableError
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import HistoryEvent, RankRequest, RefusedError
from recast_server.expert.tae_cache import TaeCache
from recast_server.expert.tae_client import Embeddings, ServedFoundation
from recast_server.runtime.context import RequestContext
from recast_server.runtime.cost import CostModel
from recast_server.runtime.events import Events
from recast_server.runtime.inputs import Query
from recast_server.runtime.scheduler import EXPECTED_SHARE, OverloadedError, Scheduler

SERVED = ServedFoundation("home-fm", 3, 3, "sha256:d", 4)
REQUEST = RankRequest(user=1, candidates=[5, 9], time=NOW)


class Expert:
    """Says of each candidate whether it came with an embedding."""

    tae_dim = 4
    context = ()

    def units(self, asked: Embedded) -> float:
        return 1.0

    def shape(self, asked: Embedded) -> None:
        return None

    def run(self, asked: Sequence[Embedded]) -> list[Ranking]:
        return [
            Ranking([0.5] * len(one.query.candidates), {}, [], "absent" if one.tae is None else one.source)
            for one in asked
        ]


@dataclass
class Foundation:
    """Answers when it is let."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[Query, RequestContext, float]] = field(default_factory=list)
    failing: bool = False

    async def tae(self, query: Query, context: RequestContext, within_seconds: float) -> Any:
        self.asked.append((query, context, within_seconds))
        await self.gate.wait()
        if self.failing:
            raise TaeUnavailableError("UNAVAILABLE", "scripted")
        return Embeddings(np.zeros((len(query.candidates), 4), np.float16), SERVED, 17)

    async def describe(self, timeout_seconds: float) -> Any:
        raise NotImplementedError

    async def close(self) -> None: ...


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scheduler(registry: CollectorRegistry) -> Iterator[Scheduler]:
    made = a_scheduler(8, CostModel(per_request=1.0), registry)
    yield made
    made.close()


def a_ranker(scheduler: Scheduler, foundation: Foundation, cache: TaeCache | None = None) -> ModelRanker:
    return ModelRanker(Expert(), "reels", foundation, scheduler, a_reader(), cache)


async def begun(foundation: Foundation, count: int) -> None:
    """Waits until so many were asked."""
    async with asyncio.timeout(30):
        while len(foundation.asked) < count:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("failing", [False, True])
async def test_a_request_is_ranked_with_what_the_foundation_says_or_without(
    scheduler: Scheduler, failing: bool
) -> None:
    foundation = Foundation(failing=failing)
    foundation.gate.set()
    found = await a_ranker(scheduler, foundation).rank(REQUEST, a_context())
    assert found.tae == ("absent" if failing else "fresh")


async def test_what_the_foundation_said_before_stands_in_for_what_it_does_not_say_now(scheduler: Scheduler) -> None:
    foundation = Foundation(failing=True)
    foundation.gate.set()
    ranker = a_ranker(scheduler, foundation, TaeCache(1 << 20, 60.0))
    told = []
    for foundation.failing, candidates in ((True, [5]), (False, [5, 9]), (True, [9, 5]), (True, [9, 7]), (False, [7])):
        found = await ranker.rank(RankRequest(user=1, candidates=candidates), a_context())
        told.append(found.tae)
    assert told == ["absent", "fresh", "cached", "pooled", "fresh"]


@pytest.mark.parametrize("changes", [{"time": NOW}, {"history": []}])
async def test_what_a_client_tells_of_a_user_or_another_time_stands_in_for_nothing(
    scheduler: Scheduler, changes: dict[str, Any]
) -> None:
    foundation = Foundation()
    foundation.gate.set()
    ranker = a_ranker(scheduler, foundation, TaeCache(1 << 20, 60.0))
    told = []
    for foundation.failing, asked in ((False, changes), (True, {}), (False, {}), (True, changes), (True, {})):
        found = await ranker.rank(RankRequest(user=1, candidates=[5, 9], **asked), a_context())
        told.append(found.tae)
    assert told == ["fresh", "absent", "fresh", "absent", "cached"]


async def test_the_foundation_is_asked_what_the_client_asked_and_has_the_time_but_for_the_experts_own(
    scheduler: Scheduler,
) -> None:
    foundation, context = Foundation(), a_context(10.0)
    foundation.gate.set()
    events = [HistoryEvent(item=7, surface="feed", time=NOW - 5, actions=["like"], available_at=NOW - 2)]
    await a_ranker(scheduler, foundation).rank(REQUEST.model_copy(update={"history": events}), context)
    ((query, told, within),) = foundation.asked
    assert isinstance(query.history, Events)
    assert rows(query.history) == [(7, "feed", frozenset({"like"}), NOW - 5, NOW - 2)]
    assert replace(query, history=None) == Query(1, "reels", NOW, [5, 9], None, {})
    assert told is context
    assert within == pytest.approx(EXPECTED_SHARE * 10.0 - 1.0, abs=0.5)


async def test_a_history_of_more_actions_than_there_are_bits_is_refused_before_anything_is_asked(
    scheduler: Scheduler,
) -> None:
    foundation = Foundation()
    events = [
        HistoryEvent(item=7, surface="feed", time=1, actions=[f"a{8 * i + j}" for j in range(8)]) for i in range(8)
    ]
    with pytest.raises(RefusedError, match="history: tasks: at most 63 names are allowed, not 64") as raised:
        await a_ranker(scheduler, foundation).rank(REQUEST.model_copy(update={"history": events}), a_context())
    assert raised.value.status == 422
    assert foundation.asked == []


async def test_a_request_that_cannot_be_answered_in_time_never_reaches_the_foundation(scheduler: Scheduler) -> None:
    foundation = Foundation()
    ranker = a_ranker(scheduler, foundation)
    first = asyncio.create_task(ranker.rank(REQUEST, a_context()))
    await begun(foundation, 1)
    with pytest.raises(OverloadedError):
        await ranker.rank(REQUEST, a_context(2.0))
    assert len(foundation.asked) == 1
    foundation.gate.set()
    await first


async def test_the_more_wait_for_the_model_the_sooner_a_hop_must_end(scheduler: Scheduler) -> None:
    foundation = Foundation()
    ranker = a_ranker(scheduler, foundation)
    tasks = [asyncio.create_task(ranker.rank(REQUEST, a_context(20.0))) for _ in range(4)]
    await begun(foundation, 4)
    assert [within for *_, within in foundation.asked] == pytest.approx([13.0, 12.0, 11.0, 10.0], abs=0.5)
    foundation.gate.set()
    await asyncio.gather(*tasks)


async def test_a_request_that_is_taken_back_gives_up_its_place(
    scheduler: Scheduler, registry: CollectorRegistry
) -> None:
    foundation = Foundation()
    ranker = a_ranker(scheduler, foundation)
    task = asyncio.create_task(ranker.rank(REQUEST, a_context()))
    await begun(foundation, 1)
    assert registry.get_sample_value("recast_queue_requests") == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert registry.get_sample_value("recast_queue_requests") == 0


async def test_a_ranking_says_what_it_rests_on(scheduler: Scheduler) -> None:
    foundation = Foundation(failing=True)
    foundation.gate.set()
    ranker = a_ranker(scheduler, foundation, TaeCache(1 << 20, 60.0))
    told = []
    for foundation.failing in (True, False, True):
        basis = (await ranker.rank(RankRequest(user=1, candidates=[5, 9]), a_context())).basis
        assert basis is not None
        told.append((basis.tae is not None, basis.foundation, basis.cursor_ms))
    assert told == [(False, None, 0), (True, SERVED, 17), (True, None, 0)]
    timed = (await ranker.rank(REQUEST, a_context())).basis
    assert timed is not None
    assert timed.time_ms == NOW
