"""What TorchX's command line is told of Jobs, and what it can do to them."""

from __future__ import annotations

from typing import Any

import pytest
from run_builders import NAME, Scripted
from torchx.specs import AppState, ReplicaState

from recast_operator.adapters.errors import NotFound
from recast_operator.adapters.job_scheduler import JobScheduler, state_of

ID = f"demo:{NAME}"
JOB = f"/apis/batch/v1/namespaces/demo/jobs/{NAME}"
PODS = "/api/v1/namespaces/demo/pods"
GONE = NotFound("no such thing", status=404)


def job(status: dict[str, Any], annotations: dict[str, str] | None = None) -> dict[str, Any]:
    labels = {"torchx.pytorch.org/role-name": "trainer"}
    metadata = {"name": NAME, "namespace": "demo", "labels": labels, "annotations": annotations or {}}
    return {"metadata": metadata, "status": status}


def pod(index: int, phase: str) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    return {"metadata": {"name": f"{NAME}-{index}-x", "labels": labels}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("status", "annotations", "state"),
    [
        ({}, {}, AppState.PENDING),
        ({"active": 2, "ready": 0}, {}, AppState.PENDING),
        ({"active": 2, "ready": 1}, {}, AppState.RUNNING),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, {}, AppState.PENDING),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}], "active": 1, "ready": 1}, {}, AppState.RUNNING),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, {}, AppState.SUCCEEDED),
        (
            {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "late"}]},
            {"recast.dev/cancelled": "true"},
            AppState.FAILED,
        ),
        ({"active": 0}, {"recast.dev/cancelled": "true"}, AppState.CANCELLED),
    ],
)
def test_a_job_is_in_the_state_that_its_conditions_say(
    status: dict[str, Any], annotations: dict[str, str], state: AppState
) -> None:
    assert state_of(job(status, annotations))[0] == state


def test_a_failed_job_says_why_and_a_cancelled_one_that_it_was() -> None:
    failed = {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "late"}]}
    assert state_of(job(failed))[1] == "DeadlineExceeded: late"
    assert state_of(job({}, {"recast.dev/cancelled": "true"}))[1] == "cancelled"


def test_describe_gives_the_job_and_its_pods_in_order_of_their_index() -> None:
    pods = {"items": [pod(10, "Failed"), pod(2, "Running"), pod(0, "Succeeded"), pod(1, "Odd"), pod(3, "Pending")]}
    api = Scripted((f"GET {JOB}", job({"active": 4, "ready": 1})), (f"GET {PODS}", pods))
    answer = JobScheduler("", api).describe(ID)
    assert answer is not None
    assert (answer.app_id, answer.state) == (ID, AppState.RUNNING)
    (role,) = answer.roles_statuses
    assert role.role == "trainer"
    assert [(replica.id, replica.state, replica.hostname) for replica in role.replicas] == [
        (0, ReplicaState.SUCCEEDED, f"{NAME}-0-x"),
        (1, ReplicaState.UNKNOWN, f"{NAME}-1-x"),
        (2, ReplicaState.RUNNING, f"{NAME}-2-x"),
        (3, ReplicaState.PENDING, f"{NAME}-3-x"),
        (10, ReplicaState.FAILED, f"{NAME}-10-x"),
    ]
    assert api.finish()[1].params == {"labelSelector": f"batch.kubernetes.io/job-name={NAME}"}


def test_a_job_that_is_not_there_is_described_by_nothing() -> None:
    assert JobScheduler("", Scripted((f"GET {JOB}", GONE))).describe(ID) is None


@pytest.mark.parametrize(
    ("config", "path"), [({"namespace": "demo"}, "/apis/batch/v1/namespaces/demo/jobs"), (None, "/apis/batch/v1/jobs")]
)
def test_the_jobs_that_this_scheduler_made_are_listed(config: dict[str, str] | None, path: str) -> None:
    done = job({"conditions": [{"type": "Complete", "status": "True"}]})
    api = Scripted((f"GET {path}", {"items": [done]}))
    assert [(item.app_id, item.name, item.state) for item in JobScheduler("", api).list(config)] == [
        (ID, NAME, AppState.SUCCEEDED)
    ]
    selector = "app.kubernetes.io/managed-by=recast,torchx.pytorch.org/app-name"
    assert api.finish()[0].params == {"labelSelector": selector}


def test_cancelling_takes_the_pods_away_and_keeps_the_job_marked() -> None:
    found = [(f"GET {JOB}", job({"active": 1})), (f"GET {PODS}", {"items": []})]
    api = Scripted(*found, (f"PATCH {JOB}", {}))
    JobScheduler("", api).cancel(ID)
    patch = api.finish()[-1]
    assert patch.body == {"metadata": {"annotations": {"recast.dev/cancelled": "true"}}, "spec": {"suspend": True}}
    assert patch.content_type == "application/merge-patch+json"


def test_deleting_a_job_takes_its_pods_along() -> None:
    found = [(f"GET {JOB}", job({"active": 1})), (f"GET {PODS}", {"items": []})]
    api = Scripted(*found, (f"DELETE {JOB}", {}))
    JobScheduler("", api).delete(ID)
    body = api.finish()[-1].body
    assert body is not None
    assert body["propagationPolicy"] == "Background"


def test_what_is_not_there_is_neither_cancelled_nor_deleted() -> None:
    for act in ("cancel", "delete"):
        api = Scripted((f"GET {JOB}", GONE))
        getattr(JobScheduler("", api), act)(ID)
        api.finish()
