"""What stands still while a model says something that this operator does not understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_api.reading import Decision, Doubt

DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}


def doubt(*holds: Decision) -> tuple[Doubt, ...]:
    return (Doubt("spec.novelty", "this version does not know the field", frozenset(holds)),)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(foundation(), expert("reels"))
    made.until(lambda c: c.em("reels").status.stable is not None)
    made.run(60)
    return made


def settled(cluster: Cluster, seconds: int = 45) -> None:
    """Whatever is held is held, and nothing is written again and again."""
    cluster.run(seconds)
    writes = cluster.writes
    cluster.run(seconds)
    assert cluster.writes == writes


def stalled(cluster: Cluster, name: str) -> tuple[str, str]:
    condition = cluster.condition(name, "Stalled")
    return condition.status, condition.reason


@pytest.mark.parametrize("name", ["reels", "home-fm"])
def test_a_doubt_that_holds_nothing_changes_nothing(cluster: Cluster, name: str) -> None:
    cluster.doubts[name] = doubt()
    settled(cluster)
    assert stalled(cluster, name)[0] == "False"


@pytest.mark.parametrize("name", ["reels", "home-fm"])
@pytest.mark.parametrize("holds", ["Training", "Run", "Rollout", "Acceptance"])
def test_what_is_held_is_said_with_what_to_do(cluster: Cluster, name: str, holds: Decision) -> None:
    cluster.doubts[name] = doubt(holds)
    settled(cluster)
    assert stalled(cluster, name) == ("True", "NotUnderstood")
    message = cluster.condition(name, "Stalled").message
    assert message.startswith("spec.novelty: this version does not know the field. What serves goes on")
    del cluster.doubts[name]
    settled(cluster)
    assert stalled(cluster, name)[0] == "False"


@pytest.mark.parametrize("name", ["reels", "home-fm"])
def test_no_run_is_started_from_a_spec_that_is_not_understood(cluster: Cluster, name: str) -> None:
    cluster.doubts[name] = doubt("Training")
    runs = len(cluster.submitted)
    cluster.edit(name, training={"image": "trainer:1", "learningRate": "0.5"})
    settled(cluster)
    assert len(cluster.submitted) == runs
    if name == "reels":
        assert cluster.condition(name, "Stale").status == "False"
    del cluster.doubts[name]
    cluster.run(30)
    assert cluster.submitted[runs].endswith(f"{name}-r2-a1")


def reserved(cluster: Cluster) -> bool:
    run = cluster.em("reels").status.run
    return run is not None and run.state == "Running"


def test_a_run_in_progress_goes_on_and_lands_where_only_its_inputs_are_not_understood(cluster: Cluster) -> None:
    cluster.edit("reels", training={"image": "trainer:1", "learningRate": "0.5"})
    cluster.until(reserved)
    cluster.doubts["reels"] = doubt("Training")
    cluster.edit("reels", training={"image": "trainer:1", "learningRate": "0.7"})
    cluster.until(lambda c: c.em("reels").status.latest == 2)


def test_a_run_whose_state_is_not_understood_is_left_alone(cluster: Cluster) -> None:
    cluster.edit("reels", training={"image": "trainer:1", "learningRate": "0.5"})
    cluster.until(reserved)
    before = cluster.em("reels").status.run
    cluster.doubts["reels"] = doubt("Run")
    cluster.jobs.clear()
    submitted = list(cluster.submitted)
    settled(cluster)
    assert cluster.em("reels").status.run == before
    assert cluster.submitted == submitted


@pytest.mark.parametrize("name", ["reels", "home-fm"])
def test_no_version_is_judged_by_gates_of_which_one_is_not_known(cluster: Cluster, name: str) -> None:
    change: dict[str, Any] = {"data": DATA_2} if name == "home-fm" else {"training": {"image": "trainer:2"}}
    cluster.edit(name, **change)
    cluster.until(lambda c: c.models[name].status.run is not None)
    cluster.doubts[name] = doubt("Training", "Run", "Acceptance")
    version = f"{'fm' if name == 'home-fm' else 'em'}-{name}-v2"
    cluster.until(lambda c: version in c.versions)
    settled(cluster)
    assert cluster.versions[version].status.conditions == []
    assert cluster.models[name].status.latest == 1
    assert cluster.versions[version.replace("v2", "v1")].status.conditions != []
    del cluster.doubts[name]
    cluster.until(lambda c: bool(c.versions[version].status.conditions))


def canary(cluster: Cluster) -> Any:
    return cluster.em("reels").status.canary


def shape(cluster: Cluster) -> dict[str, tuple[int, int]]:
    return {name: (len(entry.pods), entry.applied) for name, entry in cluster.deployments.items()}


def test_a_canary_that_cannot_be_judged_stands_still_and_is_neither_promoted_nor_failed(cluster: Cluster) -> None:
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4}, rollout={"progressDeadlineSeconds": 30})
    cluster.until(lambda c: canary(c) is not None and canary(c).weight_since is not None)
    before, pods = canary(cluster), shape(cluster)
    cluster.doubts["reels"] = doubt("Rollout")
    settled(cluster)
    assert canary(cluster).model_copy(update={"message": ""}) == before.model_copy(update={"message": ""})
    assert "does not know the field" in canary(cluster).message
    assert shape(cluster) == pods
    assert cluster.plan("reels").requeue_after is None
    del cluster.doubts["reels"]
    cluster.until(lambda c: c.em("reels").status.stable.serving.image == "server:2")  # type: ignore[union-attr]


def test_no_canary_begins_while_the_rollout_is_held(cluster: Cluster) -> None:
    cluster.doubts["reels"] = doubt("Rollout")
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    settled(cluster)
    assert canary(cluster) is None
    assert len(cluster.deployments) == 2


def request(cluster: Cluster, action: str) -> None:
    revision = canary(cluster).revision
    cluster.edit("reels", rollout={"request": {"id": action, "action": action, "revision": revision}})


@pytest.mark.parametrize(
    ("action", "outcome"),
    [("Abort", lambda c: canary(c) is None), ("Promote", lambda c: c.em("reels").status.handled_requests == [])],
)
def test_an_abort_works_while_the_rollout_is_held_and_a_promotion_waits(
    cluster: Cluster, action: str, outcome: Callable[[Cluster], bool]
) -> None:
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: canary(c) is not None and canary(c).weight_since is not None)
    cluster.doubts["reels"] = doubt("Rollout")
    request(cluster, action)
    settled(cluster)
    assert outcome(cluster)


def test_an_abort_while_the_rollout_is_held_gives_the_traffic_back(cluster: Cluster) -> None:
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: canary(c) is not None and canary(c).weight_since is not None)
    cluster.doubts["reels"] = doubt("Rollout")
    request(cluster, "Abort")
    settled(cluster)
    stable = cluster.em("reels").status.stable
    assert stable is not None
    assert cluster.revision_ready("reels") == {stable.revision: 4}


LEARNING = {"image": "trainer:1", "learningRate": "0.5"}


@pytest.mark.parametrize("name", ["reels", "home-fm"])
def test_a_version_that_the_spec_has_taken_back_does_not_come_to_serve_once_the_spec_is_not_understood(
    cluster: Cluster, name: str
) -> None:
    def trial(c: Cluster) -> Any:
        return canary(c) if name == "reels" else c.fm().status.candidate

    before = cluster.models[name].spec.training.model_dump(mode="json", by_alias=True, exclude_none=True)
    cluster.edit(name, training=LEARNING)
    cluster.until(lambda c: trial(c) is not None)
    cluster.edit(name, training=before)
    cluster.until(lambda c: trial(c) is None)
    cluster.doubts[name] = doubt("Training")
    settled(cluster)
    assert trial(cluster) is None
    assert cluster.em("reels").status.stable.version == 1  # type: ignore[union-attr]
    assert cluster.fm().status.current.version == 1  # type: ignore[union-attr]


def test_a_canary_goes_on_while_what_the_spec_asks_for_is_not_understood(cluster: Cluster) -> None:
    cluster.edit("reels", training=LEARNING)
    cluster.until(lambda c: canary(c) is not None)
    cluster.doubts["reels"] = doubt("Training")
    cluster.until(lambda c: c.em("reels").status.stable.version == 2)  # type: ignore[union-attr]


def test_no_template_is_changed_while_it_is_not_understood_but_drift_and_loss_are_put_right(cluster: Cluster) -> None:
    cluster.doubts = {"reels": doubt("Rollout"), "home-fm": doubt("Rollout")}
    cluster.edit("home-fm", serving={"image": "server:2"})
    cluster.edit("reels", tasks=[{"name": "other"}])
    before = shape(cluster)
    settled(cluster)
    assert shape(cluster) == before
    for entry in cluster.deployments.values():
        entry.body["spec"]["template"]["spec"]["containers"][0]["image"] = "theirs:1"
    cluster.run(20)
    assert {entry.image for entry in cluster.deployments.values()} == {"server:1"}
    lost = next(name for name in cluster.deployments if name.startswith("em-"))
    del cluster.deployments[lost]
    cluster.run(20)
    assert len(cluster.deployments[lost].pods) == 4
