"""The launcher: from a run through TorchX to the golden objects, and TorchX's plugin."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_builders import NAME, OWNER, Scripted, submission, submit
from torchx.schedulers import get_scheduler_factories

from recast_api.run import TrainingRun
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound, Transient
from recast_operator.adapters.kube import Request
from recast_operator.adapters.torchx import Launcher

GOLDEN = Path(__file__).parent / "golden"


class FakeApi:
    """An apiserver that keeps what is posted; shared by threads one call at a time."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}

    async def send(self, request: Request) -> Any:
        method, path, body = request.method, request.path, request.body
        if method == "POST":
            assert body is not None
            address = f"{path}/{body['metadata']['name']}"
            if address in self.objects:
                raise Conflict(f"{address} exists", status=409)
            stored = json.loads(json.dumps(body))
            stored["metadata"]["uid"] = f"uid-{len(self.objects)}"
            self.objects[address] = stored
            return stored
        if path not in self.objects:
            raise NotFound(path, status=404)
        if method == "PATCH":
            assert body is not None
            self.objects[path]["metadata"].update(body["metadata"])
        return self.objects[path]


JOB = "/apis/batch/v1/namespaces/demo/jobs/fm-home-fm-r3-a2"
SERVICE = "/api/v1/namespaces/demo/services/fm-home-fm-r3-a2"


@pytest.mark.parametrize(("nodes", "name"), [(1, "one-node"), (2, "two-nodes")])
async def test_a_run_becomes_the_golden_job_and_for_several_pods_a_service(nodes: int, name: str) -> None:
    api = FakeApi()
    handle = await submit(api, submission(nodes))
    assert handle == "recast:///demo:fm-home-fm-r3-a2"
    made = {"job": api.objects[JOB]} | ({"service": api.objects[SERVICE]} if SERVICE in api.objects else {})
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


async def test_an_appdef_that_torchx_refuses_is_an_invalid_request() -> None:
    request, api = submission(), FakeApi()
    broken = replace(request, run=request.run.model_copy(update={"job_name": "No_Name_For_A_Job"}))
    with pytest.raises(Invalid, match="training run No_Name_For_A_Job: 'No_Name_For_A_Job' cannot name a Job"):
        await submit(api, broken)
    assert api.objects == {}


def test_torchx_finds_the_scheduler_by_its_plugin_module() -> None:
    factory = get_scheduler_factories(skip_defaults=True)["recast"]
    assert factory.__module__ == "torchx_plugins.schedulers.recast"


def test_the_plugin_takes_an_exchange_and_else_logs_in_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = get_scheduler_factories(skip_defaults=True)["recast"]
    api = Scripted(("GET /apis/batch/v1/jobs", {"items": []}))
    assert factory("", client=api, kubeconfig="not looked at").list() == []
    api.finish()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for settings in ({}, {"client": "from TORCHX_CLIENT"}):  # text out of the environment is no exchange
        with pytest.raises(ValueError, match="not inside a pod"):
            factory("", **settings)
    with pytest.raises(ValueError, match=r"gone cannot be read"):
        factory("", kubeconfig=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("kind", "label"), [("FoundationModel", "foundation-trainer"), ("ExpertModel", "expert-trainer")]
)
async def test_a_run_is_found_again_by_its_labels(kind: str, label: str) -> None:
    api, request = FakeApi(), submission()
    run = request.run.model_copy(update={"kind": kind, "number": 12, "attempt": 3})
    await submit(api, replace(request, run=run))
    found = api.objects[JOB]["metadata"]["labels"]
    assert {key: value for key, value in found.items() if key.startswith("recast.dev/")} == {
        "recast.dev/kind": label,
        "recast.dev/model": "home-fm",
        "recast.dev/run": "12",
        "recast.dev/attempt": "3",
    }


async def test_the_job_has_the_namespace_deadline_and_owner_of_the_request() -> None:
    api = FakeApi()
    request = submission(active_deadline_seconds=61, ttl_seconds_after_finished=7)
    assert await submit(api, request, "elsewhere") == f"recast:///elsewhere:{NAME}"
    job = api.objects[JOB.replace("demo", "elsewhere")]
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (61, 7)
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "recast-trainer"
    assert job["metadata"]["ownerReferences"] == [OWNER]


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def send(self, request: Request) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [Blocked("quota", status=403), Transient("away"), Invalid("no such field")])
async def test_an_error_of_the_apiserver_comes_through_torchx_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await submit(Failing(error))
    assert caught.value is error


async def test_submissions_run_beside_each_other_and_beside_the_loop() -> None:
    class Slow(FakeApi):
        waiting, peak = 0, 0

        async def send(self, request: Request) -> Any:
            self.waiting += 1
            self.peak = max(self.peak, self.waiting)
            try:
                while self.peak < 3:  # nobody is answered before three have asked
                    await asyncio.sleep(0)
                return await super().send(request)
            finally:
                self.waiting -= 1

    api, request = Slow(), submission()
    launcher = Launcher(api)
    runs = [request.run.model_copy(update={"job_name": f"fm-home-fm-r{number}-a1"}) for number in range(3)]
    try:
        async with asyncio.timeout(60):
            handles = await asyncio.gather(*(launcher.submit("demo", replace(request, run=run)) for run in runs))
    finally:
        launcher.close()
    assert handles == [f"recast:///demo:fm-home-fm-r{number}-a1" for number in range(3)]
    with pytest.raises(RuntimeError, match="shutdown"):
        await launcher.submit("demo", request)
