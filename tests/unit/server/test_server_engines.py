"""From a checked request to scores: what each server's engine reads of it, against the networks themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from past_events import Event, past
from server_builders import HISTORIES, ITEMS, LIMIT, NOW, SURFACES, TAE_DIM, TASKS, LandedPair, land_pair

from recast_api.resources.expert import Task
from recast_api.run import RecastError
from recast_model.batch import RequestBatch
from recast_model.features import Request, collate
from recast_model.history import History
from recast_server.expert.engine import ExpertEngine
from recast_server.expert.model_ranker import Embedded
from recast_server.expert.ranker import Ranking
from recast_server.foundation.engine import FoundationEngine
from recast_server.foundation.service import CANDIDATES
from recast_server.runtime.inputs import Query, RequestEncoder

ENCODER = RequestEncoder(ITEMS, HISTORIES, SURFACES, TASKS)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def foundation(pair: LandedPair) -> FoundationEngine:
    return FoundationEngine(pair.foundation_folder, pair.foundation_manifest)


@pytest.fixture(scope="module")
def expert(pair: LandedPair) -> ExpertEngine:
    return ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served())


def events_of(history: History) -> list[tuple[int, int, int, int]]:
    columns = (history.items, history.surfaces, history.actions, history.times)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_request_without_history_of_its_own_reads_the_stored_one() -> None:
    found = ENCODER.encode(Query(1, "reels", NOW, [119, 100, 7]))
    assert events_of(found.history) == events_of(HISTORIES.lookup(1))
    assert (found.user, found.surface, found.time) == (1, 1, NOW)
    assert found.candidates.tolist() == [20, 1, 0]
    assert events_of(ENCODER.encode(Query(77, "feed", NOW, [100])).history) == []


def seen(request: Request) -> list[tuple[int, int, int, int]]:
    """What the request's window holds, in its order."""
    batch = collate([request], 64)
    columns = (batch.history_items, batch.history_surfaces, batch.history_actions, batch.history_times)
    return list(zip(*(column[0].tolist() for column in columns), strict=True))


def test_an_inline_history_stands_in_even_when_it_is_empty_and_is_read_in_order_of_time() -> None:
    inline = past(
        Event(101, "reels", NOW - 5, ("share", "click")),
        Event(999, "feed", NOW - 9, ("like",)),
        Event(100, "stories", NOW - 7, ("click",)),  # a surface of a newer release
        Event(102, "feed", NOW - 6, ("poke", "like", "like")),  # so is this action
    )
    found = ENCODER.encode(Query(1, "feed", NOW, [100], inline))
    assert seen(found) == [(0, 0, 0b010, NOW - 9), (3, 0, 0b010, NOW - 6), (2, 1, 0b101, NOW - 5)]
    assert seen(ENCODER.encode(Query(1, "feed", NOW, [100], past()))) == []


@pytest.mark.parametrize("inline", [False, True], ids=["stored", "inline"])
def test_what_was_not_known_before_a_request_is_no_history_of_it(inline: bool) -> None:
    """Stored events become known a second after they happen, inline ones at once: at its own instant none is past."""
    ages = (60, 50, 40, 30, 20, 10)
    events = past(*(Event(100 + place, "feed", NOW - 1000 * age, ()) for place, age in enumerate(ages)))
    for now, count in ((NOW - 29_001, 3 + inline), (NOW - 29_000, 3 + inline), (NOW - 28_999, 4)):
        found = ENCODER.encode(Query(1, "feed", now, [100], events if inline else None))
        assert [time for *_, time in seen(found)] == [NOW - 1000 * age for age in ages[:count]]
    assert len(seen(ENCODER.encode(Query(1, "feed", NOW - 60_000, [100], events)))) == 0


def test_an_inline_event_counts_from_when_it_became_known_and_stands_there() -> None:
    late = Event(101, "feed", NOW - 9000, (), NOW - 2000)
    soon = Event(102, "feed", NOW - 5000, ())
    early = Event(103, "feed", NOW - 1000, (), NOW - 50_000)  # nothing is known before it happens
    assert [item for item, *_ in seen(ENCODER.encode(Query(1, "feed", NOW, [100], past(late, soon, early))))] == [
        3,
        2,
        4,
    ]
    assert [
        item for item, *_ in seen(ENCODER.encode(Query(1, "feed", NOW - 2000, [100], past(late, soon, early))))
    ] == [3]


def test_unknown_candidates_are_told_once_each_in_the_order_asked() -> None:
    candidates = [7, 100, 9, 7, 8]
    dense = ENCODER.encode(Query(1, "feed", NOW, candidates, past())).candidates
    assert RequestEncoder.unknown_items(candidates, dense) == [7, 9, 8]


def batch_of(history: History, candidates: list[int], surface: int) -> RequestBatch:
    return RequestBatch.from_arrays(
        collate([Request(1, surface, NOW, ITEMS.index(np.array(candidates)), history)], LIMIT)
    )


def test_the_foundation_answers_with_its_networks_embedding_of_the_window(
    pair: LandedPair, foundation: FoundationEngine
) -> None:
    (rows,) = foundation.run([Query(1, "reels", NOW, [105, 100])])
    window = HISTORIES.lookup(1).take(slice(2, None))  # six events, a limit of four
    with torch.no_grad():
        expected = pair.foundation.tae(batch_of(window, [105, 100], 1))[0].half().numpy()
    assert rows.dtype == np.float16
    assert rows.flags.c_contiguous
    assert rows.tobytes() == expected.tobytes()
    (other,) = foundation.run([Query(1, "reels", NOW, [105, 100], past())])
    assert other.tobytes() != rows.tobytes()


def ranked(
    engine: ExpertEngine,
    candidates: list[int],
    tae: np.ndarray[Any, np.dtype[np.float16]] | None = None,
    history: Sequence[Event] | None = None,
) -> Ranking:
    (found,) = engine.run([Embedded(Query(1, "reels", NOW, candidates, history), tae)])
    return found


def test_the_foundation_says_what_it_is(pair: LandedPair, foundation: FoundationEngine) -> None:
    told, manifest = foundation.metadata, pair.foundation_manifest
    assert (told.model, told.version, told.lineage, told.digest) == ("home-fm", 3, 2, manifest.digest)
    assert (told.dim, told.dtype, told.surfaces, told.tasks) == (TAE_DIM, np.dtype(np.float16), SURFACES, TASKS)
    assert told.wire_version.number == 3
    assert told.wire_version.lineage == 2


@pytest.mark.parametrize("fresh", [True, False])
def test_an_expert_scores_with_its_own_surfaces_history_and_the_resources_weights(
    pair: LandedPair, expert: ExpertEngine, fresh: bool
) -> None:
    tae = np.random.default_rng(3).normal(size=(3, TAE_DIM)).astype(np.float16)
    candidates = [105, 7, 100]
    found = ranked(expert, candidates, tae if fresh else None)
    own = HISTORIES.lookup(1).take(np.array([1, 2, 4, 5]))  # those on reels
    given = torch.from_numpy(tae).float()[None] if fresh else torch.zeros(1, 3, TAE_DIM)
    with torch.no_grad():
        logits = pair.expert(batch_of(own, candidates, 1), given, torch.tensor([fresh]))[0]
    p = torch.sigmoid(logits).double()
    assert found.probabilities == {"click": p[:, 0].tolist(), "like": p[:, 1].tolist()}
    # As the resource has them now: click 1, like a quarter. As trained, both were 9.
    np.testing.assert_allclose(found.scores, (p[:, 0] + 0.25 * p[:, 1]).numpy(), rtol=1e-12)
    assert found.tae == ("fresh" if fresh else "absent")
    assert found.unknown_items == [7]
    assert found.finite


def test_a_task_that_the_resource_no_longer_names_keeps_the_weight_it_was_trained_with(pair: LandedPair) -> None:
    engine = ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served(tasks=[Task(name="like")]))
    found = ranked(engine, [105])
    expected = 9 * found.probabilities["click"][0] + found.probabilities["like"][0]
    assert found.scores == [pytest.approx(expected, rel=1e-12)]


def test_an_inline_history_reaches_the_expert_with_its_actions_and_times(expert: ExpertEngine) -> None:
    event = Event(103, "reels", NOW - 60_000, ["like"])

    def scores(*events: Event) -> list[float]:
        return ranked(expert, [105], history=past(*events)).scores

    base = scores(event)
    changes = ({"item": 104}, {"time_ms": NOW - 3_600_000}, {"actions": ["click"]}, {"surface": "feed"})
    for change in changes:
        assert scores(replace(event, **change)) != base, change
    assert scores(replace(event, surface="feed")) == scores()  # not this expert's surface


def test_a_version_of_another_surface_is_refused_and_both_are_named(pair: LandedPair) -> None:
    with pytest.raises(RecastError, match="configured for surface feed, but v7 was trained on reels") as raised:
        ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served(surface="feed"))
    assert raised.value.termination.reason == "SurfaceMismatch"


def test_warm_up_meets_the_smallest_and_the_largest_request(
    foundation: FoundationEngine, expert: ExpertEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in (foundation, expert):
        sizes: set[tuple[int, int, int]] = set()
        run = engine.run

        def watched(batch: Sequence[Any], run: Any = run, sizes: Any = sizes) -> Any:
            queries = [getattr(one, "query", one) for one in batch]
            sizes |= {(len(batch), len(query.history), len(query.candidates)) for query in queries}
            return run(batch)

        monkeypatch.setattr(engine, "run", watched)
        samples = engine.warm_up()
        assert {(1, 0, 1), (1, LIMIT, CANDIDATES), (8, LIMIT, 16)} <= sizes
        assert all(sample.seconds > 0 and sample.units > 0 for sample in samples)
        assert {sample.requests for sample in samples} == {1, 8}


def test_requests_of_a_batch_are_answered_as_if_alone(foundation: FoundationEngine, expert: ExpertEngine) -> None:
    own = past(Event(103, "reels", NOW - 60_000, ["like"]))
    queries = [
        Query(1, "reels", NOW, [105, 100, 7]),
        Query(2, "reels", NOW, [100]),
        Query(77, "reels", NOW - 30_000, [101, 102], own),
    ]
    together = foundation.run(queries)
    for query, rows in zip(queries, together, strict=True):
        (alone,) = foundation.run([query])
        assert rows.shape == alone.shape == (len(query.candidates), TAE_DIM)
        np.testing.assert_allclose(rows, alone, atol=2e-3)
    asked = [Embedded(queries[0], together[0]), Embedded(queries[1]), Embedded(queries[2], together[2])]
    for one, ranking in zip(asked, expert.run(asked), strict=True):
        (single,) = expert.run([one])
        np.testing.assert_allclose(ranking.scores, single.scores, rtol=1e-5)
        assert (ranking.tae, ranking.unknown_items) == (single.tae, single.unknown_items)
        assert {task: len(values) for task, values in ranking.probabilities.items()} == {
            "click": len(one.query.candidates), "like": len(one.query.candidates),
        }  # fmt: skip


def test_embeddings_too_large_for_the_network_are_none_to_it_and_to_it_alone(expert: ExpertEngine) -> None:
    query = Query(1, "reels", NOW, [105, 100])
    wild, tame = np.full((2, TAE_DIM), 3e38, np.float32), np.ones((2, TAE_DIM), np.float32)
    absent, fresh = expert.run([Embedded(query, wild), Embedded(query, tame)])
    assert (absent.tae, fresh.tae) == ("absent", "fresh")
    assert absent.scores == pytest.approx(ranked(expert, [105, 100]).scores, rel=1e-5)
    assert fresh.finite


def test_a_request_is_as_much_work_as_its_history_and_candidates(
    foundation: FoundationEngine, expert: ExpertEngine
) -> None:
    event = Event(103, "reels", NOW - 60_000, ["like"])
    small, shown, longer = (
        Query(77, "reels", NOW, [100]),
        Query(77, "reels", NOW, [100] * 9),
        Query(77, "reels", NOW, [100], past(event, event)),
    )  # fmt: skip
    for units in (foundation.units, lambda query: expert.units(Embedded(query))):
        assert units(small) < units(longer)
        assert units(small) < units(shown)
        beyond = replace(longer, history=past(*[event] * 2 * LIMIT))
        assert units(beyond) == units(replace(longer, history=past(*[event] * LIMIT)))  # no more is read
    assert foundation.units(replace(small, user=1)) > foundation.units(small)  # who has a stored history
    assert foundation.shape(shown) == foundation.shape(small)  # it pads nothing
    padded = [Embedded(replace(shown, candidates=[1] * count)) for count in (9, 16, 1)]
    assert expert.shape(padded[0]) == expert.shape(padded[1]) != expert.shape(padded[2])


def test_scores_that_are_not_finite_are_known_as_such(expert: ExpertEngine) -> None:
    found = ranked(expert, [105, 106])
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert not replace(found, scores=[0.5, bad]).finite
