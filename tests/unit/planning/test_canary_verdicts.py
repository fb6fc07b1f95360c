from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_api.resources import MetricName, MetricResult, Verdict
from recast_operator.planning.rollout import statistics
from recast_operator.planning.rollout.verdict import Counts, judge_difference, judge_share, overall

LIMITS = st.floats(1e-6, 0.99) | st.just(0.0)


@pytest.mark.parametrize(
    ("bad", "total", "limit", "verdict"),
    [
        (None, None, 0.01, Verdict.NO_DATA),
        (0, 0, 0.01, Verdict.NO_DATA),
        (None, 500, 0.01, Verdict.NO_DATA),
        (0, 299, 0.01, Verdict.INCONCLUSIVE),
        (0, 300, 0.01, Verdict.SUCCESS),
        (3, 300, 0.01, Verdict.SUCCESS),
        (4, 300, 0.01, Verdict.INCONCLUSIVE),
        (6, 300, 0.01, Verdict.INCONCLUSIVE),
        (7, 300, 0.01, Verdict.FAILURE),
        (62, 312, 0.01, Verdict.FAILURE),
        (1, 1, 0.01, Verdict.INCONCLUSIVE),
        (2, 2, 0.01, Verdict.INCONCLUSIVE),
        (3, 3, 0.01, Verdict.FAILURE),
        (0, 59, 0.05, Verdict.INCONCLUSIVE),
        (0, 60, 0.05, Verdict.SUCCESS),
        (0, 299, 0.0, Verdict.INCONCLUSIVE),
        (0, 300, 0.0, Verdict.SUCCESS),
        (3, 300, 0.0, Verdict.FAILURE),
        (5, 5, 1.0, Verdict.SUCCESS),
    ],
)
def test_a_share_is_judged_by_its_count(bad: int | None, total: int | None, limit: float, verdict: Verdict) -> None:
    assert judge_share(Counts(bad, total), limit) is verdict


@pytest.mark.parametrize(
    ("canary", "stable", "limit", "verdict"),
    [
        ((0, 0), (0, 100), 0.05, Verdict.NO_DATA),
        ((0, 100), (0, 0), 0.05, Verdict.NO_DATA),
        ((0, 100), (None, None), 0.05, Verdict.NO_DATA),
        ((0, 59), (0, 500), 0.05, Verdict.INCONCLUSIVE),
        ((0, 60), (0, 60), 0.05, Verdict.SUCCESS),
        ((0, 60), (0, 59), 0.05, Verdict.INCONCLUSIVE),
        ((50, 100), (50, 100), 0.05, Verdict.SUCCESS),
        ((8, 100), (0, 300), 0.05, Verdict.INCONCLUSIVE),
        ((40, 100), (2, 300), 0.05, Verdict.FAILURE),
        ((2, 2), (0, 300), 0.05, Verdict.INCONCLUSIVE),
    ],
)
def test_a_difference_needs_both_revisions_at_once(
    canary: tuple[int | None, int | None], stable: tuple[int | None, int | None], limit: float, verdict: Verdict
) -> None:
    assert judge_difference(Counts(*canary), Counts(*stable), limit) is verdict


@given(st.integers(0, 2000), st.integers(0, 2000), LIMITS)
def test_a_canary_without_samples_never_succeeds(bad: int, stable_total: int, limit: float) -> None:
    assert judge_share(Counts(bad, 0), limit) is Verdict.NO_DATA
    assert judge_difference(Counts(bad, 0), Counts(0, stable_total), limit) is Verdict.NO_DATA


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), LIMITS)
def test_success_means_enough_samples_and_a_share_within_the_limit(counts: tuple[int, int], limit: float) -> None:
    bad, total = counts
    if judge_share(Counts(bad, total), limit) is Verdict.SUCCESS:
        assert total >= statistics.samples_for(limit)
        assert bad / total <= limit


@given(st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total - 1), st.just(total))), LIMITS)
def test_more_bad_requests_never_make_a_verdict_better(counts: tuple[int, int], limit: float) -> None:
    order = [Verdict.SUCCESS, Verdict.INCONCLUSIVE, Verdict.FAILURE]
    bad, total = counts
    assert order.index(judge_share(Counts(bad, total), limit)) <= order.index(
        judge_share(Counts(bad + 1, total), limit)
    )


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_the_binomial_tail_is_exact(trials: int, p: float) -> None:
    for successes in range(trials + 1):
        exact = sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes, trials + 1))
        assert statistics.tail(successes, trials, p) == pytest.approx(exact, abs=1e-9)


def test_a_good_canary_is_rarely_failed_by_chance() -> None:
    p, n = 0.01, 300
    failing = next(bad for bad in range(n) if judge_share(Counts(bad, n), p) is Verdict.FAILURE)
    assert statistics.tail(failing, n, p) < 0.05


@pytest.mark.parametrize(
    ("verdicts", "expected", "verdict"),
    [
        (["Success", "Success"], 2, "Success"),
        (["Success"], 2, "NoData"),
        ([], 1, "NoData"),
        (["Success", "Inconclusive"], 2, "Inconclusive"),
        (["NoData", "Inconclusive"], 2, "NoData"),
        (["Failure", "NoData"], 2, "Failure"),
        (["Failure", "Success"], 2, "Failure"),
    ],
)
def test_all_must_succeed_and_one_failure_decides(verdicts: list[str], expected: int, verdict: str) -> None:
    results = [
        MetricResult(metric=MetricName.ERROR_RATE, verdict=Verdict(entry), time="2026-01-01T00:00:00Z")
        for entry in verdicts
    ]
    assert overall(results, expected) is Verdict(verdict)
