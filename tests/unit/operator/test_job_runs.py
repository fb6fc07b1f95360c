"""From a Job and its pods to the neutral run that planning judges."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.job_runs import observed_run
from recast_operator.adapters.pods import observed_pod
from recast_operator.planning.snapshot import DEADLINE_EXCEEDED, DISRUPTED, ObservedPod


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


def test_every_part_of_a_pod_is_read_from_its_own_field() -> None:
    full = raw(
        "p",
        spec={"containers": [{"image": "trainer:1"}, {"image": "sidecar:1"}]},
        status={
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "False"},
                {"type": "PodScheduled", "status": "True", "message": "it is"},
                {"type": "DisruptionTarget", "status": "False"},
            ],
            "containerStatuses": [
                {
                    "restartCount": 3,
                    "state": {"terminated": {"exitCode": 1, "message": "now"}},
                    "lastState": {"terminated": {"exitCode": 2, "message": "before"}},
                },
                {"restartCount": 9, "state": {"waiting": {"reason": "Sidecar"}}},
            ],
        },
    )
    assert observed_pod(full) == ObservedPod("p", image="trainer:1", termination="now", exit_code=1, restarts=3)


@pytest.mark.parametrize(("phase", "gone"), [("Pending", False), ("Running", False), ("Succeeded", True), ("", False)])
def test_a_pod_that_finished_is_gone(phase: str, gone: bool) -> None:
    assert observed_pod(raw(status={"phase": phase})).gone is gone


def test_a_pod_with_nulls_for_lists_is_a_pod_without_a_word() -> None:
    empty = raw(spec={"containers": None}, status={"conditions": None, "containerStatuses": None})
    assert observed_pod(empty) == ObservedPod("x")
    assert observed_pod({"metadata": {"name": "x"}, "spec": None, "status": None}) == ObservedPod("x")


TRUE = {"status": "True"}
DISRUPTION = "Pod n/x has condition DisruptionTarget matching FailJob rule at index 0"


@pytest.mark.parametrize(
    ("conditions", "state", "reason"),
    [
        ([], "Admitted", ""),
        ([{"type": "Failed", "status": "False"}], "Admitted", ""),
        ([{"type": "Complete", **TRUE}], "Succeeded", ""),
        ([{"type": "Complete", "status": "Unknown"}], "Admitted", ""),
        ([{"type": "FailureTarget", **TRUE, "reason": "PodFailurePolicy"}], "Failed", "PodFailurePolicy"),
        ([{"type": "Failed", **TRUE, "reason": "PodFailurePolicy", "message": DISRUPTION}], "Failed", DISRUPTED),
        ([{"type": "Failed", **TRUE, "message": "exit code 1 matching FailJob rule at index 1"}], "Failed", ""),
        ([{"type": "Failed", **TRUE, "reason": "DeadlineExceeded"}], "Failed", DEADLINE_EXCEEDED),
        (
            [{"type": "FailureTarget", **TRUE, "reason": "Early"}, {"type": "Failed", **TRUE, "reason": "Final"}],
            "Failed",
            "Final",
        ),
        ([{"type": "Suspended", **TRUE}], "Admitted", ""),
    ],
)
def test_a_job_is_what_its_conditions_say(conditions: list[Any], state: str, reason: str) -> None:
    labels = {"recast.dev/run": "7", "recast.dev/attempt": "2"}
    owner = [{"uid": "not-controlling"}, {"uid": "model", "controller": True}]
    run = observed_run(raw("j", labels, status={"conditions": conditions}, metadata={"ownerReferences": owner}), [])
    assert (run.name, run.state, run.reason) == ("j", state, reason)
    assert (run.number, run.attempt, run.owner_uid) == (7, 2, "model")


def test_a_failed_job_keeps_the_words_of_its_condition() -> None:
    failed = {"conditions": [{"type": "Failed", **TRUE, "reason": "X", "message": "too long ago"}]}
    assert observed_run(raw("j", status=failed), []).message == "too long ago"
    assert (
        observed_run(raw("j", status={"conditions": [{"type": "Complete", **TRUE, "message": "fine"}]}), []).message
        == ""
    )


@pytest.mark.parametrize(
    ("spec", "status", "state"),
    [
        ({"suspend": True}, {}, "Queued"),
        ({"suspend": False}, {}, "Admitted"),
        ({"suspend": True}, {"conditions": [{"type": "Failed", **TRUE}]}, "Failed"),
        ({"suspend": True}, {"conditions": [{"type": "Complete", **TRUE}]}, "Succeeded"),
        ({"parallelism": 2}, {"ready": 1}, "Admitted"),
        ({"parallelism": 2}, {"ready": 2}, "Running"),
        ({}, {"ready": 1}, "Running"),
        ({"suspend": True, "parallelism": 1}, {"ready": 1}, "Queued"),
    ],
)
def test_a_job_that_has_not_ended_runs_once_all_of_its_pods_are_ready(
    spec: dict[str, Any], status: dict[str, Any], state: str
) -> None:
    assert observed_run(raw("j", spec=spec, status=status), []).state == state


def test_a_job_fails_through_no_fault_of_its_own_if_one_of_its_pods_was_disrupted() -> None:
    victim = raw(
        "p",
        {"batch.kubernetes.io/job-name": "j"},
        status={"conditions": [{"type": "DisruptionTarget", **TRUE}], "phase": "Failed"},
    )
    late = {"conditions": [{"type": "Failed", **TRUE, "reason": "DeadlineExceeded"}]}
    assert observed_run(raw("j", status=late), [victim]).reason == DISRUPTED
    assert observed_run(raw("j"), [victim]).reason == ""  # it has not failed yet
    assert observed_run(raw("other", status=late), [victim]).reason == DEADLINE_EXCEEDED


def test_labels_that_hold_no_number_and_a_job_without_an_owner_are_no_error() -> None:
    run = observed_run(raw("j", {"recast.dev/run": "many", "recast.dev/attempt": "-1"}), [])
    assert (run.number, run.attempt, run.owner_uid) == (0, 0, "")
    bare = {"metadata": {"name": "j", "labels": None, "ownerReferences": None}, "spec": None, "status": None}
    assert observed_run(bare, []).state == "Admitted"


def test_a_job_has_the_pods_of_its_name() -> None:
    pods = [raw("mine", {"batch.kubernetes.io/job-name": "j"}), raw("other", {"batch.kubernetes.io/job-name": "k"})]
    assert [pod.name for pod in observed_run(raw("j"), pods).pods] == ["mine"]
