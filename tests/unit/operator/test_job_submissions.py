"""Every way in which a submission can go: what is sent, what is adopted, what is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from run_builders import NAME, OWNER, Scripted, submission
from torchx.specs import AppDef, Role, VolumeMount
from torchx.specs.api import BindMount

from recast_api.resources import Resources
from recast_operator.adapters import appdef
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound, Transient
from recast_operator.adapters.job_scheduler import RUN_OPTS, JobScheduler

SERVICES = "/api/v1/namespaces/demo/services"
JOBS = "/apis/batch/v1/namespaces/demo/jobs"
POST_SERVICE, GET_SERVICE, PATCH_SERVICE = f"POST {SERVICES}", f"GET {SERVICES}/{NAME}", f"PATCH {SERVICES}/{NAME}"
POST_JOB, GET_JOB = f"POST {JOBS}", f"GET {JOBS}/{NAME}"

TAKEN, GONE = Conflict("it exists", status=409), NotFound("no such thing", status=404)
STRANGER = {**OWNER, "uid": "uid-of-another"}
OUR_JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": "uid-job"}
ANOTHER_JOB = {**OUR_JOB, "name": "another"}
DONE = {"conditions": [{"type": "Complete", "status": "True"}]}
OURS = {"app.kubernetes.io/managed-by": "recast", "torchx.pytorch.org/app-name": NAME}


def made(*owners: dict[str, Any], uid: str = "uid-service", **rest: Any) -> dict[str, Any]:
    """An object as the apiserver has it."""
    metadata = {"name": NAME, "namespace": "demo", "uid": uid, **rest.pop("metadata", {})}
    return {"metadata": {**metadata, **({"ownerReferences": list(owners)} if owners else {})}, **rest}


def job(*owners: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return made(*(owners or (OWNER,)), uid="uid-job", **rest)


def options(owner: dict[str, Any] | None = OWNER, **more: Any) -> dict[str, Any]:
    return {"namespace": "demo", **({"owner": json.dumps(owner)} if owner else {}), **more}


def request_of(app: AppDef | None = None, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Service and Job that would be sent."""
    info = JobScheduler("", Scripted()).submit_dryrun(
        app or appdef.build(submission()), RUN_OPTS.resolve(options(**more))
    )
    return info.request.service, info.request.job


def submit(api: Scripted, owner: dict[str, Any] | None = OWNER, nodes: int = 2) -> str:
    scheduler = JobScheduler("", api)
    handle: str = scheduler.schedule(
        scheduler.submit_dryrun(appdef.build(submission(nodes)), RUN_OPTS.resolve(options(owner)))
    )
    return handle


def test_a_new_submission_makes_the_service_then_the_job_and_gives_the_service_to_the_job() -> None:
    api = Scripted((POST_SERVICE, made(OWNER)), (POST_JOB, job()), (PATCH_SERVICE, {}))
    assert submit(api) == f"demo:{NAME}"
    service, sent_job, patch = api.finish()
    assert service.body is not None
    assert service.body["metadata"]["ownerReferences"] == [OWNER]
    assert sent_job.body is not None
    assert sent_job.body["metadata"]["ownerReferences"] == [OWNER]
    assert patch.body == {"metadata": {"uid": "uid-service", "ownerReferences": [OUR_JOB]}}
    assert patch.content_type == "application/merge-patch+json"
    assert all(request.params == {"fieldManager": "recast"} for request in (service, sent_job, patch))


@pytest.mark.parametrize("script", [[(POST_JOB, job())], [(POST_JOB, TAKEN), (GET_JOB, job())]], ids=["new", "again"])
def test_one_pod_alone_is_a_job_and_nothing_else(script: list[tuple[str, Any]]) -> None:
    api = Scripted(*script)
    assert submit(api, nodes=1) == f"demo:{NAME}"
    sent = api.finish()[0].body
    assert sent is not None
    pod = sent["spec"]["template"]["spec"]
    assert "subdomain" not in pod
    assert {"name": "RECAST_RANK0_HOST", "value": "localhost"} in pod["containers"][0]["env"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            [(POST_SERVICE, TAKEN), (GET_SERVICE, made(OWNER)), (POST_JOB, job()), (PATCH_SERVICE, {})],
            id="cut after the Service",
        ),
        pytest.param(
            [
                (POST_SERVICE, TAKEN),
                (GET_SERVICE, made(OWNER)),
                (POST_JOB, TAKEN),
                (GET_JOB, job()),
                (PATCH_SERVICE, {}),
            ],
            id="cut after the Job",
        ),
        pytest.param(
            [(POST_SERVICE, TAKEN), (GET_SERVICE, made(OUR_JOB)), (POST_JOB, TAKEN), (GET_JOB, job())],
            id="complete: nothing is left to write",
        ),
        pytest.param(
            [(POST_SERVICE, made(OWNER)), (POST_JOB, TAKEN), (GET_JOB, job()), (PATCH_SERVICE, {})],
            id="the Service was deleted beside the Job",
        ),
        pytest.param(
            [
                (POST_SERVICE, TAKEN),
                (GET_SERVICE, made({**OUR_JOB, "uid": "uid-of-an-earlier-job"})),
                (POST_JOB, job()),
                (PATCH_SERVICE, {}),
            ],
            id="the Service is an earlier Job's of this name",
        ),
        pytest.param(
            [(POST_SERVICE, made(OWNER)), (POST_JOB, job()), (PATCH_SERVICE, GONE), (POST_SERVICE, made(OUR_JOB))],
            id="the Service goes in the middle: the Job's pods get another",
        ),
        pytest.param(
            [
                (POST_SERVICE, made(OWNER)),
                (POST_JOB, TAKEN),
                (GET_JOB, job(status=DONE)),
                (PATCH_SERVICE, GONE),
            ],
            id="the Service goes with a Job that has ended",
        ),
        pytest.param(
            [(POST_SERVICE, TAKEN), (GET_SERVICE, made(OWNER, STRANGER)), (POST_JOB, job()), (PATCH_SERVICE, {})],
            id="a second owner beside us",
        ),
    ],
)
def test_a_half_finished_submission_is_completed_and_a_finished_one_adopted(script: list[tuple[str, Any]]) -> None:
    api = Scripted(*script)
    assert submit(api) == f"demo:{NAME}"
    last = api.finish()[-1]
    if last.method == "POST":  # a Service that is the Job's from the start
        assert last.body is not None
        assert last.body["metadata"]["ownerReferences"] == [OUR_JOB]
        assert last.body["spec"]["selector"] == {"torchx.pytorch.org/app-name": NAME}


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(made(STRANGER), id="another model's"),
        pytest.param(made(), id="nobody's"),
        pytest.param(made(metadata={"labels": OURS}), id="nobody's, with our labels"),
        pytest.param(made(ANOTHER_JOB), id="another Job's"),
        pytest.param(made({**OWNER, "controller": False}), id="not controlled by us"),
        pytest.param(made({**OUR_JOB, "kind": "Deployment"}), id="another kind's of that name"),
    ],
)
def test_a_service_that_is_not_ours_is_left_alone_and_no_job_is_made(service: dict[str, Any]) -> None:
    api = Scripted((POST_SERVICE, TAKEN), (GET_SERVICE, service))
    with pytest.raises(Blocked, match=f'Service "{NAME}" in namespace demo exists and is not owned by this model'):
        submit(api)
    api.finish()


@pytest.mark.parametrize(
    "found",
    [job(STRANGER), made(uid="uid-job"), job(OUR_JOB), job({**OWNER, "controller": False})],
    ids=["another model's", "nobody's", "a Job's of that name", "not controlled by us"],
)
def test_a_job_that_is_not_ours_is_left_alone_and_our_service_is_not_given_to_it(found: dict[str, Any]) -> None:
    api = Scripted((POST_SERVICE, made(OWNER)), (POST_JOB, TAKEN), (GET_JOB, found))
    with pytest.raises(Blocked, match=f'Job "{NAME}" in namespace demo exists and is not owned by this model'):
        submit(api)
    api.finish()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([(POST_SERVICE, TAKEN), (GET_SERVICE, GONE)], f'Service "{NAME}" went while it was looked at'),
        (
            [(POST_SERVICE, made(OWNER)), (POST_JOB, TAKEN), (GET_JOB, GONE)],
            f'Job "{NAME}" went while it was looked at',
        ),
        (
            [
                (POST_SERVICE, made(OWNER)),
                (POST_JOB, TAKEN),
                (GET_JOB, job(metadata={"deletionTimestamp": "2026-11-21T00:00:00Z"})),
            ],
            f'Job "{NAME}" is being deleted',
        ),
        (
            [
                (POST_SERVICE, TAKEN),
                (GET_SERVICE, made(STRANGER, metadata={"deletionTimestamp": "2026-11-21T00:00:00Z"})),
            ],
            f'Service "{NAME}" is being deleted',
        ),
    ],
)
def test_what_is_on_its_way_out_is_not_adopted_but_tried_again(script: list[tuple[str, Any]], words: str) -> None:
    api = Scripted(*script)
    with pytest.raises(Transient, match=words):
        submit(api)
    api.finish()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        *((place, Invalid("quota", status=422)) for place in range(3)),
        *((place, Blocked("forbidden", status=403)) for place in range(3)),
        *((place, Transient("no answer", unknown_outcome=True)) for place in range(3)),
        (2, Conflict("somebody wrote at the same time", status=409)),
    ],
)
def test_an_error_ends_the_submission_where_it_happens_and_comes_through_as_it_is(place: int, error: Exception) -> None:
    script: list[tuple[str, Any]] = [(POST_SERVICE, made(OWNER)), (POST_JOB, job()), (PATCH_SERVICE, {})]
    script[place] = (script[place][0], error)
    api = Scripted(*script[: place + 1])
    with pytest.raises(type(error)) as caught:
        submit(api)
    assert caught.value is error
    api.finish()


def test_without_an_owner_only_what_this_scheduler_made_without_one_is_adopted() -> None:
    ours = made(uid="uid-job", metadata={"labels": {**OURS, "more": "x"}})
    api = Scripted((POST_SERVICE, made()), (POST_JOB, TAKEN), (GET_JOB, ours), (PATCH_SERVICE, {}))
    assert submit(api, owner=None) == f"demo:{NAME}"
    sent = api.finish()
    assert sent[0].body is not None
    assert "ownerReferences" not in sent[0].body["metadata"]
    for stranger in (
        job(OWNER, metadata={"labels": OURS}),
        made(uid="uid-job"),
        made(uid="uid-job", metadata={"labels": {**OURS, "torchx.pytorch.org/app-name": "other"}}),
        made(uid="uid-job", metadata={"labels": {**OURS, "app.kubernetes.io/managed-by": "helm"}}),
    ):
        with pytest.raises(Blocked):
            submit(Scripted((POST_SERVICE, made()), (POST_JOB, TAKEN), (GET_JOB, stranger)), owner=None)


def test_job_service_and_pods_have_the_same_labels_and_ours_win() -> None:
    extra = {"recast.dev/model": "home-fm", "app.kubernetes.io/managed-by": "somebody"}
    service, sent = request_of(labels=json.dumps(extra))
    expected = {**OURS, "recast.dev/model": "home-fm", "torchx.pytorch.org/role-name": "trainer"}
    assert service["metadata"]["labels"] == expected
    assert sent["metadata"]["labels"] == expected
    assert sent["spec"]["template"]["metadata"]["labels"] == expected


def test_deadline_ttl_and_service_account_are_the_options() -> None:
    _, sent = request_of(active_deadline_seconds=61, ttl_seconds_after_finished=7, service_account="other")
    assert (sent["spec"]["activeDeadlineSeconds"], sent["spec"]["ttlSecondsAfterFinished"]) == (61, 7)
    assert sent["spec"]["template"]["spec"]["serviceAccountName"] == "other"
    _, sent = request_of()
    assert (sent["spec"]["activeDeadlineSeconds"], sent["spec"]["ttlSecondsAfterFinished"]) == (14400, 3600)
    assert sent["spec"]["template"]["spec"]["serviceAccountName"] == "recast-trainer"


def test_a_gang_is_as_many_pods_as_nodes_at_once_and_none_is_replaced() -> None:
    _, sent = request_of(appdef.build(submission(nodes=5)))
    spec = sent["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (5, 5, "Indexed")
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    disrupted, failed = spec["podFailurePolicy"]["rules"]
    assert disrupted == {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert failed["onExitCodes"] == {"containerName": "trainer", "operator": "NotIn", "values": [0]}
    assert spec["template"]["spec"]["containers"][0]["name"] == "trainer"  # what the rule above refers to


def test_pods_find_each_other_by_the_headless_service_before_they_are_ready() -> None:
    service, sent = request_of()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"] == [{"name": "rendezvous", "port": 29500}]
    pod = sent["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]


def pod_of(app: AppDef) -> dict[str, Any]:
    spec: dict[str, Any] = request_of(app)[1]["spec"]["template"]["spec"]
    return spec


def test_two_mounts_of_one_claim_are_one_volume_that_is_read_only_only_if_both_are() -> None:
    spec = pod_of(appdef.build(submission(data_claim="models")))
    claims = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}}]
    mounts = {mount["mountPath"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/var/recast/models"] == {"name": "claim-0", "mountPath": "/var/recast/models"}
    assert mounts["/var/recast/data"] == {"name": "claim-0", "mountPath": "/var/recast/data", "readOnly": True}


def test_two_claims_are_two_volumes_and_one_that_is_only_read_is_read_only_for_the_pod() -> None:
    spec = pod_of(appdef.build(submission()))
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in spec["volumes"]}
    assert claims["claim-0"] == {"claimName": "models"}
    assert claims["claim-1"] == {"claimName": "data", "readOnly": True}
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert (mounts["/var/recast/models"], mounts["/var/recast/data"]) == ("claim-0", "claim-1")


def role(**more: Any) -> AppDef:
    settings = {"name": "trainer", "image": "i", "entrypoint": "true", "num_replicas": 2, **more}
    return AppDef("app", [Role(**settings)])


def test_only_claims_can_be_mounted() -> None:
    with pytest.raises(ValueError, match="role trainer: only volume mounts"):
        request_of(role(mounts=[BindMount("/etc", "/etc"), VolumeMount("data", "/data")]))


def test_an_environment_value_is_text_or_a_field_of_the_pod_and_torchx_settings_stay_here() -> None:
    env = {
        "PLAIN": "x",
        "POD_NAME": "[FIELD_PATH]metadata.name",
        "TORCHX_JOB_ID": "kept",
        "TORCHX_TRACKERS": "fsspec",
        "TORCHX_CLIENT": "evil",
        "NOT_TORCHX_": "kept too",
    }
    container = pod_of(role(env=env))["containers"][0]
    assert [item for item in container["env"] if item["name"] != "RECAST_RANK0_HOST"] == [
        {"name": "NOT_TORCHX_", "value": "kept too"},
        {"name": "PLAIN", "value": "x"},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TORCHX_JOB_ID", "value": "kept"},
    ]


def test_macros_name_the_app_its_replica_and_the_host_of_rank_0() -> None:
    container = pod_of(role(args=["${app_id}", "${replica_id}", "${rank0_env}"]))["containers"][0]
    assert container["args"] == ["demo:app", "$(JOB_COMPLETION_INDEX)", "RECAST_RANK0_HOST"]
    assert {"name": "RECAST_RANK0_HOST", "value": "app-0.app"} in container["env"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (Resources(requests={"cpu": "500m"}), {"requests": {"cpu": "500m"}}),
        (Resources(limits={"memory": "2Gi"}), {"limits": {"memory": "2Gi"}}),
        (Resources(), {"requests": {"cpu": "1", "memory": "1024Mi"}, "limits": {"cpu": "1", "memory": "1024Mi"}}),
    ],
)
def test_resources_are_those_that_were_written_else_one_cpu_and_a_gibibyte(
    written: Resources, expected: dict[str, Any]
) -> None:
    assert pod_of(appdef.build(submission(resources=written)))["containers"][0]["resources"] == expected


def test_torchx_own_resources_ask_for_a_gpu_only_where_one_is_wanted() -> None:
    app = role()
    app.roles[0].resource.cpu, app.roles[0].resource.memMB, app.roles[0].resource.gpu = 2, 512, 4
    limits = pod_of(app)["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "2", "memory": "512Mi", "nvidia.com/gpu": "4"}
    app.roles[0].resource.gpu = 0
    assert "nvidia.com/gpu" not in pod_of(app)["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("name", ["a" * 59, "a", "a-1"])
def test_a_name_that_leaves_room_for_the_pods_indices_is_taken(name: str) -> None:
    app = role()
    app.name = name
    assert request_of(app)[1]["metadata"]["name"] == name


@pytest.mark.parametrize("name", ["a" * 60, "1a", "a-", "A", "a_b", ""])
def test_a_name_that_pods_cannot_have_is_refused(name: str) -> None:
    app = role()
    app.name = name
    with pytest.raises(ValueError, match=r"cannot name a Job and its pods: at most 59 of a-z, 0-9 and '-'"):
        request_of(app)


@pytest.mark.parametrize("count", [0, 2])
def test_an_app_of_other_than_one_role_is_refused(count: int) -> None:
    app = role()
    app.roles = app.roles * count
    with pytest.raises(ValueError, match=f"app: the recast scheduler runs one role, this AppDef has {count}"):
        request_of(app)
