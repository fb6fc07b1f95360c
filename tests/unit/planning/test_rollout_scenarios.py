"""Whole roll-outs in fake time, each one a way in which a cluster is not as one would wish."""

from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import CanaryStatus, Condition, ExpertModelStatus, MetricName
from recast_operator.planning.projections import fleet_member

DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}
STEPS = [{"setWeight": 25, "pause": "5s"}, {"setWeight": 75, "pause": "5s"}]


def serving(replicas: int = 4, **rollout: Any) -> Cluster:
    """A stable revision, and metrics that a new one can fail."""
    spec = {"steps": STEPS, "progressDeadlineSeconds": 60} | rollout
    cluster = Cluster(foundation(), expert("reels", replicas=replicas, rollout=spec))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.run(20)
    return cluster


def status(cluster: Cluster) -> ExpertModelStatus:
    return cluster.em("reels").status


def on_trial(cluster: Cluster) -> CanaryStatus:
    found = status(cluster).canary
    assert found is not None, cluster.describe()
    return found


def stable(cluster: Cluster) -> str:
    found = status(cluster).stable
    assert found is not None
    return found.revision


def change_image(cluster: Cluster, image: str) -> None:
    cluster.edit("reels", serving={"image": image, "replicas": cluster.em("reels").spec.serving.replicas})


def at_weight(step: int) -> Any:
    return lambda cluster: (
        (canary := status(cluster).canary) is not None and canary.step == step and canary.weight_since is not None
    )


def events(cluster: Cluster) -> list[str]:
    return [event.reason for name, event in cluster.events if name == "reels"]


# ---- a failed canary goes, whatever room there is


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("replicas", range(1, 9))
def test_a_failed_canary_goes_and_stable_grows_back_in_a_cluster_without_a_spare_place(
    replicas: int, lost: int
) -> None:
    cluster = serving(replicas, steps=[{"setWeight": 25, "pause": "5s"}, {"setWeight": 100, "pause": "30s"}])
    old = stable(cluster)
    change_image(cluster, "server:2")
    cluster.until(at_weight(1))
    cluster.run(8)
    cluster.room = max(1, replicas - lost)
    assert cluster.revision_ready("reels").get(old, 0) == 0, "stable has to begin from nothing"
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    cluster.until(lambda c: bool(status(c).failed_revisions), limit=30)
    failed = status(cluster).failed_revisions[0].revision
    most = (replicas + 1) // 2

    def the_failed_one_only_fills_up_to_half(seen: Cluster) -> None:
        ready = seen.revision_ready("reels")
        assert ready.get(failed, 0) <= max(0, most - ready.get(old, 0))

    cluster.run(90, the_failed_one_only_fills_up_to_half)
    assert cluster.revision_ready("reels") == {old: min(replicas, cluster.room)}
    assert status(cluster).retiring == []


def test_with_half_of_stable_ready_a_failed_canary_goes_at_once_and_with_less_half_of_all_pods_stay() -> None:
    cluster = serving()
    old = stable(cluster)
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    cluster.until(lambda c: bool(status(c).failed_revisions))
    cluster.run(1)
    assert cluster.revision_ready("reels") == {old: 3}, "three ready pods are more than half of four"
    cluster.shares.clear()
    cluster.run(20)
    change_image(cluster, "server:3")
    cluster.until(at_weight(1))
    assert cluster.revision_ready("reels")[old] == 1
    cluster.deployments[f"em-reels-{old}"].ready_limit = 1
    cluster.set_share("reels", "server:3", MetricName.ERROR_RATE, 0.3)
    cluster.until(lambda c: len(status(c).failed_revisions) == 2)
    failed = status(cluster).failed_revisions[-1].revision
    cluster.run(60)
    assert cluster.revision_ready("reels") == {old: 1, failed: 1}, "two ready pods are half of four"
    cluster.deployments[f"em-reels-{old}"].ready_limit = 2
    cluster.run(1)
    assert cluster.revision_ready("reels") == {old: 2}


def test_a_failed_first_revision_leaves_no_pods_since_nothing_takes_over() -> None:
    cluster = Cluster(foundation(), expert("reels", rollout={"progressDeadlineSeconds": 30}))
    cluster.room = 3
    cluster.until(lambda c: bool(status(c).failed_revisions))
    assert "Nothing else serves yet." in status(cluster).failed_revisions[0].message
    cluster.run(10)
    assert cluster.revision_ready("reels") == {}


def test_the_message_says_who_serves_while_stable_is_not_whole() -> None:
    cluster = serving()
    change_image(cluster, "server:2")
    cluster.until(at_weight(1))
    cluster.room = 3
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    cluster.until(lambda c: bool(status(c).failed_revisions))
    record, failed = status(cluster).failed_revisions[0].message, status(cluster).failed_revisions[0].revision
    assert f"reels v1@fm1 ({failed}) rolled back at 75%: error-rate" in record
    assert "Traffic goes back to stable v1@fm1." in record
    assert "100%" not in record
    cluster.settle()
    for kind in ("Ready", "Stalled", "Promoted"):
        said = cluster.condition("reels", kind)
        assert said.reason == "AnalysisFailed"
        words = f"Now v1@fm1 serves 50% with 1 of 4 pods ready, and v1@fm1 ({failed}) has 50% until more are."
        assert said.message.endswith(words), kind
    cluster.run(60)
    assert "Now v1@fm1 serves 100% with 3 of 4 pods ready." in cluster.condition("reels", "Ready").message
    cluster.room = None
    cluster.run(10)
    assert cluster.condition("reels", "Ready").message.endswith("Now v1@fm1 serves 100%.")


# ---- a broken stable does not block its fix


@pytest.mark.parametrize("room", [None, 4, 5])
def test_a_broken_stable_is_replaced_by_its_fix_however_late_that_is(room: int | None) -> None:
    cluster = serving(
        analysis=[{"metric": "error-rate", "max": "0.01"}, {"metric": "slow-share", "maxOverStable": "0.05"}]
    )
    cluster.room = room
    broken = stable(cluster)
    cluster.deployments[f"em-reels-{broken}"].ready_limit = 0
    cluster.ready_seconds = 200
    change_image(cluster, "server:2")
    cluster.run(100)
    said = cluster.condition("reels", "Ready").message
    assert "no pod of stable v1@fm1 is ready: this revision gets all the pods it can" in said
    assert "is not rolled back for being late" in said
    cluster.until(lambda c: stable(c) != broken, limit=600)
    assert status(cluster).failed_revisions == []
    cluster.run(20)
    assert cluster.revision_ready("reels") == {stable(cluster): 4}


def test_a_fix_gets_all_the_pods_and_is_judged_without_stable() -> None:
    cluster = serving(
        steps=[{"setWeight": 25, "pause": "10m"}],
        analysis=[{"metric": "error-rate", "max": "0.01"}, {"metric": "slow-share", "maxOverStable": "0.05"}],
    )
    cluster.deployments[f"em-reels-{stable(cluster)}"].ready_limit = 0
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    cluster.run(6)
    assert cluster.revision_ready("reels")[on_trial(cluster).revision] == 4
    assert on_trial(cluster).actual_weight == 100
    assert [entry.metric for entry in on_trial(cluster).results] == ["error-rate"]


def test_a_bad_fix_of_a_broken_stable_is_still_rolled_back() -> None:
    cluster = serving()
    cluster.deployments[f"em-reels-{stable(cluster)}"].ready_limit = 0
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    change_image(cluster, "server:2")
    cluster.until(lambda c: bool(status(c).failed_revisions), limit=60)
    assert status(cluster).failed_revisions[0].reason == "AnalysisFailed"
    cluster.run(10)
    failed = status(cluster).failed_revisions[0].revision
    assert cluster.condition("reels", "Ready").message.endswith(
        f"Now no pod of v1@fm1 is ready, and v1@fm1 ({failed}) has 100% until more are."
    )
    assert cluster.condition("reels", "Ready").status == "False"


def test_time_in_which_stable_was_down_is_not_held_against_the_canary() -> None:
    cluster = serving()
    old = f"em-reels-{stable(cluster)}"
    cluster.unpullable.add("nowhere:1")
    change_image(cluster, "nowhere:1")
    cluster.run(20)
    cluster.deployments[old].ready_limit = 0
    cluster.run(300)
    assert status(cluster).failed_revisions == []
    assert on_trial(cluster).stable_down_since is not None
    cluster.deployments[old].ready_limit = 10_000
    cluster.run(43)
    assert status(cluster).failed_revisions == [], "20 of its 60 seconds, and of 5 of pause, had passed"
    assert on_trial(cluster).stable_down_since is None
    cluster.run(4)
    assert status(cluster).failed_revisions[0].reason == "ProgressDeadlineExceeded"


def test_a_stable_that_is_short_of_a_pod_is_compared_with_and_does_not_stop_the_clock() -> None:
    cluster = serving(steps=[{"setWeight": 25, "pause": "10m"}])
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    cluster.deployments[f"em-reels-{stable(cluster)}"].ready_limit = 2
    cluster.run(20)
    assert on_trial(cluster).stable_down_since is None
    assert {entry.metric for entry in on_trial(cluster).results} == {"error-rate", "slow-share", "fresh-tae-share"}
    assert len(cluster.deployments[f"em-reels-{on_trial(cluster).revision}"].pods) == 1


def test_a_moment_without_stable_pods_takes_none_of_them_away() -> None:
    cluster = serving(replicas=1)
    old = f"em-reels-{stable(cluster)}"
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    cluster.kill(old)
    cluster.run(3)
    assert on_trial(cluster).stable_down_since is not None
    assert len(cluster.deployments[old].pods) == 1
    cluster.run(3)
    assert on_trial(cluster).stable_down_since is None


def test_a_canary_gives_its_pods_back_only_as_stable_gets_ready() -> None:
    cluster = serving(steps=[{"setWeight": 25, "pause": "10m"}])
    old = f"em-reels-{stable(cluster)}"
    cluster.deployments[old].ready_limit = 0
    change_image(cluster, "server:2")
    cluster.run(10)
    canary = f"em-reels-{on_trial(cluster).revision}"
    assert cluster.ready(canary) == 4
    for ready in (1, 2, 3):
        cluster.deployments[old].ready_limit = ready
        cluster.run(1)
        assert cluster.ready(canary) + cluster.ready(old) == 4
    assert cluster.ready(canary) == 1


# ---- what passed is finished first


def promoting(cluster: Cluster) -> str:
    cluster.ready_seconds = 4
    change_image(cluster, "server:2")
    cluster.until(lambda c: (canary := status(c).canary) is not None and canary.state == "Promoting")
    cluster.ready_seconds = 15
    return on_trial(cluster).revision


def test_a_canary_that_passed_all_steps_is_promoted_before_a_newer_one_begins() -> None:
    cluster = serving()
    first, second = stable(cluster), promoting(cluster)
    change_image(cluster, "server:3")
    cluster.run(2)
    assert (on_trial(cluster).revision, on_trial(cluster).state) == (second, "Promoting")
    waits = f") is held back: v1@fm1 ({second}) has passed all steps and is promoted first"
    assert waits in cluster.condition("reels", "Ready").message
    grown: list[int] = []
    cluster.until(lambda c: stable(c) != first, watch=lambda c: grown.append(c.revision_ready("reels").get(first, 0)))
    assert grown == sorted(grown, reverse=True), "the oldest never comes back"
    assert stable(cluster) == second
    cluster.until(lambda c: stable(c) != second)
    assert cluster.em("reels").status.stable.serving.image == "server:3"  # type: ignore[union-attr]


def test_who_takes_the_change_back_gets_stable_back_even_while_promoting() -> None:
    cluster = serving()
    first, _ = stable(cluster), promoting(cluster)
    change_image(cluster, "server:1")
    cluster.run(1)
    assert status(cluster).canary is None
    cluster.run(30)
    assert cluster.revision_ready("reels") == {first: 4}
    assert status(cluster).failed_revisions == []


def test_a_rejected_foundation_ends_even_a_canary_that_is_promoting() -> None:
    cluster = serving()
    first = stable(cluster)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: (canary := status(c).canary) is not None and canary.step == 1)
    cluster.ready_seconds = 15
    cluster.until(lambda c: on_trial(c).state == "Promoting")
    verdict = Condition(
        type="Accepted", status="False", reason="NotFinite", last_transition_time="2026-11-21T00:00:00Z"
    )
    version = cluster.versions["fm-home-fm-v2"]
    told = version.status.model_copy(update={"conditions": [verdict]})
    cluster.versions["fm-home-fm-v2"] = version.model_copy(update={"status": told})
    cluster.settle()
    assert status(cluster).canary is None
    assert [(entry.version, entry.failed) for entry in status(cluster).retiring] == [(2, True)]
    assert any("home-fm v2, which it reads, is rejected" in event.message for _, event in cluster.events)
    cluster.run(60)
    assert cluster.revision_ready("reels") == {first: 4}


def test_a_version_that_is_deleted_ends_its_canary() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(at_weight(0))
    del cluster.versions["em-reels-v2"]
    cluster.settle()
    assert status(cluster).canary is None
    assert any("v2 is no longer an accepted version" in event.message for _, event in cluster.events)


# ---- Prometheus away


def test_ten_minutes_without_prometheus_are_not_the_canarys_fault() -> None:
    cluster = serving()
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    cluster.prometheus_error = "connection refused"
    cluster.run(600)
    assert status(cluster).failed_revisions == []
    said = cluster.condition("reels", "Ready").message
    assert "Prometheus has not answered since 2026-" in said
    assert "the progress deadline stands still" in said
    assert "connection refused" in said
    cluster.prometheus_error = ""
    cluster.until(lambda c: status(c).canary is None, limit=60)
    assert cluster.em("reels").status.stable.serving.image == "server:2"  # type: ignore[union-attr]


def test_after_prometheus_came_back_the_deadline_goes_on_where_it_stood() -> None:
    cluster = serving(steps=[{"setWeight": 25, "pause": "1s"}])
    cluster.requests_per_second = 0
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    began = cluster.now
    cluster.run(20)
    cluster.prometheus_error = "HTTP 503"
    cluster.run(300)
    cluster.prometheus_error = ""
    cluster.run(20)
    assert status(cluster).failed_revisions == []
    assert on_trial(cluster).unanswered_since is None
    cluster.until(lambda c: bool(status(c).failed_revisions), limit=30)
    assert 350 <= (cluster.now - began).total_seconds() <= 365
    assert status(cluster).failed_revisions[0].reason == "ProgressDeadlineExceeded"


# ---- what is left behind


def test_a_lineage_outlives_the_last_pod_that_reads_it() -> None:
    cluster = serving()
    cluster.drain_seconds = 60
    first = stable(cluster)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: stable(c) != first)
    assert [(entry.revision, entry.foundation.lineage, entry.failed) for entry in status(cluster).retiring] == [
        (first, 1, False)
    ]
    assert [pin.lineage for pin in fleet_member(cluster.em("reels")).retiring] == [1]
    cluster.run(30)
    assert f"em-reels-{first}" not in cluster.deployments
    assert "fm-home-fm-l1" in cluster.deployments, "a pod that drains still reads it"
    assert cluster.versions["fm-home-fm-v1"].status.summary.used_by == 1
    cluster.run(35)
    assert cluster.versions["fm-home-fm-v1"].status.summary.used_by == 0
    assert status(cluster).retiring == []
    cluster.run(20)
    assert "fm-home-fm-l1" not in cluster.deployments


def windings(cluster: Cluster, revision: str) -> list[object]:
    """Records what is done, from here on, with the Deployment of one revision."""
    done: list[object] = []
    execute = cluster.execute

    def watch(name: str, plan: Any, **rest: Any) -> bool:
        done.extend(entry.replicas for entry in plan.scales if entry.name == f"em-reels-{revision}")
        done.extend("deleted" for entry in plan.deletions if entry.name == f"em-reels-{revision}")
        return execute(name, plan, **rest)

    cluster.execute = watch  # type: ignore[method-assign]
    return done


def test_a_revision_that_was_replaced_is_deleted_with_its_pods() -> None:
    cluster = serving()
    old = stable(cluster)
    change_image(cluster, "server:2")
    cluster.until(lambda c: (canary := status(c).canary) is not None and canary.state == "Promoting")
    done = windings(cluster, old)
    cluster.until(lambda c: stable(c) != old)
    cluster.run(30)
    assert done[-1] == "deleted"
    assert done.count("deleted") == 1
    assert 0 not in done


def test_a_failed_revision_is_scaled_to_zero_and_deleted_when_no_pod_answers() -> None:
    cluster = serving()
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    done = windings(cluster, on_trial(cluster).revision)
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    cluster.until(lambda c: bool(status(c).failed_revisions))
    cluster.run(30)
    assert done == [0, "deleted"]


def test_the_revision_before_is_kept_in_status() -> None:
    cluster = serving()
    first = status(cluster).stable
    assert first is not None
    assert status(cluster).previous is None
    change_image(cluster, "server:2")
    cluster.until(lambda c: stable(c) != first.revision)
    cluster.run(5)
    assert status(cluster).previous == first.model_copy(update={"replicas": 0, "ready_replicas": 0})


def test_a_foundation_is_named_where_it_is_not_the_one_of_the_spec() -> None:
    cluster = Cluster(foundation(), foundation("other-fm"), expert("reels"))
    cluster.until(lambda c: bool(status(c).stable) and c.fm("other-fm").status.current is not None)
    assert status(cluster).summary.stable == "v1@fm1"
    cluster.edit("reels", foundationRef={"name": "other-fm"})
    cluster.until(at_weight(0))
    summary = status(cluster).summary
    assert (summary.stable, summary.canary, summary.weight) == ("v1@home-fm/1", "v2@fm1", "25%")
    cluster.until(lambda c: status(c).canary is None)
    assert status(cluster).summary.stable == "v2@fm1"
    promoted = [event.message for name, event in cluster.events if name == "reels" and event.reason == "Promoted"]
    assert [text.split(" (")[0] for text in promoted] == ["v1@fm1", "v2@fm1"]
    assert ", was v1@home-fm/1 (" in promoted[1]


def test_what_is_newer_and_waits_says_why() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: status(c).run is not None and status(c).run.number == 2)  # type: ignore[union-attr]
    cluster.deployments["fm-home-fm-l2"].ready_limit = 0
    cluster.until(lambda c: status(c).latest == 2)
    cluster.run(5)
    assert "v1@fm1 serves 100%; v2@fm2 is held back: home-fm does not serve v2 now" in (
        cluster.condition("reels", "Promoted").message
    )


def test_a_failure_with_another_foundation_is_not_held_against_this_one() -> None:
    cluster = serving()
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    change_image(cluster, "server:2")
    cluster.until(lambda c: bool(status(c).failed_revisions))
    assert [trial.reason for trial in fleet_member(cluster.em("reels")).failed_trials] == ["AnalysisFailed"]
    cluster.edit("reels", foundationRef={"name": "other-fm"})
    assert fleet_member(cluster.em("reels")).failed_trials == ()


def test_a_retry_of_what_nobody_wants_any_more_is_ignored_and_said() -> None:
    cluster = serving()
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.3)
    change_image(cluster, "server:2")
    cluster.until(lambda c: bool(status(c).failed_revisions))
    failed = status(cluster).failed_revisions[0].revision
    change_image(cluster, "server:1")
    body = cluster.em("reels").spec.rollout.wire()
    cluster.edit("reels", rollout=body | {"request": {"id": "x", "action": "Retry", "revision": failed}})
    cluster.run(5)
    assert events(cluster)[-1] == "RequestIgnored"
    assert status(cluster).failed_revisions[0].revision == failed
    assert status(cluster).last_request is not None
    assert "no longer wanted" in status(cluster).last_request.ignored  # type: ignore[union-attr]


# ---- an autoscaler changes spec.serving.replicas while a canary is on its way


def scale(cluster: Cluster, replicas: int) -> None:
    image = cluster.em("reels").spec.serving.image
    cluster.edit("reels", serving={"image": image, "replicas": replicas})


LONG_STEP = {"steps": [{"setWeight": 25, "pause": "300s"}]}


def test_another_replica_count_is_no_new_revision_and_the_canary_keeps_its_share_of_it() -> None:
    cluster = serving(4, **LONG_STEP)
    old = stable(cluster)
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    before = on_trial(cluster)
    assert cluster.revision_ready("reels") == {old: 3, before.revision: 1}
    scale(cluster, 8)
    cluster.run(30)
    after = on_trial(cluster)
    assert cluster.revision_ready("reels") == {old: 6, before.revision: 2}
    assert (after.revision, after.weight_since) == (before.revision, before.weight_since), "its step began anew"
    assert (status(cluster).replicas, status(cluster).selector) == (
        8,
        "recast.dev/kind=expert-server,recast.dev/model=reels",
    )
    scale(cluster, 2)
    cluster.run(30)
    assert cluster.revision_ready("reels") == {old: 1, before.revision: 1}
    assert on_trial(cluster).desired_weight == 50
    cluster.run(400)
    assert stable(cluster) == before.revision
    assert cluster.revision_ready("reels") == {before.revision: 2}


def test_a_count_that_changes_again_and_again_is_not_held_against_a_canary_that_had_its_weight() -> None:
    cluster = serving(4, **LONG_STEP)
    change_image(cluster, "server:2")
    cluster.until(at_weight(0))
    revision = on_trial(cluster).revision
    for turn in range(12):
        scale(cluster, 5 if turn % 2 == 0 else 4)
        cluster.run(60)
    assert on_trial(cluster).revision == revision
    cluster.run(400)
    assert stable(cluster) == revision


def test_a_count_that_changes_again_and_again_saves_no_canary_that_never_gets_ready() -> None:
    cluster = serving(4, **LONG_STEP)
    change_image(cluster, "server:2")
    cluster.until(lambda c: status(c).canary is not None)
    name = f"em-reels-{on_trial(cluster).revision}"
    for turn in range(12):
        cluster.deployments[name].ready_limit = 0
        scale(cluster, 5 if turn % 2 == 0 else 4)
        cluster.run(60)
        if status(cluster).failed_revisions:
            break
    assert [entry.reason for entry in status(cluster).failed_revisions] == ["ProgressDeadlineExceeded"]
