"""From the apiserver's JSON to the values that planning reads."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.observe import Key, Observer, observed_deployment, observed_pod, observed_run
from recast_operator.planning.snapshot import DISRUPTED, ObservedPod
from recast_operator.store import Store


def raw(name: str = "x", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "labels": labels or {}}
    return {"metadata": {**metadata, **rest.pop("metadata", {})}, **rest}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [state]}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (raw(), ObservedPod("x")),
        (raw(status={"conditions": [{"type": "Ready", "status": "True"}]}), ObservedPod("x", ready=True)),
        (
            raw(
                status={"conditions": [{"type": "Ready", "status": "True"}]},
                metadata={"deletionTimestamp": "2026-11-21T00:00:00Z"},
            ),
            ObservedPod("x"),
        ),
        (raw(status={"phase": "Failed"}), ObservedPod("x", gone=True)),
        (
            raw(status=container(state={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})),
            ObservedPod("x", waiting_reason="ImagePullBackOff", waiting_message="no such image"),
        ),
        (
            raw(
                status=container(
                    state={"waiting": {"reason": "CrashLoopBackOff"}},
                    lastState={"terminated": {"exitCode": 3, "message": "why"}},
                    restartCount=2,
                )
            ),
            ObservedPod("x", waiting_reason="CrashLoopBackOff", termination="why", exit_code=3, restarts=2),
        ),
        (
            raw(status={"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}),
            ObservedPod("x", unschedulable="0/1 nodes"),
        ),
        (
            raw(status={"conditions": [{"type": "DisruptionTarget", "status": "True"}], "phase": "Failed"}),
            ObservedPod("x", gone=True, disrupted=True),
        ),
    ],
)
def test_a_pod_is_what_its_status_says(pod: dict[str, Any], expected: ObservedPod) -> None:
    assert observed_pod(pod) == expected


@pytest.mark.parametrize(
    ("conditions", "state", "reason"),
    [
        ([], "Admitted", ""),
        ([{"type": "Failed", "status": "False"}], "Admitted", ""),
        ([{"type": "Complete", "status": "True"}], "Succeeded", ""),
        ([{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"}], "Failed", "PodFailurePolicy"),
        (
            [{"type": "Failed", "status": "True", "message": "Pod n/x has condition matching FailJob rule at index 0"}],
            "Failed",
            DISRUPTED,
        ),
        (
            [{"type": "Failed", "status": "True", "message": "exit code 1 matching FailJob rule at index 1"}],
            "Failed",
            "",
        ),
    ],
)
def test_a_job_is_what_its_conditions_say(conditions: list[Any], state: str, reason: str) -> None:
    labels = {"recast.dev/run": "7", "recast.dev/attempt": "2"}
    owner = [{"uid": "not-controlling"}, {"uid": "model", "controller": True}]
    job = observed_run(raw("j", labels, status={"conditions": conditions}, metadata={"ownerReferences": owner}), [])
    assert (job.state, job.reason, job.number, job.attempt, job.owner_uid) == (state, reason, 7, 2, "model")


def test_a_job_has_the_pods_of_its_name_and_a_deployment_those_its_selector_selects() -> None:
    pods = [
        raw("mine", {"batch.kubernetes.io/job-name": "j"}),
        raw("other", {"batch.kubernetes.io/job-name": "k"}),
        raw("web", {"app": "a", "r": "1"}, status={"conditions": [{"type": "Ready", "status": "True"}]}),
        raw("old", {"app": "a", "r": "0"}),
    ]
    assert [pod.name for pod in observed_run(raw("j"), pods).pods] == ["mine"]
    deployment = observed_deployment(
        raw(
            "d",
            {"recast.dev/revision": "abc", "recast.dev/lineage": "4"},
            spec={"replicas": 3, "selector": {"matchLabels": {"app": "a", "r": "1"}}},
            status={"observedGeneration": 1, "updatedReplicas": 1},
            metadata={"generation": 2},
        ),
        pods,
    )
    assert [pod.name for pod in deployment.pods] == ["web"]
    assert (deployment.ready, deployment.replicas, deployment.current) == (1, 3, False)
    assert (deployment.revision, deployment.lineage) == ("abc", 4)


def test_an_object_concerns_the_models_whose_plans_it_is_part_of() -> None:
    store = Store()
    observer = Observer(store)
    expert = raw(
        "reels",
        spec={"foundationRef": {"name": "new-fm"}},
        status={"stable": {"foundation": {"name": "old-fm"}}, "canary": None},
    )
    store.put("ExpertModel", expert)

    def concerned(kind: str, body: dict[str, Any]) -> set[str]:
        return {f"{key.kind}/{key.name}" for key in observer.concerned(kind, body)}

    assert concerned("ExpertModel", expert) == {
        "ExpertModel/reels",
        "FoundationModel/new-fm",
        "FoundationModel/old-fm",
    }
    assert concerned("FoundationModel", raw("new-fm")) == {"FoundationModel/new-fm", "ExpertModel/reels"}
    version = raw("v", spec={"model": {"kind": "ExpertModel", "name": "reels"}})
    assert concerned("ModelVersion", version) == {"ExpertModel/reels"}
    assert concerned("ModelVersion", raw("v", spec={"model": {"kind": "Nonsense"}})) == set()
    pod = raw("p", {"recast.dev/kind": "expert-server", "recast.dev/model": "reels"})
    assert concerned("Pod", pod) == {"ExpertModel/reels"}
    job = raw("j", {"recast.dev/kind": "foundation-trainer", "recast.dev/model": "new-fm"})
    assert concerned("Job", job) == {"FoundationModel/new-fm"}
    assert concerned("Pod", raw("p")) == set()


def test_a_version_that_cannot_be_read_is_left_out_and_stops_nobody_else() -> None:
    store = Store()
    store.put(
        "FoundationModel",
        raw(
            "home-fm",
            spec={
                "storage": {"persistentVolumeClaim": {"claimName": "models"}},
                "data": {"persistentVolumeClaim": {"claimName": "data"}, "path": "stream"},
                "training": {"image": "trainer:1"},
                "serving": {"image": "server:1"},
            },
            apiVersion="recast.dev/v1alpha1",
        ),
    )
    store.put("ModelVersion", raw("fm-home-fm-v1", spec={"number": "many"}, apiVersion="recast.dev/v1alpha1"))
    observed = Observer(store).foundation(Key("FoundationModel", "n", "home-fm"))
    assert observed is not None
    assert observed.versions == ()
    assert Observer(store).foundation(Key("FoundationModel", "n", "gone")) is None
