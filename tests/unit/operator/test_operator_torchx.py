"""TorchX's way from a run to a Job: golden objects, adoption, and what the scheduler says of a Job."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.schedulers import get_scheduler_factories
from torchx.schedulers.api import Stream
from torchx.specs import AppState

from recast_api.resources import Resources, Training
from recast_api.resources.foundation import Architecture
from recast_api.run import DataRef, Optimization, TrainingRun
from recast_operator.adapters import appdef
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound
from recast_operator.adapters.job_scheduler import JobScheduler
from recast_operator.adapters.kube import Request
from recast_operator.adapters.torchx import Launcher
from recast_operator.planning.plan import SubmitRun

GOLDEN = Path(__file__).parent / "golden"
OWNER = {
    "apiVersion": "recast.dev/v1alpha1",
    "kind": "FoundationModel",
    "name": "home-fm",
    "uid": "uid-of-home-fm",
    "controller": True,
    "blockOwnerDeletion": True,
}


def submission(nodes: int = 2, **training: Any) -> SubmitRun:
    return SubmitRun(
        run=TrainingRun(
            kind="FoundationModel",
            namespace="demo",
            model="home-fm",
            uid="uid-of-home-fm",
            number=3,
            attempt=2,
            job_name="fm-home-fm-r3-a2",
            inputs_hash="abc",
            models_root="/var/recast/models",
            data_root="/var/recast/data",
            data=DataRef(path="stream"),
            optimization=Optimization(batch_size=32, learning_rate="0.003"),
            architecture=Architecture(),
        ),
        training=Training(
            image="recast.invalid/trainer:0.1.0",
            nodes=nodes,
            procs_per_node=2,
            resources=Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"}),
            **training,
        ),
        models_claim="models",
        data_claim="data",
        owner=OWNER,
    )


class FakeApi:
    """An apiserver that keeps what is posted; shared by threads one call at a time."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.logs = ["one\n", "two\n"]

    async def send(self, request: Request) -> Any:
        method, path, body = request.method, request.path, request.body
        self.calls.append((method, path))
        if request.text:
            return "".join(self.logs)
        if method == "POST":
            assert body is not None
            address = f"{path}/{body['metadata']['name']}"
            if address in self.objects:
                raise Conflict(f"{address} exists", status=409)
            stored = json.loads(json.dumps(body))
            stored["metadata"]["uid"] = f"uid-{len(self.objects)}"
            self.objects[address] = stored
            return stored
        if path.endswith(("/jobs", "/pods")):
            return {"items": [raw for address, raw in self.objects.items() if address.startswith(path + "/")]}
        if path not in self.objects:
            raise NotFound(path, status=404)
        if method == "PATCH":
            assert body is not None
            for part in ("metadata", "spec"):
                self.objects[path].setdefault(part, {}).update(body.get(part, {}))
        if method == "DELETE":
            return self.objects.pop(path)
        return self.objects[path]


class Direct:
    """The same, for the scheduler's synchronous side."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api

    def send(self, request: Request) -> Any:
        return asyncio.run(self.api.send(request))


JOB = "/apis/batch/v1/namespaces/demo/jobs/fm-home-fm-r3-a2"
SERVICE = "/api/v1/namespaces/demo/services/fm-home-fm-r3-a2"


async def submit(api: FakeApi, request: SubmitRun | None = None, namespace: str = "demo") -> str:
    launcher = Launcher(api)
    try:
        return await launcher.submit(namespace, request or submission())
    finally:
        launcher.close()


@pytest.mark.parametrize(("nodes", "name"), [(1, "one-node"), (2, "two-nodes")])
async def test_a_run_becomes_the_golden_job_and_service(nodes: int, name: str) -> None:
    api = FakeApi()
    handle = await submit(api, submission(nodes))
    assert handle == "recast:///demo:fm-home-fm-r3-a2"
    made = {"service": api.objects[SERVICE], "job": api.objects[JOB]}
    assert made == yaml.safe_load((GOLDEN / f"training-{name}.yaml").read_text())


async def test_the_run_in_the_environment_is_the_run() -> None:
    api = FakeApi()
    await submit(api)
    env = {item["name"]: item for item in api.objects[JOB]["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert TrainingRun.model_validate_json(env["RECAST_RUN"]["value"]) == submission().run


async def test_nothing_of_torchx_own_environment_reaches_the_pods(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".torchxconfig").write_text("[torchx:tracker]\nfsspec =\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHX_CLIENT", "evil")
    monkeypatch.setenv("TORCHX_PARENT_RUN_ID", "parent")
    monkeypatch.setenv("TORCHX_TRACKERS", "fsspec")
    api = FakeApi()
    await submit(api)
    env = [item["name"] for item in api.objects[JOB]["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert [name for name in env if name.startswith("TORCHX_")] == ["TORCHX_JOB_ID"]


async def test_a_second_submission_adopts_the_job_of_the_first() -> None:
    api = FakeApi()
    first = await submit(api)
    jobs = dict(api.objects)
    assert await submit(api) == first
    assert api.objects.keys() == jobs.keys()


async def test_a_submission_that_was_cut_between_service_and_job_is_completed() -> None:
    api = FakeApi()
    await submit(api)
    del api.objects[JOB]
    await submit(api)
    assert JOB in api.objects
    assert api.objects[SERVICE]["metadata"]["ownerReferences"][0]["uid"] == api.objects[JOB]["metadata"]["uid"]


async def test_a_job_of_another_owner_is_not_adopted() -> None:
    api = FakeApi()
    await submit(api)
    api.objects[JOB]["metadata"]["ownerReferences"][0]["uid"] = "somebody-else"
    with pytest.raises(Blocked, match=r"fm-home-fm-r3-a2.*not owned by this model"):
        await submit(api)


async def test_an_appdef_that_torchx_refuses_is_an_invalid_request() -> None:
    request = submission()
    broken = SubmitRun(
        run=request.run.model_copy(update={"job_name": "No_Name_For_A_Job"}),
        training=request.training,
        models_claim="models",
        data_claim="data",
        owner=OWNER,
    )
    with pytest.raises(Invalid, match="'No_Name_For_A_Job' cannot name a Job"):
        await submit(FakeApi(), broken)


def test_torchx_finds_the_scheduler_by_its_plugin_module() -> None:
    factory = get_scheduler_factories(skip_defaults=True)["recast"]
    assert factory.__module__ == "torchx_plugins.schedulers.recast"  # type: ignore[attr-defined]


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
def test_describe_tells_what_the_jobs_conditions_say(
    status: dict[str, Any], annotations: dict[str, str], state: AppState
) -> None:
    api = FakeApi()
    api.objects[JOB] = {
        "metadata": {"name": "fm-home-fm-r3-a2", "namespace": "demo", "annotations": annotations},
        "status": status,
    }
    scheduler = JobScheduler("", Direct(api))
    answer = scheduler.describe("demo:fm-home-fm-r3-a2")
    assert answer is not None
    assert answer.state == state
    assert [item.state for item in scheduler.list()] == []  # all namespaces: another path
    assert [item.state for item in scheduler.list({"namespace": "demo"})] == [state]


def test_cancel_and_delete_are_idempotent_and_a_cancelled_job_says_so() -> None:
    api = FakeApi()
    scheduler = JobScheduler("", Direct(api))
    assert scheduler.describe("demo:fm-home-fm-r3-a2") is None
    scheduler.cancel("demo:fm-home-fm-r3-a2")
    api.objects[JOB] = {"metadata": {"name": "fm-home-fm-r3-a2", "namespace": "demo", "annotations": {}}, "status": {}}
    scheduler.cancel("demo:fm-home-fm-r3-a2")
    answer = scheduler.describe("demo:fm-home-fm-r3-a2")
    assert answer is not None
    assert answer.state == AppState.CANCELLED
    assert api.objects[JOB]["spec"] == {"suspend": True}
    scheduler.delete("demo:fm-home-fm-r3-a2")
    scheduler.delete("demo:fm-home-fm-r3-a2")
    assert JOB not in api.objects


def test_logs_are_the_pods_lines_filtered_and_impossible_wishes_are_refused() -> None:
    api = FakeApi()
    api.objects["/api/v1/namespaces/demo/pods/x"] = {"metadata": {"name": "x"}, "status": {"phase": "Succeeded"}}
    scheduler = JobScheduler("", Direct(api))
    assert list(scheduler.log_iter("demo:j", "trainer", 0, should_tail=True)) == ["one\n", "two\n"]
    assert list(scheduler.log_iter("demo:j", "trainer", 0, regex="tw")) == ["two\n"]
    with pytest.raises(ValueError, match="combined"):
        scheduler.log_iter("demo:j", "trainer", streams=Stream.STDERR)
    with pytest.raises(ValueError, match="until"):
        scheduler.log_iter("demo:j", "trainer", until=datetime.now(UTC))
    with pytest.raises(ValueError, match=re.escape("<namespace>:<name>")):
        scheduler.log_iter("no-colon", "trainer")


@pytest.mark.parametrize(
    ("text", "number"), [("500m", "0.5"), (2, "2"), ("1Gi", str(2**30)), ("1.5k", "1500"), ("3Mi", str(3 * 2**20))]
)
def test_quantities_are_read_as_kubernetes_reads_them(text: int | str, number: str) -> None:
    assert appdef.quantity(text) == appdef.Decimal(number)


@pytest.mark.parametrize("text", ["", "many", "5Xi", "m"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        appdef.quantity(text)
