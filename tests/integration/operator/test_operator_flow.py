"""The demo's whole flow against a real apiserver, with simulated pods and time."""

from __future__ import annotations

import pytest

from recast_operator.adapters.kube import HttpRequester
from tests.integration.operator.world import World


def stable(world: World, name: str) -> tuple[int, int]:
    status = world.model("ExpertModel", name).get("status") or {}
    pair = status.get("stable") or {}
    return pair.get("version", 0), (pair.get("foundation") or {}).get("version", 0)


def quiet(world: World, name: str) -> bool:
    status = world.model("ExpertModel", name).get("status") or {}
    return not status.get("canary") and not status.get("run")


async def play_demo(world: World) -> None:
    """What `make demo` applies, in its order, each time until the world is as it should be."""
    experts = ("reels", "feed", "ads")
    world.worse.add("0.3")
    await world.boot()
    try:
        await world.apply("home-fm.yaml", "reels.yaml", "feed.yaml", "ads.yaml")
        await world.until("all serve v1@fm1", lambda: all(stable(world, name) == (1, 1) for name in experts))
        await world.apply("home-fm-v2.yaml")
        await world.until(
            "all serve v2@fm2", lambda: all(stable(world, name) == (2, 2) and quiet(world, name) for name in experts)
        )
        await world.apply("reels-bad-image.yaml", "home-fm-worse.yaml")
        await world.until(
            "the bad image is rolled back",
            lambda: (
                bool(world.model("ExpertModel", "reels")["status"].get("failedRevisions")) and quiet(world, "reels")
            ),
        )
        await world.until(
            "the worse version is judged",
            lambda: (
                bool(world.mirror.get("ModelVersion", "fm-home-fm-v3"))
                and not world.model("FoundationModel", "home-fm")["status"].get("run")
            ),
        )
        await world.settle(120)
    finally:
        world.close()


async def test_the_demo_plays_from_two_kinds_of_yaml_to_a_rolled_back_canary(
    requester: HttpRequester, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(requester, namespace)
    await play_demo(world)
    assert {name: stable(world, name) for name in ("reels", "feed", "ads")} == dict.fromkeys(
        ("reels", "feed", "ads"), (2, 2)
    )
    assert world.dip == []
    state = world.end_state()
    assert "Deployment/fm-home-fm-l1" not in state  # retired
    assert state["jobs"] == sorted(set(world.recorder.jobs_created))
    failed = world.model("ExpertModel", "reels")["status"]["failedRevisions"]
    assert [(item["version"], item["reason"], item["image"]) for item in failed] == [
        (2, "AnalysisFailed", "recast.invalid/bad-server:0.1.0")
    ]
    judged = {item["metric"]: item for item in failed[0]["results"]}["error-rate"]
    assert (judged["verdict"], judged["value"], judged["samples"]) == ("Failure", "0.2000", 1000)
    assert judged["query"].startswith("sum(max_over_time(recast_requests_total{")
    worse = world.model("ModelVersion", "fm-home-fm-v3")["status"]["conditions"]
    assert [(item["status"], item["reason"]) for item in worse if item["type"] == "Accepted"] == [
        ("False", "NEIncreased")
    ]
    assert not any("lost" in record.message for record in caplog.records), "the apiserver refused an event"


async def test_applying_the_same_bad_yaml_again_starts_nothing(requester: HttpRequester, namespace: str) -> None:
    world = World(requester, namespace)
    await play_demo(world)
    await world.boot()
    await world.apply("reels-bad-image.yaml", "home-fm-worse.yaml", "feed.yaml", "ads.yaml")
    writes = len(world.recorder.writes)
    await world.settle(600)
    world.close()
    assert len(world.recorder.writes) == writes
