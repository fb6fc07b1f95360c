"""The rendered chart on a real kube-apiserver: what each service account can do, and what a trainer cannot forge."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from chart import NAMESPACE, rendered
from installed import VERSIONS, WORKLOADS, Connect, Installed, apply, install, url

pytestmark = pytest.mark.integration

DIGEST = "sha256:" + "ab" * 32


def version(model: str = "home-fm", number: int = 2, attempt: int = 1, **spec: Any) -> dict[str, Any]:
    """A foundation's version as its trainer writes it."""
    return {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"fm-{model}-v{number}"},
        "spec": {
            "model": {"kind": "FoundationModel", "name": model, "uid": "u-1"},
            "number": number,
            "lineage": number,
            "digest": DIGEST,
            "path": f"fm/{model}/u-1/v{number}",
            "watermark": "2026-01-02T03:04:05Z",
            "run": {"jobName": f"fm-{model}-r{number}-a{attempt}", "attempt": attempt, "inputsHash": "x"},
            **spec,
        },
    }


@pytest.fixture(scope="module")
def installed(admin: httpx.Client, connect: Connect) -> Installed:
    made = install(admin, connect)
    # The policy is compiled by a controller inside the apiserver: wait until it refuses what it must.
    stranger = made.trainer("fm-other-r1-a1-0-abcde")
    deadline = time.monotonic() + 60
    while stranger.post(VERSIONS, params={"dryRun": "All"}, json=version("probe")).status_code != 403:
        assert time.monotonic() < deadline, "the admission policy never took effect"
        time.sleep(0.1)
    return made


def test_the_release_applies_twice_without_a_conflict(installed: Installed) -> None:
    apply(installed.admin, rendered(workloadNamespaces=[WORKLOADS]))


def test_the_policy_has_no_type_errors(installed: Installed) -> None:
    policy = next(found for found in rendered() if found["kind"] == "ValidatingAdmissionPolicy")
    stored = installed.admin.get(url(policy)).raise_for_status().json()
    assert stored.get("status", {}).get("typeChecking", {}).get("expressionWarnings", []) == []


def test_a_trainer_lands_the_version_of_its_own_run(installed: Installed) -> None:
    trainer = installed.trainer("fm-home-fm-r2-a1-0-k7x2p")
    answer = trainer.post(VERSIONS, json=version(number=2))
    assert answer.status_code == 201, answer.text
    assert trainer.get(f"{VERSIONS}/fm-home-fm-v2").json()["spec"]["digest"] == DIGEST
    assert trainer.post(VERSIONS, json=version(number=2)).status_code == 409


def test_an_experts_trainer_lands_its_own_version_too(installed: Installed) -> None:
    made = version("reels", 4, 2)
    made["metadata"]["name"] = "em-reels-v4"
    made["spec"] |= {
        "model": {"kind": "ExpertModel", "name": "reels", "uid": "u-2"},
        "path": "em/reels/u-2/v4",
        "run": {"jobName": "em-reels-r4-a2", "attempt": 2, "inputsHash": "x"},
        "foundation": {"name": "home-fm", "version": 2, "lineage": 2, "digest": DIGEST},
    }
    answer = installed.trainer("em-reels-r4-a2-1-00000").post(VERSIONS, json=made)
    assert answer.status_code == 201, answer.text


CHILD_KINDS = (
    ("apps", "deployments"),
    ("", "services"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
)
CHILD_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
OWN_POD = "fm-home-fm-r3-a1-0-k7x2p"
FORGERIES = {
    "another model's version": (OWN_POD, version("other", 3), 'is no pod of Job "fm-other-r3-a1"'),
    "another run's number": (OWN_POD, version(number=4), 'is no pod of Job "fm-home-fm-r4-a1"'),
    "another attempt": (OWN_POD, version(number=3, attempt=2), "is no pod of Job"),
    "its own Job named on another model's version": (
        OWN_POD,
        version("other", 3, run={"jobName": "fm-home-fm-r3-a1", "attempt": 1, "inputsHash": "x"}),
        "lands the version of its own run only",
    ),
    "no run at all": (
        OWN_POD,
        {**version(number=3), "spec": {k: v for k, v in version(number=3)["spec"].items() if k != "run"}},
        'spec.run.jobName is ""',
    ),
    "another model's files": (OWN_POD, version(number=3, path="fm/other/u-9/v3"), "is not the folder of fm-home-fm-v3"),
    "a pod whose model's name begins alike": ("fm-home-fm-x-r3-a1-0-k7x2p", version(number=3), "is no pod of Job"),
    "a pod named beyond the pattern": ("fm-home-fm-r3-a1-0-k7x2p-more", version(number=3), "is no pod of Job"),
    "a token without a pod": (None, version(number=3), "bound to none"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_trainer_cannot_forge(what: str, installed: Installed) -> None:
    pod, made, says = FORGERIES[what]

    answer = installed.trainer(pod).post(VERSIONS, json=made)

    assert answer.status_code == 403, answer.text
    assert says in answer.json()["message"]
    assert installed.admin.get(f"{VERSIONS}/{made['metadata']['name']}").status_code == 404


def test_people_and_pipelines_are_not_bound_to_a_pod(installed: Installed) -> None:
    by_hand = version("by-hand", 1)
    del by_hand["spec"]["run"]
    assert installed.admin.post(VERSIONS, json=by_hand).status_code == 201


def test_a_trainer_cannot_write_a_verdict(installed: Installed) -> None:
    installed.admin.post(VERSIONS, json=version("judged", 1)).raise_for_status()
    trainer = installed.trainer("fm-judged-r1-a1-0-k7x2p")
    stored = trainer.get(f"{VERSIONS}/fm-judged-v1").raise_for_status().json()
    for method, subresource in (("PUT", "/status"), ("PUT", "")):
        body = {**stored, "status": {"summary": {"state": "Accepted"}}}
        assert trainer.request(method, f"{VERSIONS}/fm-judged-v1{subresource}", json=body).status_code == 403
    patch = {"Content-Type": "application/merge-patch+json"}
    assert trainer.patch(f"{VERSIONS}/fm-judged-v1/status", headers=patch, json={"status": {}}).status_code == 403
    assert trainer.delete(f"{VERSIONS}/fm-judged-v1").status_code == 403


def test_a_trainer_cannot_make_jobs_or_pods_or_read_secrets(installed: Installed) -> None:
    trainer = installed.trainer(OWN_POD)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mine"}}
    assert trainer.post(f"/apis/batch/v1/namespaces/{WORKLOADS}/jobs", json=job).status_code == 403
    assert trainer.post(f"/api/v1/namespaces/{WORKLOADS}/pods", json={}).status_code == 403
    assert trainer.get(f"/api/v1/namespaces/{WORKLOADS}/secrets").status_code == 403
    assert trainer.get("/apis/recast.dev/v1alpha1/namespaces/default/modelversions/x").status_code == 403


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("watch", "recast.dev", "foundationmodels"),
        ("list", "recast.dev", "expertmodels"),
        ("update", "recast.dev", "expertmodels/status"),
        ("update", "recast.dev", "modelversions/status"),
        ("patch", "recast.dev", "modelversions"),
        ("create", "batch", "jobs"),
        ("delete", "batch", "jobs"),
        *((verb, *kind) for verb in CHILD_VERBS for kind in CHILD_KINDS),
        ("watch", "", "pods"),
        ("create", "events.k8s.io", "events"),
    ],
)
def test_the_operator_may_do_what_it_does(installed: Installed, verb: str, group: str, resource: str) -> None:
    assert installed.may("recast-operator", NAMESPACE, verb, group, resource, WORKLOADS)


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("get", "", "secrets"),
        ("create", "", "pods"),
        ("create", "", "pods/eviction"),
        ("update", "policy", "poddisruptionbudgets/status"),
        ("create", "", "pods/exec"),
        ("create", "", "serviceaccounts/token"),
        ("create", "recast.dev", "modelversions"),
        ("update", "recast.dev", "foundationmodels"),
        ("delete", "recast.dev", "modelversions"),
        ("create", "rbac.authorization.k8s.io", "roles"),
        ("delete", "", "persistentvolumeclaims"),
    ],
)
def test_the_operator_may_not_do_what_it_never_does(installed: Installed, verb: str, group: str, resource: str) -> None:
    assert not installed.may("recast-operator", NAMESPACE, verb, group, resource, WORKLOADS)
