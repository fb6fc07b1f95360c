"""From a Job and its pods to the neutral run that planning judges."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.job_runs import observed_run
from recast_operator.adapters.pods import observed_pod
from recast_operator.planning.snapshot import DISRUPTED, ObservedPod


def raw(name: str = "x", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "labels": labels or {}, **rest.pop("metadata", {})}
    return {"metadata": metadata, **rest}


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


def test_a_job_has_the_pods_of_its_name() -> None:
    pods = [raw("mine", {"batch.kubernetes.io/job-name": "j"}), raw("other", {"batch.kubernetes.io/job-name": "k"})]
    assert [pod.name for pod in observed_run(raw("j"), pods).pods] == ["mine"]
