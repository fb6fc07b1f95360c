from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_api.resources import Step
from recast_operator.planning.rollout.steps import percent, plan_steps, split, stable_target, step_at


@pytest.mark.parametrize(
    ("replicas", "weight", "expected"),
    [
        (4, 25, (1, 3)), (4, 50, (2, 2)), (4, 100, (4, 0)), (4, 99, (3, 1)), (4, 1, (1, 3)), (4, 37, (1, 3)),
        (4, 38, (2, 2)), (2, 25, (1, 1)), (2, 75, (1, 1)), (2, 100, (2, 0)), (1, 25, (1, 1)), (1, 100, (1, 0)),
        (10, 25, (3, 7)), (100, 1, (1, 99)),
    ],
)  # fmt: skip
def test_a_weight_is_a_number_of_pods_rounded_half_up(replicas: int, weight: int, expected: tuple[int, int]) -> None:
    assert split(replicas, weight) == expected


@given(st.integers(1, 1000), st.integers(1, 99))
def test_below_full_weight_both_tracks_keep_a_pod(replicas: int, weight: int) -> None:
    canary, stable = split(replicas, weight)
    assert canary >= 1
    assert stable >= 1
    assert canary + stable == max(replicas, 2)


@given(st.integers(1, 60), st.lists(st.integers(1, 100), min_size=1, max_size=16))
def test_steps_that_come_to_the_same_pods_are_merged_and_no_pause_is_lost(replicas: int, weights: list[int]) -> None:
    steps = [Step(set_weight=weight, pause="7s") for weight in sorted(weights)]
    planned = plan_steps(steps, replicas)
    pods = [entry.canary for entry in planned]
    assert pods == sorted(pods)
    assert sum(entry.pause_seconds for entry in planned) == 7 * len(steps)
    assert sorted(weight for entry in planned for weight in (entry.merged or (entry.asked,))) == sorted(weights)


def test_two_replicas_say_twenty_five_and_fifty_percent_alike() -> None:
    (only,) = plan_steps([Step(set_weight=25), Step(set_weight=50)], 2)
    assert (only.canary, only.weight, only.merged) == (1, 50, (25, 50))


def test_a_step_is_found_again_by_what_was_asked_after_the_replica_count_has_changed() -> None:
    steps = [Step(set_weight=25), Step(set_weight=50), Step(set_weight=75)]
    assert step_at(plan_steps(steps, 4), 50) == 1
    assert step_at(plan_steps(steps, 2), 50) == 0
    assert step_at(plan_steps(steps, 4), 100) == 2, "a step that is gone is the last one, never promotion"


@pytest.mark.parametrize(("ready", "expected"), [(0, 4), (1, 3), (2, 2), (9, 2)])
def test_stable_shrinks_by_the_ready_canary_pods_only(ready: int, expected: int) -> None:
    assert stable_target(4, 2, ready, stable_floor=2) == expected


@given(st.integers(1, 50), st.integers(1, 99), st.integers(0, 60))
def test_stable_and_ready_canary_pods_never_come_to_less_than_all(replicas: int, weight: int, ready: int) -> None:
    canary, floor = split(replicas, weight)
    assert stable_target(replicas, canary, ready, stable_floor=floor) + min(ready, canary) >= replicas


@pytest.mark.parametrize(("part", "whole", "expected"), [(1, 3, 33), (2, 3, 67), (1, 8, 13), (0, 0, 0), (4, 4, 100)])
def test_percentages_round_half_up(part: int, whole: int, expected: int) -> None:
    assert percent(part, whole) == expected
