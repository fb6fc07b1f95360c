"""Every bad input ends in a condition with the words to act on, and nothing that served stops serving."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_simulator import Cluster, expert, foundation, measured

from recast_api.resources import ModelVersion
from recast_api.run import TerminationMessage
from recast_operator.planning.snapshot import ObservedPod
from recast_operator.planning.status.pod_diagnosis import diagnose

DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}


def serving() -> Cluster:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    return cluster


def still_serves(cluster: Cluster) -> None:
    assert sum(cluster.revision_ready("reels").values()) >= 4
    assert cluster.ready("fm-home-fm-l1") == 1
    assert cluster.condition("reels", "Ready").status == "True"


def test_a_foundation_that_does_not_exist_is_named_with_the_likely_one() -> None:
    cluster = serving()
    cluster.edit("reels", foundationRef={"name": "home-fn"})
    cluster.run(30)
    for kind in ("Ready", "Stalled"):
        condition = cluster.condition("reels", kind)
        assert condition.reason == "FoundationNotFound"
        assert condition.message == (
            'spec.foundationRef.name "home-fn" is not in namespace demo; did you mean "home-fm"? Serving is unchanged.'
        )
    still_serves(cluster)
    assert cluster.em("reels").status.run is None
    cluster.edit("reels", foundationRef={"name": "home-fm"})
    cluster.settle()
    assert cluster.condition("reels", "Stalled").status == "False"


def test_an_expert_that_never_had_a_foundation_waits_without_children() -> None:
    cluster = Cluster(expert("reels"))
    cluster.run(10)
    assert cluster.condition("reels", "Ready").reason == "FoundationNotFound"
    assert "create it or correct the name" in cluster.condition("reels", "Ready").message
    assert cluster.deployments == {}


def test_an_expert_whose_foundation_has_been_deleted_keeps_its_servers() -> None:
    cluster = serving()
    del cluster.models["home-fm"]
    cluster.run(30)
    assert sum(cluster.revision_ready("reels").values()) == 4
    assert cluster.condition("reels", "Ready").status == "True"


@pytest.mark.parametrize("reason", ["DataNotFound", "CorruptSegment", "SurfaceNotFound"])
def test_what_a_training_pod_finds_wrong_reads_as_a_condition(reason: str) -> None:
    cluster = serving()
    cluster.landing = lambda run: TerminationMessage(reason=reason, message="segments/2026-01-01T03.parquet: fix it")
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: bool(c.fm().status.failures))
    cluster.run(60)
    for kind in ("Trained", "Stalled"):
        assert cluster.condition("home-fm", kind).reason == reason
        assert "segments/2026-01-01T03.parquet: fix it" in cluster.condition("home-fm", kind).message
    assert cluster.condition("home-fm", "Ready").status == "True"
    assert cluster.submitted.count("fm-home-fm-r2-a1") == 1
    assert len(cluster.submitted) == 3, "a failure that says do not retry is not retried"
    still_serves(cluster)


def test_a_serving_image_that_cannot_be_pulled_is_rolled_back_at_the_deadline_and_named_before() -> None:
    cluster = serving()
    cluster.unpullable.add("nowhere:1")
    cluster.edit("reels", serving={"image": "nowhere:1", "replicas": 4}, rollout={"progressDeadlineSeconds": 30})
    cluster.run(10)
    ready = cluster.condition("reels", "Ready")
    assert ready.reason == "ImagePullBackOff"
    assert 'image "nowhere:1" cannot be pulled; correct spec.serving.image' in ready.message
    still_serves(cluster)
    cluster.until(lambda c: bool(c.em("reels").status.failed_revisions), limit=60)
    cluster.run(20)
    failed = cluster.em("reels").status.failed_revisions[0]
    assert failed.reason == "ProgressDeadlineExceeded"
    assert "nowhere:1" in failed.message
    assert len(cluster.revision_ready("reels")) == 1
    still_serves(cluster)


def test_a_foundation_image_that_cannot_be_pulled_keeps_the_candidate_waiting() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: "fm-home-fm-l2" in c.deployments)
    candidate = cluster.deployments["fm-home-fm-l2"].body
    candidate["spec"]["template"]["spec"]["containers"][0]["image"] = "nowhere:1"
    del candidate["metadata"]["annotations"]["recast.dev/last-applied"]  # as if it had been applied with that image
    cluster.unpullable.add("nowhere:1")
    cluster.run(30)
    assert cluster.condition("home-fm", "Ready").reason == "ImagePullBackOff"
    assert cluster.fm().status.current.version == 1
    still_serves(cluster)


def test_a_version_forged_under_another_uid_is_never_served() -> None:
    cluster = serving()
    run = cluster.jobs["em-reels-r1-a1"].run.model_copy(update={"number": 9, "job_name": "em-reels-r9-a1"})
    cluster.land(run, [measured(0.1)], uid="somebody-else")
    cluster.run(30)
    forged = cluster.versions["em-reels-v9"]
    assert (forged.status.conditions[0].status, forged.status.conditions[0].reason) == ("False", "UnknownRun")
    assert "never served; delete it" in forged.status.conditions[0].message
    assert forged.metadata.owner_references == []
    assert cluster.em("reels").status.stable.version == 1
    assert cluster.em("reels").status.latest == 1
    cluster.edit("reels", training={"image": "trainer:2"})
    cluster.until(lambda c: c.em("reels").status.run is not None)
    assert cluster.em("reels").status.run.number == 10, "the forged number is taken all the same"


def test_a_version_that_names_no_run_of_ours_is_never_served() -> None:
    cluster = serving()
    run = cluster.jobs["em-reels-r1-a1"].run.model_copy(update={"number": 9, "job_name": "em-ads-r9-a1"})
    cluster.land(run, [measured(0.1)])
    cluster.run(30)
    assert cluster.versions["em-reels-v9"].status.conditions[0].reason == "UnknownRun"
    assert cluster.em("reels").status.canary is None


def test_a_forged_version_that_says_of_itself_that_it_is_accepted_is_still_judged() -> None:
    cluster = serving()
    run = cluster.jobs["em-reels-r1-a1"].run.model_copy(update={"number": 9, "job_name": "em-reels-r9-a1"})
    forged = cluster.land(run, [measured(0.1)], uid="somebody-else")
    verdict = cluster.versions["em-reels-v1"].status
    cluster.versions[forged.metadata.name] = forged.model_copy(update={"status": verdict})
    cluster.run(10)
    assert cluster.versions["em-reels-v9"].status.conditions[0].status == "False"


def test_a_version_landed_by_git_is_judged_and_rolled_out_like_any_other() -> None:
    cluster = serving()
    run = cluster.jobs["em-reels-r1-a1"].run.model_copy(update={"number": 7})
    landed = cluster.land(run, [measured(0.6)])
    body = landed.spec.wire()
    del body["run"]
    cluster.versions[landed.metadata.name] = ModelVersion.model_validate(
        {"metadata": landed.metadata.model_dump(by_alias=True), "spec": body}
    )
    cluster.until(lambda c: c.em("reels").status.stable.version == 7)
    assert cluster.versions["em-reels-v7"].metadata.owner_references == [], "what Git made, Git owns"


def test_a_truncated_artefact_ends_the_canary_at_once_in_the_servers_own_words() -> None:
    cluster = serving()
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    said = TerminationMessage(
        reason="ArtifactTruncated", message="model.safetensors has 12 of 900 bytes: restore the file"
    )
    observed = cluster.observe_expert("reels")
    canary = observed.model.status.canary
    deployments = tuple(
        replace(
            entry,
            ready=0,
            pods=(ObservedPod("p", image="server:2", termination=said.encode(), exit_code=1, restarts=1),),
        )
        if entry.revision == canary.revision
        else entry
        for entry in observed.children.deployments
    )
    from recast_operator.planning.expert import plan_expert

    plan = plan_expert(replace(observed, children=replace(observed.children, deployments=deployments)), cluster.now)
    assert plan.status.canary is None
    assert plan.status.failed_revisions[0].reason == "ArtifactTruncated"
    assert "model.safetensors has 12 of 900 bytes" in plan.status.failed_revisions[0].message
    assert plan.status.stable == observed.model.status.stable.model_copy(update={"replicas": 4, "ready_replicas": 4})


def test_a_foundation_in_use_is_not_deleted_and_says_who_reads_it() -> None:
    cluster = serving()
    model = cluster.fm()
    assert "recast.dev/in-use" in model.metadata.finalizers
    meta = model.metadata.model_copy(update={"deletion_timestamp": "2026-11-21T04:00:00Z"})
    cluster.models["home-fm"] = model.model_copy(update={"metadata": meta})
    cluster.run(5)
    assert cluster.condition("home-fm", "Stalled").reason == "InUse"
    assert cluster.condition("home-fm", "Stalled").message.startswith("home-fm is being deleted, but reels reads it")
    assert "recast.dev/in-use" in cluster.fm().metadata.finalizers
    assert [event.reason for name, event in cluster.events if name == "home-fm"].count("InUse") == 1
    still_serves(cluster)
    del cluster.models["reels"]
    cluster.run(2)
    assert cluster.fm().metadata.finalizers == []


def test_a_first_training_image_that_cannot_be_pulled_is_named() -> None:
    cluster = Cluster(foundation())
    cluster.until(lambda c: bool(c.jobs))
    sim = cluster.jobs["fm-home-fm-r1-a1"]
    pod = ObservedPod("p", image="trainer:1", waiting_reason="ErrImagePull", waiting_message="manifest unknown")
    sim.observed = replace(sim.observed, pods=(pod,))
    cluster.run(3)
    condition = cluster.condition("home-fm", "Ready")
    assert condition.reason == "ImagePullBackOff"
    assert "correct spec.training.image" in condition.message


def test_a_suspended_model_says_that_it_is_and_not_that_a_version_will_come() -> None:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.edit("home-fm", suspend=True)
    cluster.edit("reels", suspend=True)
    cluster.run(10)
    ready = cluster.condition("home-fm", "Ready")
    assert (ready.reason, ready.message) == ("Suspended", "spec.suspend is set: no training begins until it is unset")
    assert cluster.condition("reels", "Ready").message == (
        "home-fm has no version that serves yet; the first training begins when it has, and "
        "spec.suspend is set: no training begins until it is unset"
    )
    assert "spec.suspend is set" in cluster.condition("reels", "Stale").message


def test_a_foundation_that_serves_says_that_it_is_suspended() -> None:
    cluster = serving()
    assert "spec.suspend" not in cluster.condition("home-fm", "Ready").message
    cluster.edit("home-fm", suspend=True)
    cluster.run(10)
    assert cluster.condition("home-fm", "Ready").message.endswith("no training begins until it is unset")
    still_serves(cluster)


@pytest.mark.parametrize(
    ("restarts", "exit_code", "crashing"),
    [(0, None, False), (3, None, False), (0, 1, False), (3, 0, False), (3, 1, True)],
)
def test_a_pod_crashes_in_a_loop_when_it_ended_badly_and_was_started_again(
    restarts: int, exit_code: int | None, crashing: bool
) -> None:
    found = diagnose((ObservedPod("p", restarts=restarts, exit_code=exit_code),), "spec.serving.image")
    assert (found is not None and found.reason == "CrashLoop") is crashing
