"""What cannot be read, has not been seen, or was never accepted changes nothing that serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_values import pin
from planning_simulator import Cluster, expert, foundation, measured

from recast_api.resources import ModelVersion
from recast_operator.planning.clock import stamp
from recast_operator.planning.foundation import plan_foundation
from recast_operator.planning.rollout.candidates import ServableFoundations
from recast_operator.planning.snapshot import FailedTrial, FleetMember

DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}
DATA_3 = DATA_2 | {"until": "2026-03-01T00:00:00Z"}
NAMES = ("ads", "feed", "reels")


def serving(**fleet: Any) -> Cluster:
    cluster = Cluster(foundation(fleet=fleet), *(expert(name) for name in NAMES))
    cluster.until(lambda c: all(c.em(name).status.stable for name in NAMES))
    cluster.run(5)
    return cluster


def warnings(cluster: Cluster, name: str, reason: str) -> int:
    return sum(1 for model, event in cluster.events if (model, event.type, event.reason) == (name, "Warning", reason))


def by_ci(cluster: Cluster, number: int, lineage: int, **spec: Any) -> None:
    """A foundation version that names no run, continuing a lineage."""
    run = cluster.jobs["fm-home-fm-r1-a1"].run.model_copy(update={"number": number})
    landed = cluster.land(run, [measured(0.7)])
    body = landed.spec.wire() | {"lineage": lineage} | spec
    del body["run"]
    cluster.versions[landed.metadata.name] = ModelVersion.model_validate(
        {"metadata": landed.metadata.model_dump(by_alias=True), "spec": body}
    )


def served(cluster: Cluster, lineage: int = 1) -> str:
    container = cluster.deployments[f"fm-home-fm-l{lineage}"].body["spec"]["template"]["spec"]["containers"][0]
    return next(str(item["value"]) for item in container["env"] if "digest" in str(item.get("value")))


def test_a_version_that_is_not_finite_never_comes_to_serve_its_lineage() -> None:
    cluster = serving()
    before = served(cluster)
    by_ci(cluster, 2, lineage=1, finite=False)
    cluster.run(30)
    assert cluster.versions["fm-home-fm-v2"].status.conditions[0].reason == "NotFinite"
    assert served(cluster) == before
    assert [(entry.lineage, entry.version) for entry in cluster.fm().status.lineages] == [(1, 1)]
    by_ci(cluster, 3, lineage=1)
    cluster.until(lambda c: c.fm().status.current.version == 3)
    assert cluster.versions["fm-home-fm-v3"].spec.digest in served(cluster)
    assert cluster.fm().status.summary.experts == "3/3 on v3", "who reads the lineage reads its newest version"
    assert all(cluster.condition(name, "Stale").status == "False" for name in NAMES)


@pytest.mark.parametrize("name", ["home-fm", "reels"])
def test_a_version_that_cannot_be_read_is_not_trained_again_and_the_model_says_which(name: str) -> None:
    cluster = serving()
    cluster.edit(name, training={"image": "trainer:1", "learningRate": "0.5"})
    prefix = "fm" if name == "home-fm" else "em"
    cluster.until(lambda c: c.models[name].status.latest == 2)
    cluster.run(120)
    submitted = list(cluster.submitted)
    cluster.unreadable = {f"{prefix}-{name}-v2"}
    cluster.run(60)
    assert cluster.submitted == submitted
    stalled = cluster.condition(name, "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "VersionUnreadable")
    assert f"cannot read the ModelVersion {prefix}-{name}-v2" in stalled.message
    cluster.unreadable = set()
    cluster.run(10)
    assert cluster.condition(name, "Stalled").status == "False"
    assert cluster.submitted == submitted


def test_a_canary_stands_still_while_its_version_cannot_be_read() -> None:
    cluster = serving()
    cluster.edit("reels", training={"image": "trainer:1", "learningRate": "0.5"})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.run(5)
    pods = cluster.revision_ready("reels")
    cluster.unreadable = {"em-reels-v2"}
    cluster.run(60)
    canary = cluster.em("reels").status.canary
    assert canary is not None
    assert canary.message == "ModelVersion em-reels-v2 cannot be read"
    assert cluster.revision_ready("reels") == pods
    assert cluster.condition("reels", "Stalled").reason == "VersionUnreadable"
    cluster.unreadable = set()
    cluster.until(lambda c: c.em("reels").status.stable.version == 2)


def test_while_an_expert_cannot_be_read_nothing_is_promoted_or_retired_and_the_foundation_says_which() -> None:
    cluster = serving(pilots=["reels"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.unreadable = {"ads"}
    cluster.until(lambda c: c.em("reels").status.stable.foundation.version == 2)
    cluster.run(60)
    assert cluster.fm().status.current.version == 1
    assert cluster.fm().status.candidate.version == 2
    for kind in ("Stalled", "Ready", "Promoted"):
        condition = cluster.condition("home-fm", kind)
        assert condition.reason == "ExpertUnreadable"
        assert "cannot read the ExpertModel ads" in condition.message
        assert "correct or delete the expert" in condition.message
    assert cluster.condition("home-fm", "Ready").status == "True"
    assert warnings(cluster, "home-fm", "ExpertUnreadable") == 1
    cluster.unreadable = set()
    cluster.until(lambda c: c.fm().status.current.version == 2, limit=5)
    assert cluster.condition("home-fm", "Stalled").status == "False"


def test_servers_that_only_an_unreadable_expert_may_read_are_kept_whatever_its_status_shows() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.stable.foundation.version == 2)
    cluster.unreadable = {"ads"}
    status = cluster.em("ads").status.model_copy(update={"stable": None, "canary": None})
    cluster.models["ads"] = cluster.em("ads").model_copy(update={"status": status})
    cluster.run(120)
    assert cluster.ready("fm-home-fm-l1") == 1
    assert cluster.versions["fm-home-fm-v1"].status.summary.state == "Accepted"
    cluster.unreadable = set()
    cluster.run(16)
    assert "fm-home-fm-l1" not in cluster.deployments


def test_a_foundation_whose_own_status_was_lost_deletes_no_servers_while_an_expert_cannot_be_read() -> None:
    cluster = serving()
    observed = cluster.observe_foundation("home-fm")
    blank = observed.model.model_copy(update={"status": foundation().status})
    strangers = (FleetMember("ads", "", retiring=(), readable=False),)
    lost = replace(observed, model=blank, experts=strangers, versions=())
    assert plan_foundation(lost, cluster.now).deletions == ()
    assert plan_foundation(replace(lost, experts=()), cluster.now).deletions != ()


def test_an_unreadable_expert_keeps_the_slot_that_it_was_granted() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.wave.granted == ["ads"])
    cluster.unreadable = {"ads"}
    cluster.run(120)
    assert cluster.fm().status.wave.granted == ["ads"]
    assert cluster.fm().status.wave.waiting == ["feed", "reels"]


def test_a_foundation_is_not_let_go_while_an_expert_cannot_be_read() -> None:
    cluster = serving()
    for name in NAMES[1:]:
        del cluster.models[name]
    model = cluster.fm()
    meta = model.metadata.model_copy(update={"deletion_timestamp": "2026-11-21T04:00:00Z"})
    observed = replace(cluster.observe_foundation("home-fm"), model=model.model_copy(update={"metadata": meta}))
    doubtful = replace(observed, experts=(FleetMember("ads", "", readable=False),))
    plan = plan_foundation(doubtful, cluster.now)
    assert plan.finalizers is None
    assert "ads" in next(entry for entry in plan.status.conditions if entry.type == "Stalled").message
    assert plan_foundation(replace(observed, experts=()), cluster.now).finalizers == ()


def test_an_expert_whose_foundation_cannot_be_read_keeps_its_canary_and_trains_nothing() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("ads").status.canary is not None)
    revision = cluster.em("ads").status.canary.revision
    cluster.unreadable = {"home-fm"}
    before = len(cluster.submitted)
    cluster.edit("feed", training={"image": "trainer:2"})
    cluster.settle()
    assert cluster.em("ads").status.canary.revision == revision
    for kind in ("Ready", "Stalled"):
        condition = cluster.condition("feed", kind)
        assert (condition.status, condition.reason) == ("True", "FoundationUnreadable")
        assert 'FoundationModel "home-fm" exists' in condition.message
    assert cluster.condition("feed", "Stale").reason == "TrainingSpecChanged"
    assert (cluster.condition("reels", "Stale").status, cluster.condition("reels", "Stale").reason) == (
        "Unknown",
        "FoundationUnreadable",
    )
    cluster.until(lambda c: c.em("ads").status.canary is None)
    assert cluster.em("ads").status.stable.revision == revision, "what was begun is brought to its end"
    assert cluster.submitted[before:] == []
    assert sum(cluster.revision_ready("feed").values()) >= 4


def test_a_place_in_the_queue_is_not_lost_over_a_foundation_that_cannot_be_read() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.refresh is not None)
    since = cluster.em("reels").status.refresh.since
    cluster.unreadable = {"home-fm"}
    cluster.run(20)
    assert cluster.em("reels").status.refresh.since == since
    cluster.unreadable = set()
    cluster.run(2)
    assert cluster.em("reels").status.refresh.since == since


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suspend": True}, "reels has spec.suspend set: unset it"),
        (
            {"refresh": {"triggers": ["SpecChange"]}},
            "reels has no FoundationMajor among its spec.refresh.triggers: add it",
        ),
    ],
)
def test_a_pilot_that_will_not_follow_holds_the_candidate_and_is_named_once(change: dict[str, Any], words: str) -> None:
    cluster = serving(pilots=["reels"])
    cluster.edit("reels", **change)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.candidate is not None)
    cluster.run(120)
    assert cluster.fm().status.current.version == 1
    for kind in ("Stalled", "Ready", "Promoted"):
        condition = cluster.condition("home-fm", kind)
        assert condition.reason == "PilotCannotFollow"
        assert words in condition.message
        assert "or take the pilot out of spec.fleet.pilots" in condition.message
    assert warnings(cluster, "home-fm", "PilotCannotFollow") == 1
    cluster.edit("home-fm", fleet={"pilots": []})
    cluster.until(lambda c: c.fm().status.current.version == 2, limit=5)
    assert cluster.condition("home-fm", "Stalled").status == "False"


def test_a_pilot_that_is_not_there_holds_nothing_back_and_is_named() -> None:
    cluster = serving(pilots=["reels", "reel"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.condition("home-fm", "Ready").reason == "PilotsRefreshing")
    assert "no expert reel reads this foundation" in cluster.condition("home-fm", "Ready").message
    cluster.until(lambda c: c.fm().status.current.version == 2)
    assert warnings(cluster, "home-fm", "PilotNotFound") == 1


def test_servers_go_only_when_no_pod_of_a_retiring_revision_reads_them_any_more() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: all(c.em(name).status.stable.foundation.version == 2 for name in NAMES))
    draining = replace(cluster.observe_foundation("home-fm"), experts=(FleetMember("ads", "x", retiring=(pin(1),)),))
    plan = plan_foundation(draining, cluster.now)
    (old,) = (entry for entry in plan.status.lineages if entry.lineage == 1)
    assert (old.pinned_by, old.unpinned_since) == (["ads"], None)


def test_a_newer_version_does_not_begin_on_a_foundation_that_cannot_be_read() -> None:
    cluster = serving()
    observed = replace(cluster.observe_expert("ads"), foundations={}, unreadable_foundations=frozenset({"home-fm"}))
    assert (
        ServableFoundations(observed).objection(cluster.em("ads").status.stable.foundation) == "home-fm cannot be read"
    )
    gone = replace(observed, unreadable_foundations=frozenset())
    assert ServableFoundations(gone).objection(cluster.em("ads").status.stable.foundation) == "home-fm is not there"


def test_a_foundation_that_is_being_deleted_trains_nothing() -> None:
    cluster = serving()
    meta = cluster.fm().metadata.model_copy(update={"deletion_timestamp": "2026-11-21T04:00:00Z"})
    cluster.models["home-fm"] = cluster.fm().model_copy(update={"metadata": meta})
    cluster.edit("home-fm", data=DATA_2)
    before = list(cluster.submitted)
    cluster.run(30)
    assert cluster.submitted == before
    assert cluster.fm().status.run is None


def test_the_pass_that_rejects_a_candidate_says_so_in_its_own_conditions() -> None:
    cluster = serving(pilots=["reels"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    found = FailedTrial(2, "AnalysisFailed", "error-rate 0.2", stamp(cluster.now), serving_changed=False)
    pilot = FleetMember("reels", "home-fm", stable=pin(1), failed_trials=(found,))
    status = plan_foundation(replace(cluster.observe_foundation("home-fm"), experts=(pilot,)), cluster.now).status
    assert status.candidate is None
    said = {entry.type: (entry.status, entry.reason) for entry in status.conditions}
    for kind, state in (("Stalled", "True"), ("Promoted", "False"), ("Trained", "False")):
        assert said[kind] == (state, "PilotAnalysisFailed")
