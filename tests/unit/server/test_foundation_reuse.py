"""A foundation that keeps keys and values answers as one that computes all of it, whatever it was asked before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from past_events import Event, past
from prometheus_client import CollectorRegistry
from server_builders import HISTORIES, ITEMS, NOW, SURFACES, TASKS, LandedPair, a_scheduler, land_pair

from recast_api.run import RecastError
from recast_api.server import FoundationServerConfig, ServedArtifact
from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.flops import forward_flops
from recast_model.incremental import KeyValues
from recast_model.inference import embed
from recast_server.foundation import engine as engines
from recast_server.foundation import serve
from recast_server.foundation.engine import FoundationEngine
from recast_server.foundation.kv_cache import BLOCK
from recast_server.foundation.memory import MIB
from recast_server.foundation.reuse_metrics import ReuseMetrics
from recast_server.runtime.health import Health
from recast_server.runtime.inputs import Query, RequestEncoder
from recast_server.runtime.loop_lag import LoopLag
from recast_server.runtime.process import Runtime

LIMIT = 3 * BLOCK
"""Of events in a window, whose start then moves in steps of 24."""
ENCODER = RequestEncoder(ITEMS, HISTORIES, SURFACES, TASKS)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("deep"), limit=LIMIT, layers=3)


@pytest.fixture(scope="module")
def engine(pair: LandedPair) -> FoundationEngine:
    return FoundationEngine(pair.foundation_folder, pair.foundation_manifest)


@pytest.fixture
def cramped(pair: LandedPair, monkeypatch: pytest.MonkeyPatch) -> FoundationEngine:
    """Room for one full history and no more."""
    monkeypatch.setattr(engines, "LEAST_BYTES", 0)
    monkeypatch.setattr(engines, "plan_memory", lambda *given: _Plan(given[1]))
    return FoundationEngine(pair.foundation_folder, pair.foundation_manifest)


class _Plan:
    def __init__(self, least: int) -> None:
        self.kept = least

    def log_fields(self) -> dict[str, int]:
        return {}


def events(count: int, seed: int = 0) -> list[Event]:
    """A life of which any beginning is a history too."""
    rng = np.random.default_rng(seed)
    return [
        Event(
            int(rng.integers(98, 122)),
            SURFACES[rng.integers(2)],
            NOW - 10_000_000 + 60_000 * place + int(rng.integers(50_000)),
            [task for task in TASKS if rng.random() < 0.4],
        )
        for place in range(count)
    ]


def asking(user: int, surface: str, time_ms: int, candidates: list[int], history: list[Event] | None = None) -> Query:
    return Query(user, surface, time_ms, candidates, None if history is None else past(*history))


def fully(pair: LandedPair, query: Query) -> NDArray[np.floating]:
    """What the log pass gives for the request."""
    arrays = collate([ENCODER.encode(query)], LIMIT)
    found: NDArray[np.floating] = embed(pair.foundation, RequestBatch.from_arrays(arrays))[0].numpy()
    return found


def assert_right(pair: LandedPair, queries: Sequence[Query], answers: Sequence[NDArray[np.floating]]) -> None:
    for query, rows in zip(queries, answers, strict=True):
        assert rows.dtype == np.float16
        assert rows.flags.c_contiguous
        np.testing.assert_allclose(rows, fully(pair, query), rtol=2**-9, atol=2**-12)


LIVES = {user: events(130, seed=user) for user in range(3)}


@st.composite
def queries(draw: Any) -> Query:
    """Of three users: stored or inline, longer and shorter than before, of the past, with a life that was rewritten."""
    user = draw(st.integers(0, 2))
    candidates = draw(st.lists(st.integers(98, 121), min_size=1, max_size=5))
    surface = draw(st.sampled_from(SURFACES))
    if draw(st.integers(0, 5)) == 0:
        return asking(user, surface, NOW - draw(st.integers(0, 70_000)), candidates)
    life = LIVES[draw(st.sampled_from([user, user, user, 2]))][: draw(st.integers(0, 130))]
    if life and draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(life) - 1))
        change = draw(st.sampled_from([{"actions": ("share",)}, {"item": 119}, {"available_ms": NOW}]))
        life = [*life[:place], replace(life[place], **change), *life[place + 1 :]]
    now = draw(st.sampled_from([NOW, NOW + 86_400_000, NOW - 5_000_000]))
    return asking(user, surface, now, candidates, life)


@given(asked=st.lists(st.lists(queries(), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(max_examples=60)
def test_whatever_was_asked_before_each_answer_is_that_of_a_whole_forward(
    pair: LandedPair, engine: FoundationEngine, asked: list[list[Query]]
) -> None:
    for batch in asked:
        assert_right(pair, batch, engine.run(batch))


@pytest.fixture
def counted(engine: FoundationEngine) -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    engine.forget()
    engine.metrics = ReuseMetrics(registry)
    yield registry
    engine.metrics = None


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    value = registry.get_sample_value(name, labels)
    assert value is not None, (name, labels)
    return value


def test_what_is_kept_is_not_computed_again_and_both_are_counted(
    engine: FoundationEngine, counted: CollectorRegistry
) -> None:
    def told() -> list[float]:
        return [
            *(sample(counted, "recast_kv_events_total", source=source) for source in ("kept", "computed")),
            *(sample(counted, "recast_kv_requests_total", kept=kept) for kept in ("all", "part", "none")),
            sample(counted, "recast_kv_idle_seconds_count"),
        ]

    assert told() == [0, 0, 0, 0, 0, 0]
    life = LIVES[0]
    steps = ((life[:40], [0, 40, 0, 0, 1, 0]), (life[:43], [40, 43, 0, 1, 1, 1]), (life[:20], [60, 43, 1, 1, 1, 2]))
    for history, expected in steps:
        engine.run([asking(5, "feed", NOW, [100, 101], history)])
        assert told() == expected
    assert sample(counted, "recast_kv_users") == 1
    assert 0 < sample(counted, "recast_kv_used_ratio") < 0.1
    engine.run([asking(6, "feed", NOW, [100], [])])  # without a history there is nothing to keep
    assert told() == steps[-1][1]
    assert sample(counted, "recast_kv_users") == 1
    engine.run([asking(5, "feed", NOW, [100], life[1:9])])
    assert sample(counted, "recast_kv_evicted_total", cause="replaced") == 1


def test_within_an_anchor_a_growing_history_is_computed_once(
    engine: FoundationEngine, counted: CollectorRegistry
) -> None:
    """The window of 97 events starts at event 24; it holds 96 again at 120, and then starts at 48."""
    life = LIVES[1]
    for count in range(90, 125):
        engine.run([asking(5, "feed", NOW, [100], life[:count])])
    computed = sample(counted, "recast_kv_events_total", source="computed")
    assert computed == 96 + (120 - 24) + (124 - 48)
    assert sample(counted, "recast_kv_evicted_total", cause="replaced") == 2


def test_a_request_is_less_work_by_what_is_kept(engine: FoundationEngine) -> None:
    engine.forget()
    asked = asking(9, "feed", NOW, [100] * 4, LIVES[0][:50])
    whole = engine.units(asked)
    engine.run([asked])
    again, longer = engine.units(asked), engine.units(replace(asked, history=past(*LIVES[0][:55])))
    assert again < longer < whole
    assert engine.units(replace(asked, history=past(*LIVES[0][:50]), candidates=[100] * 8)) > again
    moved = replace(asked, history=past(*LIVES[0][:30]))  # shorter than what is kept: it may begin elsewhere
    assert engine.units(moved) == engine.units(replace(moved, user=10))


@pytest.mark.parametrize("known", [0, 1, 30, 50])
def test_what_is_kept_is_priced_as_what_it_took_to_compute(pair: LandedPair, known: int) -> None:
    config = pair.foundation.config
    saved = forward_flops(config, 50, 4) - forward_flops(config, 50, 4, known=known)
    assert saved == forward_flops(config, known, 0)


def test_one_user_may_ask_twice_in_a_batch_with_histories_that_disagree(
    pair: LandedPair, engine: FoundationEngine
) -> None:
    engine.forget()
    asked = [asking(1, "feed", NOW, [100, 105], LIVES[life][:length]) for life, length in ((0, 40), (1, 60), (0, 41))]
    asked += [asking(1, "reels", NOW, [110]), asking(1, "reels", NOW, [], LIVES[0][:2])]
    assert_right(pair, asked[:4], engine.run(asked)[:4])
    assert engine.run(asked)[4].shape == (0, 8)


def test_a_batch_larger_than_the_room_is_answered_in_parts(pair: LandedPair, cramped: FoundationEngine) -> None:
    asked = [asking(user, "feed", NOW, [100, 105], LIVES[user % 3][: 20 + 15 * user]) for user in range(7)]
    assert_right(pair, asked, cramped.run(asked))
    assert_right(pair, asked, cramped.run([*reversed(asked)])[::-1])


def test_where_nothing_is_to_be_kept_nothing_is(pair: LandedPair) -> None:
    engine = FoundationEngine(pair.foundation_folder, pair.foundation_manifest, kv_cache_mebibytes=0)
    registry = CollectorRegistry()
    engine.metrics = ReuseMetrics(registry)
    asked = [asking(1, "feed", NOW, [100], LIVES[0][:50])]
    whole = engine.units(asked[0])
    for _ in range(2):
        assert_right(pair, asked, engine.run(asked))
        assert engine.units(asked[0]) == whole
    assert sample(registry, "recast_kv_events_total", source="kept") == 0
    assert sample(registry, "recast_kv_users") == 0


def test_what_nobody_asks_for_again_in_time_goes(pair: LandedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "UNUSED_SECONDS", 0.0)
    engine = FoundationEngine(pair.foundation_folder, pair.foundation_manifest)
    registry = CollectorRegistry()
    engine.metrics = ReuseMetrics(registry)
    for user in (1, 2):
        engine.run([asking(user, "feed", NOW, [100], LIVES[0][:50])])
    assert sample(registry, "recast_kv_evicted_total", cause="expired") == 1
    assert sample(registry, "recast_kv_users") == 1


def test_after_a_failure_nothing_half_computed_is_kept(
    pair: LandedPair, engine: FoundationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.forget()
    asked = asking(1, "feed", NOW, [100, 105], LIVES[0][:50])
    engine.run([replace(asked, history=past(*LIVES[0][:40]))])
    with monkeypatch.context() as patch:

        def failing(batch: RequestBatch, known: list[int], kept: list[KeyValues]) -> None:
            kept[0].keys.fill_(float("nan"))
            raise MemoryError

        patch.setattr(engine._model, "append_and_score", failing)
        with pytest.raises(MemoryError):
            engine.run([asked])
    assert_right(pair, [asked], engine.run([asked]))


def test_warm_up_measures_with_and_without_what_is_kept_and_leaves_nothing(engine: FoundationEngine) -> None:
    engine.forget()
    samples = engine.warm_up()
    assert len(samples) == 10
    without, kept = samples[1], samples[6]  # one full history, sixteen candidates
    assert kept.units < without.units
    asked = asking(0, "feed", NOW, [100], LIVES[0][:50])
    assert engine.units(asked) == engine.units(replace(asked, user=2**40))


def test_a_server_hands_its_limits_to_the_engine_and_refuses_what_does_not_fit(
    pair: LandedPair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = pair.foundation_manifest
    root = str(pair.foundation_folder.parent)
    served = ServedArtifact(root=root, path="fm", version=3, lineage=2, digest=manifest.digest)
    config = FoundationServerConfig(namespace="demo", model="home-fm", artifact=served, kv_cache_mebibytes=33)
    scheduler = a_scheduler()
    try:
        for limit, fits in ((100_000 * MIB, True), (20 * MIB, False)):
            monkeypatch.setattr(serve, "memory_limit", lambda limit=limit: limit)
            runtime = Runtime(Health(scheduler), scheduler, CollectorRegistry(), LoopLag())
            server = serve.FoundationServer(config, lambda: manifest, runtime)
            if not fits:
                with pytest.raises(
                    RecastError, match=r"more than the container's limit \(limitMiB 20, .*kvCacheMiB 33"
                ):
                    server.load()
                continue
            with caplog.at_level(logging.INFO, "recast.engine"):
                server.load()
            (line,) = (record for record in caplog.records if record.message == "memory")
            assert {"limitMiB": 100_000, "kvCacheMiB": 33}.items() <= vars(line)["fields"].items()
            assert sample(runtime.registry, "recast_kv_requests_total", kept="none") == 0  # warm-up is not counted
    finally:
        scheduler.close()
