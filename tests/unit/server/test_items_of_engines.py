"""Engines that learn of new items, and of others later, answer as if they had never known anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from past_events import Event, past
from prometheus_client import CollectorRegistry
from server_builders import HISTORIES, ITEMS, NOW, SURFACES, TAE_DIM, TASKS, LandedPair, land_pair

from recast_model.batch import RequestBatch
from recast_model.features import collate
from recast_model.inference import embed
from recast_model.items import ExtendedItems, ItemTable
from recast_server.expert.engine import ExpertEngine
from recast_server.expert.model_ranker import Embedded
from recast_server.expert.ranker import Ranking
from recast_server.foundation.engine import FoundationEngine
from recast_server.foundation.kv_cache import common_beginning, windows
from recast_server.foundation.reuse_metrics import ReuseMetrics
from recast_server.runtime.inputs import Query, RequestEncoder

NEW = (7, 8, 500, 600)
"""Ids before and after the version's own, which are 100 to 119."""


def new_items(*ids: int, seed: int = 1) -> ItemTable:
    content = {item: np.random.default_rng((seed, item)).normal(size=3) for item in ids}
    rows = np.array([content[item] for item in sorted(ids)], np.float32).reshape(-1, 3)
    return ItemTable(np.array(sorted(ids), np.int64), rows)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"), limit=24, layers=2)


@pytest.fixture(scope="module")
def shared(pair: LandedPair) -> FoundationEngine:
    return FoundationEngine(pair.foundation_folder, pair.foundation_manifest)


@pytest.fixture
def foundation(pair: LandedPair) -> FoundationEngine:
    return FoundationEngine(pair.foundation_folder, pair.foundation_manifest)


@pytest.fixture
def expert(pair: LandedPair) -> ExpertEngine:
    return ExpertEngine(pair.expert_folder, pair.expert_manifest, pair.served())


def life(*items: int) -> list[Event]:
    return [Event(item, SURFACES[at % 2], NOW - 90_000 + 1000 * at, ("click",)) for at, item in enumerate(items)]


def asking(user: int, candidates: list[int], *items: int) -> Query:
    return Query(user, "reels", NOW, candidates, past(*life(*items)))


def fully(pair: LandedPair, new: ItemTable, query: Query) -> NDArray[np.floating]:
    """What a network that knows these new items and keeps nothing says."""
    encoder = RequestEncoder(ExtendedItems(ITEMS, new), HISTORIES, SURFACES, TASKS)
    pair.foundation.tokens.extend(torch.from_numpy(new.content))
    batch = RequestBatch.from_arrays(collate([encoder.encode(query)], 24))
    found: NDArray[np.floating] = embed(pair.foundation, batch)[0].numpy()
    return found


def assert_close(found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(found, expected, rtol=2**-9, atol=2**-12)


known_ids = st.sampled_from([100, 105, 119, *NEW, 999])
learned = st.builds(lambda ids, seed: new_items(*ids, seed=seed), st.sets(st.sampled_from(NEW)), st.integers(1, 2))
asked = st.builds(
    lambda user, candidates, items: asking(user, candidates, *items),
    st.integers(0, 2),
    st.lists(known_ids, min_size=1, max_size=4),
    st.lists(known_ids, max_size=20),
)


@given(steps=st.lists(st.one_of(learned, asked, asked), min_size=2, max_size=10))
@settings(max_examples=60, deadline=None)
def test_whatever_an_engine_learned_between_requests_it_answers_as_one_that_kept_nothing(
    pair: LandedPair, shared: FoundationEngine, steps: list[Any]
) -> None:
    shared.extend(new := new_items())
    lives: dict[int, Query] = {}
    for step in steps:
        if isinstance(step, ItemTable):
            shared.extend(new := step)
            queries = list(lives.values())  # those whose histories are kept
        else:
            lives[step.user] = step
            queries = [step]
        for query in queries:
            assert_close(shared.run([query])[0], fully(pair, new, query))


def test_an_event_whose_item_was_unknown_is_another_once_it_is_known(
    pair: LandedPair, foundation: FoundationEngine
) -> None:
    """What is kept is found by what was encoded, so that the old rows serve up to that event."""
    query = asking(1, [100], 100, 101, 7, 102)
    seen = []
    for new in (new_items(), new_items(7, 500), new_items(8, 500)):
        encoder = RequestEncoder(ExtendedItems(ITEMS, new), HISTORIES, SURFACES, TASKS)
        seen += windows(collate([encoder.encode(query)], 24))
        foundation.extend(new)
        assert_close(foundation.run([query])[0], fully(pair, new, query))
    assert [common_beginning(one, other) for one, other in ((seen[0], seen[1]), (seen[1], seen[2]))] == [2, 2]


def test_what_is_kept_ends_before_the_first_event_of_an_item_that_may_be_another_now(
    foundation: FoundationEngine,
) -> None:
    registry = CollectorRegistry()
    foundation.metrics = ReuseMetrics(registry)
    queries = [asking(1, [100], 100, 101, 7, 102), asking(2, [100], 500, 101), asking(3, [100], *range(100, 110))]

    def computed(before: float = 0) -> float:
        return (registry.get_sample_value("recast_kv_events_total", {"source": "computed"}) or 0) - before

    foundation.extend(new_items(7, 500))
    foundation.run(queries)
    assert (before := computed()) == 16
    foundation.run(queries)
    assert computed(before) == 0
    foundation.extend(new_items(7, 500, seed=2))  # the same indices, other content
    foundation.run(queries)
    assert computed(before) == 2 + 2 + 0
    assert registry.get_sample_value("recast_kv_evicted_total", {"cause": "replaced"}) == 1


def ranked(expert: ExpertEngine, candidates: list[int], *items: int) -> Ranking:
    tae = np.zeros((len(candidates), TAE_DIM), np.float16)
    (ranking,) = expert.run([Embedded(asking(1, candidates, *items), tae)])
    return ranking


def test_new_items_score_by_their_content_and_are_unknown_no_more(
    pair: LandedPair, expert: ExpertEngine, foundation: FoundationEngine
) -> None:
    candidates = [100, 7, 500, 999, 105]
    before = ranked(expert, candidates, 100, 7, 101)
    assert before.unknown_items == [7, 500, 999]
    assert before.scores[1] == before.scores[2] == before.scores[3]
    without = ranked(expert, candidates, 100, 101)
    expert.extend(new_items(7, 500))
    after = ranked(expert, candidates, 100, 101)
    assert after.unknown_items == [999]
    assert len({*after.scores}) == 5
    assert [after.scores[place] for place in (0, 3, 4)] == [without.scores[place] for place in (0, 3, 4)]
    assert ranked(expert, candidates, 100, 7, 101).scores[0] != before.scores[0], "in histories they count, too"
    expert.extend(new_items())
    assert ranked(expert, candidates, 100, 7, 101) == before

    rows = foundation.run([asking(1, candidates, 100)])[0]
    foundation.extend(new_items(7, 500))
    extended = foundation.run([asking(1, candidates, 100)])[0]
    assert len(np.unique(rows, axis=0)) == 3
    assert len(np.unique(extended, axis=0)) == 5
    assert extended[[0, 3, 4]].tobytes() == rows[[0, 3, 4]].tobytes()


def test_what_does_not_fit_a_version_leaves_its_engines_as_they_were(
    expert: ExpertEngine, foundation: FoundationEngine
) -> None:
    wrong = ItemTable(np.array([7], np.int64), np.ones((1, 2), np.float32))
    for engine in (expert, foundation):
        engine.extend(new_items(500))
        with pytest.raises(ValueError, match="expected"):
            engine.extend(wrong)
    assert ranked(expert, [7, 500]).unknown_items == [7]
    assert foundation.run([asking(1, [7, 500], 500)])[0].shape == (2, TAE_DIM)
