"""What of an answer the log keeps: what was returned as it was returned, and a sample of the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_builders import a_context

from recast_server.answer_log.answer import Answer, sampled
from recast_server.answer_log.ranker import LoggedRanker
from recast_server.expert.ranker import Basis, Ranking, presented
from recast_server.expert.schema import RankRequest
from recast_server.expert.tae_client import ServedFoundation
from recast_server.runtime.context import RequestContext

SERVED = ServedFoundation("home-fm", 3, 2, "sha256:" + "ab" * 32, 4)
IDS = st.text("abcdefghij0123456789._:-", min_size=1, max_size=64)


def ranking(scores: list[float], rung: str = "fresh", dtype: type = np.float16) -> Ranking:
    tae = np.arange(4 * len(scores)).reshape(-1, 4).astype(dtype)
    basis = Basis(777, None) if rung == "absent" else Basis(777, tae, SERVED if rung == "fresh" else None, 55)
    return Ranking(scores, {"click": scores, "like": [1 - s for s in scores]}, [], rung, basis=basis)


def logged(found: Ranking, request_id: str = "request-1", share: float = 0.5, **asked: object) -> Answer:
    candidates = [100 + n for n in range(len(found.scores))]
    request = RankRequest.model_validate({"user": 5, "candidates": candidates} | asked)
    return Answer.of(request, request_id, found, ["click", "like"], share, 888)


def test_what_was_returned_is_there_in_its_order_and_then_some_of_the_rest() -> None:
    scores = [0.1, 0.9, 0.5, 0.9, 0.3, 0.2]
    found = logged(ranking(scores), limit=3, share=1.0)
    assert found.items.tolist() == [101, 103, 102, 100, 104, 105]  # of equals the one that was asked first
    assert found.positions.tolist() == [0, 1, 2, -1, -1, -1]
    assert found.propensities.tolist() == [1, 1, 1, 1, 1, 1]
    assert found.scores.tolist() == [0.9, 0.9, 0.5, 0.1, 0.3, 0.2]
    np.testing.assert_allclose(found.probabilities[:, 1], 1 - found.scores, atol=1e-7)
    assert found.tae is not None
    assert found.tae[:, 0].tolist() == [4, 12, 8, 0, 16, 20]
    assert (found.user, found.candidates, found.time_ms, found.answered_ms) == (5, 6, 777, 888)
    assert (found.foundation_version, found.foundation_digest, found.foundation_cursor_ms) == (3, SERVED.digest, 55)
    assert logged(ranking(scores), limit=2, share=0.0).items.tolist() == [101, 103]
    assert logged(ranking(scores), share=0.0).positions.tolist() == [0, 1, 2, 3, 4, 5]  # without a limit all are


@given(IDS, st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=60, unique=True), st.randoms())
def test_a_retry_keeps_the_same_ones_whatever_their_order(request_id: str, items: list[int], random: object) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = dict(zip(items, sampled(request_id, np.array(items), 0.3).tolist(), strict=True))
    again = dict(zip(shuffled, sampled(request_id, np.array(shuffled), 0.3).tolist(), strict=True))
    assert first == again
    more = sampled(request_id, np.array(items), 0.6)
    assert all(more[place] for place, item in enumerate(items) if first[item])  # a larger share has the smaller's


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_each_of_the_rest_is_kept_as_often_as_its_propensity_says(share: float) -> None:
    """Over requests for one item, over items of one request, and of two items of a request independently."""
    one = np.array([[sampled(f"r{n}", np.array([7, 8]), share)] for n in range(4000)]).reshape(-1, 2)
    many = sampled("r", np.arange(40_000), share)
    wide = 4.5 * (share * (1 - share)) ** 0.5
    assert abs(one.mean(0) - share).max() < wide / 4000**0.5
    assert abs(many.mean() - share) < wide / 40_000**0.5
    assert abs((one[:, 0] & one[:, 1]).mean() - share**2) < 4.5 * share / 4000**0.5
    found = logged(ranking([0.5] * 200), limit=1, share=share)
    assert found.propensities.tolist() == [1.0, *[np.float32(share)] * (len(found.items) - 1)]


@pytest.mark.parametrize(
    ("found", "there"),
    [
        (ranking([0.2, 0.1]), True),
        (ranking([0.2, 0.1], "cached"), True),
        (ranking([0.2, 0.1], "absent"), False),
        (ranking([0.2, 0.1], dtype=np.float32), False),  # rounded, it would not be what the network read
        (Ranking([0.2, 0.1], {}, [], "fresh"), False),  # of one's own ranker
    ],
    ids=["fresh", "cached", "absent", "float32", "another-ranker"],
)
def test_the_log_has_what_the_network_read_or_nothing(found: Ranking, there: bool) -> None:
    kept = logged(found, share=0.0)
    assert (kept.tae is not None) == there
    if there:
        assert found.basis is not None
        assert found.basis.tae is not None
        assert kept.tae is not None
        assert kept.tae.tobytes() == found.basis.tae.tobytes()
    assert (kept.foundation_digest is not None) == (found.tae == "fresh" and found.basis is not None)


def test_an_answer_that_a_wrapped_ranker_made_of_nothing_is_logged_as_far_as_it_goes() -> None:
    kept = logged(Ranking([0.2, 0.1], {"like": [0.3, 0.4]}, [], "absent"), share=0.0, time=123)
    assert np.isnan(kept.probabilities[:, 0]).all()
    assert kept.probabilities[:, 1].tolist() == [np.float32(0.3), np.float32(0.4)]
    assert kept.time_ms == 123


class Scripted:
    def __init__(self, found: Ranking) -> None:
        self.found = found

    async def rank(self, request: RankRequest, context: RequestContext) -> Ranking:
        return self.found


async def test_what_is_returned_is_what_is_logged_and_a_log_that_fails_costs_no_answer() -> None:
    taken: list[Answer] = []
    request = RankRequest(user=1, candidates=[4, 5, 6], limit=2)
    found = ranking([0.1, 0.3, 0.2])
    context = a_context()
    assert await LoggedRanker(Scripted(found), taken.append, ["click"], 0.0).rank(request, context) is found
    (kept,) = taken
    assert kept.request_id == context.request_id
    assert kept.items.tolist() == [request.candidates[row] for row in presented(found.scores, request.limit)]

    def fails(_: Answer) -> None:
        raise RuntimeError("no log")

    assert await LoggedRanker(Scripted(found), fails, ["click"], 0.0).rank(request, context) is found
    short = ranking([0.1] * 2)  # of fewer candidates than were asked
    assert await LoggedRanker(Scripted(short), taken.append, ["click"], 0.5).rank(request, context) is short
