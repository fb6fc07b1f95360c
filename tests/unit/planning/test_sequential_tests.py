"""Both error rates of a roll-out's analysis, by simulation: Bernoulli requests, a look every five seconds.

The simulation is vectorised where the arithmetic is and calls the very functions that the operator calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recast_operator.planning.rollout import statistics
from recast_operator.planning.rollout.statistics import judge_difference, judge_share, lower_share, upper_share

RUNS = 2000
LOOK, FIRST = 5, 6
BELOW_ALL = st.floats(0, 1 - 1e-9)
LIMITS = st.floats(1e-6, 0.99) | st.just(0.0)
THREE_BY_TWO = 0.05 / 6
"""What one metric of three may contribute in one of two steps."""


@dataclass(frozen=True)
class Rates:
    """Shares of all steps by how they ended, and the canary's requests until then."""

    promoted: float
    failed: float
    open: float
    requests: float


def counts(rng: np.random.Generator, rate: float, share: float, seconds: int) -> Iterator[tuple[int, int]]:
    """(bad, all) requests since the weight took effect, at each look."""
    looks = np.arange(FIRST, seconds + 1, LOOK)
    new = rng.poisson(np.diff(looks, prepend=0) * rate)
    bad = rng.binomial(new, share)
    return zip(bad.cumsum().tolist(), new.cumsum().tolist(), strict=True)


def alone(share: float, limit: float, *, rate: float, seconds: int = 600, false_worse: float = THREE_BY_TWO) -> Rates:
    """A share against a limit, over many steps that end at the first clear answer or at the deadline."""
    rng, ends = np.random.default_rng(7), []
    for _ in range(RUNS):
        for bad, total in counts(rng, rate, share, seconds):
            answer = judge_share(bad, total, limit, false_worse=false_worse, false_good=0.05)
            if answer != "open":
                break
        ends.append((answer, total))
    return rates(ends)


def beside(canary: float, stable: float, limit: float, *, rate: float, seconds: int = 600, runs: int = 100) -> Rates:
    """The same against a stable revision with three times the canary's traffic."""
    rng, ends = np.random.default_rng(11), []
    for _ in range(runs):
        theirs = counts(rng, 3 * rate, stable, seconds)
        for (bad, total), (other_bad, other_total) in zip(counts(rng, rate, canary, seconds), theirs, strict=True):
            answer = judge_difference(
                bad, total, other_bad, other_total, limit, false_worse=THREE_BY_TWO, false_good=0.05
            )
            if answer != "open":
                break
        ends.append((answer, total))
    return rates(ends)


def rates(ends: list[tuple[str, int]]) -> Rates:
    share = {kind: sum(end == kind for end, _ in ends) / len(ends) for kind in ("good", "worse", "open")}
    return Rates(share["good"], share["worse"], share["open"], float(np.mean([total for _, total in ends])))


@pytest.mark.parametrize(("rate", "limit"), [(5, 0.01), (50, 0.01), (3, 0.05), (50, 0.05), (3, 0.1)])
def test_a_revision_at_its_limit_is_failed_and_one_at_twice_of_it_promoted_once_in_twenty_at_most(
    rate: float, limit: float
) -> None:
    at_limit, at_twice = alone(limit, limit, rate=rate), alone(2 * limit, limit, rate=rate)
    assert at_limit.failed <= THREE_BY_TWO + 0.006, "three standard errors above what one of six may contribute"
    assert at_twice.promoted <= 0.05 + 0.015
    assert at_limit.promoted >= 0.9, "the promise is not kept by deciding nothing"
    assert at_twice.failed >= 0.9


@pytest.mark.parametrize(
    ("share", "least_failed", "most_promoted"),
    [(0.01, 0.0, 1.0), (0.015, 0.2, 0.5), (0.02, 0.9, 0.07), (0.03, 0.98, 0.01), (0.05, 1.0, 0.0)],
)
def test_five_requests_a_second_and_a_limit_of_one_percent(
    share: float, least_failed: float, most_promoted: float
) -> None:
    """A test for one look, looked at as often, promotes 39 % at 1.5 % and 15 % at 2 %, and fails 15 % at the limit."""
    seen = alone(share, 0.01, rate=5)
    assert seen.failed >= least_failed
    assert seen.promoted <= most_promoted
    if share == 0.01:
        assert seen.failed <= 0.02


def test_the_union_over_metrics_and_steps_keeps_the_promise_of_a_whole_roll_out() -> None:
    """Three metrics at their limits, two steps: one roll-out fails where any of the six does."""
    rng, failed, rollouts = np.random.default_rng(3), 0, 150
    for _ in range(rollouts):
        answers = []
        for limit in (0.05, 0.05, 0.1) * 2:
            for bad, total in counts(rng, 12, limit, 300):
                answer = judge_share(bad, total, limit, false_worse=THREE_BY_TWO, false_good=0.05)
                if answer != "open":
                    break
            answers.append(answer)
        failed += "worse" in answers
    assert failed / rollouts <= 0.05


@pytest.mark.parametrize("stable", [0.01, 0.1, 0.4], ids=["stable-good", "stable-middling", "stable-itself-bad"])
@pytest.mark.parametrize("limit", [0.05, 0.25])
def test_a_comparison_with_stable_keeps_both_promises_whatever_stable_does(limit: float, stable: float) -> None:
    at_limit, at_twice = (
        beside(stable + times * limit, stable, limit, rate=20, seconds=120, runs=40) for times in (1, 2)
    )
    assert at_limit.failed <= 0.05
    assert at_twice.promoted <= 0.05
    equal = beside(stable, stable, limit, rate=20, seconds=120, runs=40)
    assert (equal.promoted, equal.failed) == (1.0, 0.0), "a canary like stable passes, bad as stable may be"


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 308), (0.005, 470), (0.01, 980), (0.02, 1200), (0.05, 218)], ids=str
)
def test_the_price_in_requests_is_what_the_docs_say(share: float, expected: float) -> None:
    assert alone(share, 0.01, rate=5).requests == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
    ("limit", "false_good", "needed"),
    [
        (0.001, 0.05, 2992),
        (0.01, 0.05, 296),
        (0.05, 0.05, 56),
        (0.1, 0.05, 26),
        (0.02, 0.025, 179),
        (0.05, 0.025, 69),
        (0.25, 0.025, 10),
        (0.0, 0.05, 299),
        (1e-6, 0.05, 2995728),
        (1.0, 0.05, 1),
        (2.5, 0.05, 1),
    ],
)
def test_a_clean_canary_succeeds_with_exactly_the_requests_that_status_names(
    limit: float, false_good: float, needed: int
) -> None:
    assert statistics.requests_needed(limit, false_good) == needed
    answer = judge_share(0, needed, limit, false_worse=0.01, false_good=false_good)
    assert answer == "good"
    if needed > 1:
        assert judge_share(0, needed - 1, limit, false_worse=0.01, false_good=false_good) == "open"


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.25, 0.6])
def test_beside_a_stable_revision_it_takes_as_many_with_half_of_the_doubt(limit: float) -> None:
    needed = statistics.requests_needed(limit, 0.025)
    for total, answer in ((needed, "good"), (needed - 1, "open")):
        assert judge_difference(0, total, 0, 10**6, limit, false_worse=0.01, false_good=0.05) == answer


@pytest.mark.parametrize(
    ("bad", "total", "answer"),
    [(0, 298, "open"), (0, 299, "good"), (1, 2, "worse"), (1, 10**9, "worse")],
)
def test_a_limit_of_zero_allows_not_one_and_rules_out_one_percent(bad: int, total: int, answer: str) -> None:
    assert judge_share(bad, total, 0.0, false_worse=0.01, false_good=0.05) == answer


def test_a_tiny_limit_is_judged_by_as_many_requests_as_it_takes() -> None:
    tiny = {"false_worse": 0.01, "false_good": 0.05}
    assert judge_share(0, 1000, 1e-6, **tiny) == "open"
    assert judge_share(6, 1000, 1e-6, **tiny) == "open"
    assert judge_share(7, 1000, 1e-6, **tiny) == "worse", "each doubles the odds, and it takes 100 to 1"
    assert judge_share(2, 10**7, 1e-6, **tiny) == "good"


def test_few_requests_never_fail_a_canary_and_a_total_outage_soon_does() -> None:
    answers = [judge_share(n, n, 0.01, false_worse=THREE_BY_TWO, false_good=0.05) for n in range(1, 9)]
    assert answers == ["open"] * 6 + ["worse"] * 2


def test_nothing_is_worse_than_a_limit_of_all() -> None:
    for limit in (1.0, 3.0):
        assert judge_share(50, 50, limit, false_worse=0.01, false_good=0.05) == "good"
        assert judge_difference(50, 50, 0, 50, limit, false_worse=0.01, false_good=0.05) == "good"
    assert judge_difference(500, 500, 480, 500, 0.25, false_worse=0.01, false_good=0.05) == "good"


def test_the_unacceptable_is_twice_the_limit_or_half_way_to_all() -> None:
    assert statistics.unacceptable(0.01, 0.01) == 0.02
    assert statistics.unacceptable(0.5, 0.5) == 0.75
    assert statistics.unacceptable(0.0, statistics.margin(0.0)) == 0.01
    assert statistics.margin(0.04) == 0.04


def test_a_comparison_without_requests_of_stable_decides_nothing_bad() -> None:
    assert judge_difference(100, 100, 0, 0, 0.05, false_worse=0.01, false_good=0.05) == "open"
    assert upper_share(0, 0, 0.05) == 1.0
    assert lower_share(0, 0, 0.05) == 0.0


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total - 1), st.just(total))), LIMITS)
def test_more_bad_requests_never_make_an_answer_better(seen: tuple[int, int], limit: float) -> None:
    order, (bad, total) = ["good", "open", "worse"], seen
    answers = [judge_share(b, total, limit, false_worse=0.01, false_good=0.05) for b in (bad, bad + 1)]
    assert order.index(answers[0]) <= order.index(answers[1])


@given(
    st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))),
    BELOW_ALL,
    BELOW_ALL,
    st.floats(1e-4, 1),
)
@example((1, 10), 0.0, 0.5, 0.2)
@example((0, 1), 0.0, 5e-324, 1.0)
def test_the_evidence_against_a_canary_falls_as_its_limit_rises(
    seen: tuple[int, int], one: float, two: float, margin: float
) -> None:
    """What lets the edge of stable's confidence sequence stand for its unknown share."""
    low, high = sorted((one, two))
    evidence = [statistics._evidence(*seen, limit, margin) for limit in (low, high)]
    assert evidence[1] <= evidence[0] + 1e-6 * (1 + abs(evidence[1]))


def test_a_limit_a_hair_below_all_is_no_error() -> None:
    assert judge_share(5, 5, math.nextafter(1, 0), false_worse=0.01, false_good=0.05) == "open"
    assert judge_difference(5, 5, 4, 5, math.nextafter(1, 0), false_worse=0.01, false_good=0.05) == "good"


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_a_confidence_sequence_holds_the_share_that_was_seen_and_narrows(seen: tuple[int, int]) -> None:
    bad, total = seen
    low, high = lower_share(bad, total, 0.05), upper_share(bad, total, 0.05)
    assert 0 <= low <= bad / total <= high <= 1
    assert upper_share(100 * bad, 100 * total, 0.05) <= high
    assert lower_share(100 * bad, 100 * total, 0.05) >= low
    assert upper_share(bad, total, 0.01) >= high


def test_the_confidence_sequence_covers_the_truth_at_all_looks_together() -> None:
    rng, missed, runs = np.random.default_rng(5), 0, 200
    for _ in range(runs):
        missed += any(
            not lower_share(bad, total, 0.2) <= 0.1 <= upper_share(bad, total, 0.2)
            for bad, total in counts(rng, 20, 0.1, 300)
            if total
        )
    assert 0 < missed / runs <= 0.2, "over sixty looks"


def test_the_edge_of_the_sequence_is_where_the_mixture_outweighs_the_share_by_the_doubt() -> None:
    bad, total, doubt = 7, 100, 0.05
    for edge in (lower_share(bad, total, doubt), upper_share(bad, total, doubt)):
        grid = (np.arange(200_000) + 0.5) / 200_000
        density = 1 / (math.pi * np.sqrt(grid * (1 - grid)))
        mixture = float(np.mean(density * (grid / edge) ** bad * ((1 - grid) / (1 - edge)) ** (total - bad)))
        assert mixture == pytest.approx(1 / doubt, rel=1e-3)
        assert statistics._against(edge, bad, total) >= math.log(1 / doubt), "never a hair too narrow"


@pytest.mark.parametrize("stable", [(0, 300), (30, 300), (3000, 30000)])
@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_sequence_and_test_of_a_comparison_get_half_of_the_doubt_each(stable: tuple[int, int], limit: float) -> None:
    """The first count that is worse and the last that is good, by the formulas of the docs."""
    total, doubt = 1000, {"false_worse": 0.01, "false_good": 0.05}

    def evidence(bad: int, at: float) -> float:
        return bad * math.log((at + limit) / at) + (total - bad) * math.log((1 - at - limit) / (1 - at))

    high, low = upper_share(*stable, 0.005) + limit, lower_share(*stable, 0.025) + limit
    worse = next(bad for bad in range(total) if evidence(bad, high) >= math.log(1 / 0.005))
    good = next(bad for bad in reversed(range(total)) if -evidence(bad, low) >= math.log(1 / 0.025))
    answers = [judge_difference(bad, total, *stable, limit, **doubt) for bad in (worse - 1, worse, good, good + 1)]
    assert answers == ["open", "worse", "good", "open"]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_a_judgement_costs_as_much_at_a_billion_requests_as_at_a_hundred(
    scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = 0

    class Counting:
        def __getattr__(self, name: str) -> object:
            nonlocal work
            work += 1
            return getattr(math, name)

    monkeypatch.setattr(statistics, "math", Counting())
    answer = judge_difference(60 * scale, 100 * scale, 10 * scale, 300 * scale, 0.05, false_worse=0.01, false_good=0.05)
    judge_share(60 * scale, 100 * scale, 0.05, false_worse=0.01, false_good=0.05)
    assert answer == "worse"
    assert work <= 8 * 2 * statistics.BISECTIONS
