"""The operator is killed at three named points of one flow: no second Job, no second number, no jump of the weight."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from loop import Loop

from dev.demo import facts
from dev.demo.target import SYSTEM_NAMESPACE
from recast_api import names
from recast_api.resources import ExpertModelStatus
from recast_cli.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.disruptive, pytest.mark.timeout(1200)]

EXPERT = "feed"


def status(world: World) -> ExpertModelStatus:
    """The expert's status."""
    found = world.expert(EXPERT)
    assert found is not None
    return found.status


def kill_operator(loop: Loop) -> None:
    """Take the operator's pod away without a word, as a node's failure would."""
    loop.story.cluster.run("-n", SYSTEM_NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0")


def test_an_operator_killed_at_three_points_neither_doubles_nor_skips_anything(after_bad_change: Loop) -> None:
    loop, before = after_bad_change, status(after_bad_change.story.live.world)
    assert before.stable is not None
    number, old = before.last_number + 1, before.stable.revision
    points: list[tuple[str, Callable[[World], bool], float]] = [
        ("a number is reserved", lambda world: status(world).run is not None, 60),
        ("the canary has its weight", lambda world: weighted(world), 180),
        ("the canary is promoted", lambda world: promoted(world, old), 120),
    ]
    seen: list[int] = []

    def watched(predicate: Callable[[World], bool]) -> Callable[[World], bool]:
        def look(world: World) -> bool:
            canary = status(world).canary
            if canary is not None:
                seen.append(canary.actual_weight)
            return predicate(world)

        return look

    loop.when_applied(loop.example("feed.yaml", spec__training__seed=7))
    for what, predicate, within in points:
        loop.then(what, watched(predicate), within)
        kill_operator(loop)
    loop.then("everything is at rest", lambda world: facts.settled(world, EXPERT, 2), within=90)
    after = status(loop.story.live.world)
    assert after.stable is not None
    assert after.last_number == after.stable.version == number
    assert jobs(loop, number) == [names.job("ExpertModel", EXPERT, number, 1)]
    assert set(seen) <= {0, 33, 50, 67, 100}, seen
    assert deployments(loop) == [names.revision_deployment(EXPERT, after.stable.revision)]
    bad = loop.story.bad_revisions
    assert [entry for entry in loop.story.traffic.counts.failures if entry["revision"] not in bad] == []


def weighted(world: World) -> bool:
    """Whether the canary's weight took effect."""
    canary = status(world).canary
    return canary is not None and canary.weight_since is not None


def promoted(world: World, old: str) -> bool:
    """Whether another revision is stable."""
    stable = status(world).stable
    return stable is not None and stable.revision != old


def jobs(loop: Loop, number: int) -> list[str]:
    """Names of the Jobs of one run of the expert."""
    selector = f"{names.LABEL_MODEL}={EXPERT},{names.LABEL_RUN}={number}"
    items = json.loads(loop.kubectl("get", "jobs", "-l", selector, "-o", "json"))["items"]
    return [item["metadata"]["name"] for item in items]


def deployments(loop: Loop) -> list[str]:
    """Names of the expert's Deployments, once what is to go has gone."""
    selector = f"{names.LABEL_MODEL}={EXPERT}"
    loop.then("one Deployment is left", lambda _: len(listed(loop, selector)) == 1, within=60)
    return listed(loop, selector)


def listed(loop: Loop, selector: str) -> list[str]:
    """Names of Deployments."""
    items = json.loads(loop.kubectl("get", "deployments", "-l", selector, "-o", "json"))["items"]
    return [item["metadata"]["name"] for item in items]
