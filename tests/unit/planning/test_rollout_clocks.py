"""When time alone may change a roll-out: a pass at that moment, and none before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation
from rollout_values import AT, NOW, ago, canary, inputs, look, result, revision

from recast_api.resources import CanaryStatus, MetricName, RetiringRevision, Rollout
from recast_operator.planning.rollout import deadline, machine
from recast_operator.planning.rollout.retiring import forget_gone, leaving
from recast_operator.planning.rollout.state import RolloutState

COMPARED = [{"metric": "error-rate", "max": "0.01"}, {"metric": "slow-share", "maxOverStable": "0.05"}]


def at_trial(**rollout: Any) -> Cluster:
    spec = {"steps": [{"setWeight": 25, "pause": "5s"}], "progressDeadlineSeconds": 600} | rollout
    cluster = Cluster(foundation(), expert("reels", rollout=spec))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.run(30)
    return cluster


def moments_of_pods(cluster: Cluster) -> Iterator[float]:
    """Seconds until a pod gets ready or is gone: an event wakes the operator then."""
    for deployment in cluster.deployments.values():
        yield from (cluster.ready_seconds - (cluster.now - born).total_seconds() for born in deployment.pods)
    yield from ((until - cluster.now).total_seconds() for _, until in cluster.draining)


def sleep_as_told(cluster: Cluster, seconds: float) -> tuple[int, list[tuple[float, str]]]:
    """Passes that only time caused, and what happened when, for an operator that sleeps as each plan says."""
    began, passes, told = cluster.now, 0, []
    end = began + timedelta(seconds=seconds)
    while cluster.now < end:
        seen = len(cluster.events)
        cluster.settle()
        told += [
            ((cluster.now - began).total_seconds(), event.reason)
            for name, event in cluster.events[seen:]
            if name == "reels"
        ]
        wake = cluster.plan("reels").requeue_after
        assert wake is None or wake > 0
        event = min((wait for wait in moments_of_pods(cluster) if wait > 0), default=None)
        wait = min((entry for entry in (wake, event) if entry is not None), default=seconds)
        passes += wake is not None and (event is None or wake < event)
        cluster.tick(min(wait, (end - cluster.now).total_seconds()))
    return passes, told


def watch_every_second(cluster: Cluster, seconds: int) -> list[tuple[float, str]]:
    began, told = cluster.now, []
    for _ in range(seconds):
        seen = len(cluster.events)
        cluster.settle()
        told += [
            ((cluster.now - began).total_seconds(), event.reason)
            for name, event in cluster.events[seen:]
            if name == "reels"
        ]
        cluster.tick()
    return told


def no_traffic(cluster: Cluster) -> None:
    cluster.requests_per_second = 0


def no_prometheus(cluster: Cluster) -> None:
    cluster.prometheus_error = "connection refused"


def image_missing(cluster: Cluster) -> None:
    cluster.unpullable.add("server:2")


def broken_stable_and_image_missing(cluster: Cluster) -> None:
    cluster.unpullable.add("server:2")
    cluster.deployments[next(name for name in cluster.deployments if name.startswith("em-"))].ready_limit = 0


def bad(cluster: Cluster) -> None:
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)


def good(cluster: Cluster) -> None:
    pass


@pytest.mark.parametrize(
    ("rollout", "world", "hours", "most"),
    [
        ({"steps": [{"setWeight": 25, "pause": "15m"}]}, good, 0.5, 190),
        ({"steps": [{"setWeight": 25, "pause": "1h"}], "analysis": []}, good, 2, 3),
        ({"steps": [{"setWeight": 25, "pause": "1h"}, {"setWeight": 50, "pause": "1h"}], "analysis": []}, good, 3, 5),
        ({"steps": [{"setWeight": 25, "pause": "1d"}], "analysis": []}, good, 50, 3),
        ({"steps": [{"setWeight": 100, "pause": "1h"}], "analysis": []}, good, 2, 3),
        ({"steps": [{"setWeight": 100, "pause": "1h"}], "analysis": COMPARED[1:]}, good, 2, 3),
        ({"steps": [{"setWeight": 25, "pause": "1h"}]}, bad, 2, 30),
        ({}, good, 2, 30),
        ({}, no_traffic, 2, 130),
        ({"progressDeadlineSeconds": 3600}, image_missing, 5, 2),
        ({"progressDeadlineSeconds": 3600}, no_prometheus, 0.25, 185),
        ({"progressDeadlineSeconds": 30}, broken_stable_and_image_missing, 24, 1),
    ],
)
def test_time_alone_causes_no_more_passes_than_it_can_change_something(
    rollout: dict[str, Any], world: Any, hours: float, most: int
) -> None:
    cluster = at_trial(**rollout)
    world(cluster)
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    passes, _ = sleep_as_told(cluster, hours * 3600)
    assert passes <= most


@pytest.mark.parametrize(
    "world", [good, bad, no_traffic, image_missing, no_prometheus, broken_stable_and_image_missing]
)
@pytest.mark.parametrize("analysis", [[], COMPARED, COMPARED[1:]])
@pytest.mark.parametrize("weights", [(25, 50), (100,)])
def test_an_operator_that_sleeps_as_told_misses_nothing(
    weights: tuple[int, ...], analysis: list[dict[str, str]], world: Any
) -> None:
    spec = {
        "steps": [{"setWeight": weight, "pause": "20s"} for weight in weights],
        "analysis": analysis,
        "progressDeadlineSeconds": 40,
    }
    asleep, awake = at_trial(**spec), at_trial(**spec)
    for cluster in (asleep, awake):
        world(cluster)
        cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    assert sleep_as_told(asleep, 130)[1] == watch_every_second(awake, 130)


def test_what_has_settled_sleeps_until_an_event() -> None:
    assert at_trial().plan("reels").requeue_after is None


# ---- the clock of the progress deadline


@pytest.mark.parametrize(
    ("before", "stable_ready", "evaluation", "after"),
    [
        ({}, 3, None, {"progressed_at": ago(20)}),
        ({}, 3, look("NoData", answered=False), {"unanswered_since": AT, "progressed_at": ago(20)}),
        ({}, 3, look("NoData"), {"progressed_at": ago(20)}),
        ({"unanswered_since": ago(8)}, 3, None, {"unanswered_since": ago(8), "progressed_at": ago(20)}),
        (
            {"unanswered_since": ago(8)},
            3,
            look(answered=False),
            {"unanswered_since": ago(8), "progressed_at": ago(20)},
        ),
        ({"unanswered_since": ago(8)}, 3, look("NoData"), {"progressed_at": ago(12)}),
        ({"unanswered_since": ago(8), "weight_since": None}, 3, None, {"progressed_at": ago(12)}),
        ({"unanswered_since": ago(90)}, 3, look("NoData"), {"progressed_at": AT}),
        ({}, 0, None, {"stable_down_since": AT, "progressed_at": ago(20)}),
        ({"stable_down_since": ago(8)}, 0, None, {"stable_down_since": ago(8), "progressed_at": ago(20)}),
        ({"stable_down_since": ago(8)}, 1, None, {"progressed_at": ago(12)}),
        ({"step_weight": 100}, 0, None, {"progressed_at": ago(20)}),
        ({"state": "Promoting"}, 0, None, {"stable_down_since": AT, "progressed_at": ago(20)}),
        ({"state": "Initial"}, None, None, {"progressed_at": ago(20)}),
        # Both causes: their union counts, once.
        (
            {"unanswered_since": ago(9), "stable_down_since": ago(5)},
            0,
            look("NoData"),
            {"stable_down_since": ago(5), "progressed_at": ago(16)},
        ),
        (
            {"unanswered_since": ago(5), "stable_down_since": ago(9)},
            0,
            look("NoData"),
            {"stable_down_since": ago(9), "progressed_at": ago(20)},
        ),
        ({"unanswered_since": ago(9), "stable_down_since": ago(5)}, 2, look("NoData"), {"progressed_at": ago(11)}),
        (
            {"unanswered_since": ago(9)},
            0,
            look("NoData"),
            {"stable_down_since": AT, "progressed_at": ago(11)},
        ),
    ],
)
def test_the_clock_stands_still_while_nothing_can_be_known(
    before: dict[str, Any], stable_ready: int | None, evaluation: Any, after: dict[str, Any]
) -> None:
    seen = inputs({"s": (3, stable_ready or 0), "c": (1, 1)}, evaluation=evaluation)
    trial = canary(**({"weight_since": ago(15)} | before))
    held = deadline.stop_or_start(seen, revision() if stable_ready is not None else None, trial)
    wanted = {"unanswered_since": None, "stable_down_since": None} | after
    assert {name: getattr(held, name) for name in wanted} == wanted
    stands = held.unanswered_since is not None or held.stable_down_since is not None
    assert (deadline.seconds_left(seen, held) is None) is stands


@pytest.mark.parametrize("rollout", [{"analysis": []}, {"analysis": COMPARED[1:], "steps": [{"setWeight": 100}]}])
def test_where_nothing_is_asked_a_silent_prometheus_stops_nothing(rollout: dict[str, Any]) -> None:
    spec = Rollout.model_validate(rollout)
    seen = inputs({"s": (3, 3), "c": (1, 1)}, evaluation=look(answered=False), rollout=spec)
    assert deadline.stop_or_start(seen, revision(), canary(weight_since=ago(15))).unanswered_since is None


def waits(trial: CanaryStatus, **changes: Any) -> list[float]:
    return sorted(deadline.waits(inputs({"s": (3, 3), "c": (1, 1)}, **changes), revision(), trial))


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (canary(), [590]),
        (canary(state="Initial"), [580]),
        (canary(state="Promoting"), [580]),
        (canary(weight_since=ago(2)), [4, 8, 590]),
        (canary(weight_since=ago(2), unanswered_since=ago(1)), [4, 8]),
        (canary(weight_since=ago(6), results=[result("Inconclusive", seconds_ago=1)]), [4, 590]),
        (canary(stable_down_since=ago(1)), []),
    ],
)
def test_each_clock_is_waited_for_to_the_second(trial: CanaryStatus, expected: list[float]) -> None:
    assert waits(trial) == expected


def test_after_a_look_the_next_one_is_an_interval_away() -> None:
    trial = canary(weight_since=ago(12), results=[result("Inconclusive", seconds_ago=60)])
    assert waits(trial, evaluation=look("Inconclusive")) == [5, 590]


@pytest.mark.parametrize(("seconds", "late"), [(609, False), (610, True), (700, True)])
def test_a_canary_is_late_once_pause_and_deadline_are_over(seconds: int, late: bool) -> None:
    seen = inputs({"s": (4, 4), "c": (1, 0)})
    state = RolloutState(revision(), canary(progressed_at=ago(seconds)))
    after = machine._proceed(seen, state)
    assert (after.canary is None) is late
    wait = min(machine.waits(replace(seen, now=NOW), after), default=None)
    assert late or wait == 610 - seconds


def set_back(cluster: Cluster, seconds: float) -> None:
    """The operator's clock, and with it all ages that the simulation keeps."""
    cluster.now -= timedelta(seconds=seconds)
    for deployment in cluster.deployments.values():
        deployment.pods = [born - timedelta(seconds=seconds) for born in deployment.pods]


@pytest.mark.parametrize("analysis", [[], COMPARED])
def test_a_clock_that_is_set_back_measures_the_step_anew_and_makes_no_wait_longer(analysis: list[Any]) -> None:
    cluster = at_trial(analysis=analysis, steps=[{"setWeight": 25, "pause": "20s"}])
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None and c.em("reels").status.canary.weight_since)
    cluster.run(10)
    set_back(cluster, 3600)
    cluster.until(lambda c: c.em("reels").status.stable.serving.image == "server:2", limit=120)


@pytest.mark.parametrize("field", ["unanswered_since", "stable_down_since"])
def test_a_clock_that_is_set_back_holds_the_deadline_no_longer_than_what_it_waits_for(field: str) -> None:
    trial = canary(progressed_at=ago(-3600), weight_since=ago(10), **{field: ago(-3590)})
    after = deadline.stop_or_start(inputs({"s": (3, 3), "c": (1, 1)}, evaluation=look("Success")), revision(), trial)
    assert (after.progressed_at, after.unanswered_since, after.stable_down_since) == (AT, None, None)
    down = deadline.stop_or_start(inputs({"s": (3, 0), "c": (1, 1)}), revision(), trial)
    assert down.stable_down_since == AT


def test_a_revision_that_left_in_the_future_left_now() -> None:
    entry = RetiringRevision(revision="o", version=1, foundation=revision().foundation, since=ago(-3600))
    seen = inputs({"s": (4, 1, 3), "o": (3, 3)})
    state = RolloutState(revision(), None, retiring=(entry,))
    assert leaving(seen, state)["o"].seconds == 0
    assert seen.capacity.pods(machine.target(seen, state), seen.endpoints) == {"s": 4, "o": 3}
    assert forget_gone(seen, state).retiring[0].since == AT
