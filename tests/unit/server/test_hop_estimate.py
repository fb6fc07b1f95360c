"""How long the foundation will take for one request more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_server.expert.hop import HopEstimate


def steady(estimate: HopEstimate, beside: int, seconds: float, calls: int = 200) -> None:
    """So many calls, each as one of ``beside``."""
    for _ in range(calls):
        estimate.under_way = beside - 1
        estimate.end(estimate.begin(), seconds)
    estimate.under_way = 0


def test_a_foundation_that_was_never_asked_is_thought_to_take_no_time() -> None:
    assert HopEstimate().seconds == 0.0


def test_what_many_wait_for_together_is_not_what_one_waits_for_alone() -> None:
    estimate = HopEstimate()
    steady(estimate, beside=10, seconds=0.1)
    assert estimate.seconds == pytest.approx(0.01, rel=0.01)
    estimate.under_way = 9
    assert estimate.seconds == pytest.approx(0.1, rel=0.01)


def test_a_foundation_that_recovers_is_believed_again() -> None:
    estimate = HopEstimate()
    steady(estimate, beside=1, seconds=5.0)
    steady(estimate, beside=1, seconds=0.002, calls=300)
    assert estimate.seconds == pytest.approx(0.002, rel=0.01)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=60))
def test_calls_under_way_are_those_that_began_and_did_not_end(steps: list[tuple[bool, float]]) -> None:
    estimate, open_calls = HopEstimate(), []
    for begins, seconds in steps:
        if begins:
            open_calls.append(estimate.begin())
        elif open_calls:
            estimate.end(open_calls.pop(), seconds)
        assert estimate.under_way == len(open_calls)
        assert estimate.seconds >= 0
