from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recast_api.resources import Step
from recast_operator.planning.rollout.steps import PlannedStep, step_at
from recast_operator.planning.rollout.traffic import Endpoints, ReplicaRatio, Target, percent, shares, split


def plan_steps(steps: list[Step], replicas: int) -> tuple[PlannedStep, ...]:
    return ReplicaRatio().plan(steps, replicas)


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


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 99))
def test_below_full_weight_both_tracks_keep_a_pod(replicas: int, weight: int) -> None:
    canary, stable = split(replicas, weight)
    assert canary >= 1
    assert stable >= 1
    assert canary + stable == max(replicas, 2)


@example(1, [25, 100])
@settings(deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(1, 100), min_size=1, max_size=16))
def test_steps_that_come_to_the_same_pods_are_merged_and_no_pause_is_lost(replicas: int, weights: list[int]) -> None:
    steps = [Step(set_weight=weight, pause="7s") for weight in sorted(weights)]
    planned = plan_steps(steps, replicas)
    pods = [split(replicas, entry.asked) for entry in planned]
    assert len(pods) == len(set(pods)), "each step is a change"
    assert [canary for canary, _ in pods] == sorted(canary for canary, _ in pods), "the canary only grows"
    assert [entry.weight for entry in planned] == [percent(canary, canary + stable) for canary, stable in pods]
    assert sum(entry.pause_seconds for entry in planned) == 7 * len(steps)
    assert sorted(weight for entry in planned for weight in (entry.merged or (entry.asked,))) == sorted(weights)


def test_two_replicas_say_twenty_five_and_fifty_percent_alike() -> None:
    (only,) = plan_steps([Step(set_weight=25), Step(set_weight=50)], 2)
    assert only == PlannedStep(asked=50, weight=50, pause_seconds=20, merged=(25, 50))


def test_one_replica_tells_full_weight_from_less() -> None:
    steps = plan_steps([Step(set_weight=25), Step(set_weight=50), Step(set_weight=100)], 1)
    assert [(entry.weight, entry.merged) for entry in steps] == [(50, (25, 50)), (100, ())]


def test_a_step_is_found_again_by_what_was_asked_after_the_replica_count_has_changed() -> None:
    steps = [Step(set_weight=25), Step(set_weight=50), Step(set_weight=75)]
    assert step_at(plan_steps(steps, 4), 50) == 1
    assert step_at(plan_steps(steps, 2), 50) == 0
    assert step_at(plan_steps(steps, 4), 100) == 2, "a step that is gone is the last one, never promotion"


@pytest.mark.parametrize(("part", "whole", "expected"), [(1, 3, 33), (2, 3, 67), (1, 8, 13), (0, 0, 0), (4, 4, 100)])
def test_percentages_round_half_up(part: int, whole: int, expected: int) -> None:
    assert percent(part, whole) == expected


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)))
def test_shares_sum_to_a_hundred_and_are_off_by_less_than_one(ready: dict[str, int]) -> None:
    total, given_ = sum(ready.values()), shares(ready)
    assert sum(given_.values()) == (100 if total else 0)
    assert all(abs(share - 100 * ready[name] / total) < 1 for name, share in given_.items())


def of(replicas: int, ready: int, unschedulable: int = 0) -> Endpoints:
    return Endpoints(replicas, ready, unschedulable)


HALF = Target(replicas=4, stable="s", canary="c", weight=50)


@pytest.mark.parametrize(
    ("target", "endpoints", "share", "in_effect"),
    [
        (HALF, {"s": of(2, 2), "c": of(2, 2)}, 50, True),
        (HALF, {"s": of(3, 3), "c": of(2, 2)}, 40, False),
        (HALF, {"s": of(2, 2), "c": of(2, 1)}, 33, False),
        (HALF, {"s": of(2, 1), "c": of(2, 2)}, 67, False),
        (HALF, {"s": of(2, 2), "c": of(4, 2)}, 50, False),
        (HALF, {"s": of(4, 2), "c": of(2, 2)}, 50, False),
        (HALF, {"s": of(2, 2), "c": of(2, 2), "old": of(1, 1)}, 40, False),
        (HALF, {"s": of(2, 2), "c": of(2, 2), "old": of(1, 0)}, 50, True),
        (HALF, {"s": of(2, 2)}, 0, False),
        (HALF, {}, 0, False),
        (Target(4, "s", "c", 100), {"s": of(0, 0), "c": of(4, 4)}, 100, True),
        (Target(4, "s", "c", 100), {"c": of(4, 4)}, 100, True),
        (Target(4, "s", "c", 50, stable_down_seconds=0), {"s": of(2, 0), "c": of(4, 2)}, 100, True),
        (Target(4, "s", "c", 50, stable_down_seconds=0), {"s": of(2, 0), "c": of(4, 4)}, 100, True),
        (Target(4, "s", "c", 50, stable_down_seconds=0), {"s": of(2, 0), "c": of(4, 1)}, 100, False),
        (Target(4, "s", "c", 50, stable_down_seconds=0), {"c": of(4, 2), "old": of(1, 1)}, 67, False),
    ],
)
def test_a_weight_is_in_effect_once_each_revision_has_exactly_its_ready_pods(
    target: Target, endpoints: dict[str, Endpoints], share: int, in_effect: bool
) -> None:
    route = ReplicaRatio().route(target, endpoints)
    assert (route.shares.get("c", 0), route.in_effect) == (share, in_effect)
