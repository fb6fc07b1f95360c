"""The check that nothing predicts better than the truth: what it notices, and what it must not take for a leak."""

from __future__ import annotations

import numpy as np
import pytest

from recast_api.run import RecastError
from recast_trainer.evaluation.leak import MIN_USERS, require_no_leak, sigmas_below_truth
from recast_trainer.evaluation.measure import ScoredRows

USERS, EACH = 60, 20


def world(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users (R,), true probabilities (R,) float32 and labels (R,) drawn from them."""
    random = np.random.default_rng(seed)
    truth = (1 / (1 + np.exp(-random.normal(-1, 1.5, USERS * EACH)))).astype(np.float32)
    return np.repeat(np.arange(USERS), EACH), truth, (random.random(len(truth)) < truth).astype(np.float64)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p.astype(np.float64)) - np.log1p(-p.astype(np.float64))


def scored(
    users: np.ndarray, logits: np.ndarray, labels: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> ScoredRows:
    """One task of one surface."""
    known = np.ones((len(users), 1), bool) if mask is None else mask[:, None]
    zero = np.zeros(len(users), np.int64)
    return ScoredRows(np.arange(len(users)), users, zero, zero, labels[:, None], known, logits[:, None], truth[:, None])


def test_the_truth_and_whoever_comes_close_to_it_is_no_leak_in_a_thousand_worlds() -> None:
    near = np.random.default_rng(0).normal(0, 0.05, USERS * EACH)
    found = []
    for seed in range(1000):
        users, truth, labels = world(seed)
        found.append(sigmas_below_truth(users, logit(truth) + near, truth, labels))
    assert max(found) < 4
    assert np.mean(found) < 0.1  # what is not the truth is worse than it


def test_a_model_that_has_seen_one_answer_in_five_is_found_out() -> None:
    for seed in range(20):
        users, truth, labels = world(seed)
        peeked = np.where(np.arange(len(users)) % 5 == 0, 4 * (2 * labels - 1), logit(truth))
        with pytest.raises(RecastError, match="click is predicted better than by its true probability p_click") as e:
            require_no_leak(scored(users, peeked, labels, truth), ["click"])
        assert (e.value.termination.reason, e.value.termination.retryable) == ("LabelLeak", False)


def test_a_model_that_is_far_worse_than_the_truth_is_no_leak() -> None:
    users, truth, labels = world(1)
    require_no_leak(scored(users, -3 * logit(truth), labels, truth), ["click"])


@pytest.mark.parametrize("why", ["no truth", "no labels", "no finite prediction"])
def test_rows_of_which_something_is_not_known_are_not_judged(why: str) -> None:
    users, truth, labels = world(2)
    peeked = 9 * (2 * labels - 1)
    mask = np.zeros(len(users), bool) if why == "no labels" else None
    known = np.full_like(truth, np.nan) if why == "no truth" else truth
    logits = np.full_like(peeked, np.inf) if why == "no finite prediction" else peeked
    require_no_leak(scored(users, logits, labels, known, mask), ["click"])


def test_a_truth_that_is_certain_is_taken_as_nearly_so() -> None:
    users, _, labels = world(3)
    certain = labels.astype(np.float32)
    assert abs(sigmas_below_truth(users, 20 * (2 * labels - 1), certain, labels)) < 20
    require_no_leak(scored(users, 12 * (2 * labels - 1), labels, certain), ["click"])


def test_a_few_users_tell_nothing_and_one_more_does() -> None:
    for count, judged in ((MIN_USERS - 1, False), (MIN_USERS, True)):
        users = np.arange(count)
        labels = (users % 2).astype(np.float64)
        found = sigmas_below_truth(users, 9 * (2 * labels - 1), np.full(count, 0.5, np.float32), labels)
        assert (found > 4) is judged


def test_rows_of_one_user_are_one_piece_of_evidence() -> None:
    users, truth, labels = world(4)
    peeked = logit(truth) + 0.3 * (2 * labels - 1)
    alone = sigmas_below_truth(users, peeked, truth, labels)
    doubled = sigmas_below_truth(np.tile(users, 2), np.tile(peeked, 2), np.tile(truth, 2), np.tile(labels, 2))
    assert doubled == pytest.approx(alone)
