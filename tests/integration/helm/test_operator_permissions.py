"""The operator's own process with the chart's permissions and no others: whatever it does, it is never told 403."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from chart import NAMESPACE, rendered
from installed import APPLY, WORKLOADS, Connect, Installed, install

from dev.cluster.controlplane import ControlPlane
from dev.cluster.ports import held

pytestmark = pytest.mark.integration

MODELS = f"/apis/recast.dev/v1alpha1/namespaces/{WORKLOADS}"


@pytest.fixture(scope="module")
def installed(admin: httpx.Client, connect: Connect) -> Installed:
    return install(admin, connect)


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(params=["everywhere", "one namespace"])
def operator(
    request: pytest.FixtureRequest, installed: Installed, control_plane: ControlPlane, tmp_path: Path
) -> Iterator[str]:
    """The address of a running operator that acts as its service account, with the arguments that the chart gives."""
    watched = [] if request.param == "everywhere" else [WORKLOADS]
    objects = rendered(watchNamespaces=watched, workloadNamespaces=[WORKLOADS])
    installed.permit(objects)
    token = installed.token("recast-operator", NAMESPACE)
    cluster = {"server": control_plane.server, "certificate-authority": str(control_plane.path / "pki" / "ca.crt")}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "operator", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "operator"}}],
                "current-context": "c",
            }
        )
    )
    deployment = next(found for found in objects if found["kind"] == "Deployment")
    given = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments = [argument for argument in given if not argument.startswith("--metrics-port")]
    command = [sys.executable, "-m", "recast_operator.entry", "--kubeconfig", str(kubeconfig), *arguments]
    log = tmp_path / "operator.log"
    with held() as port, log.open("wb") as stream:
        told = [*command, f"--metrics-port={port}"]
        with subprocess.Popen(told, stderr=stream, stdout=stream) as process:
            try:
                _await_answer(f"http://127.0.0.1:{port}/readyz", process, log)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(30)


def test_the_operator_works_with_the_charts_permissions(operator: str, installed: Installed) -> None:
    model = f"fm-{uuid.uuid4().hex[:8]}"
    claim = {"persistentVolumeClaim": {"claimName": "models"}}
    foundation = {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "FoundationModel",
        "metadata": {"name": model},
        "spec": {
            "storage": claim,
            "data": {**claim, "path": "home"},
            "training": {"image": "trainer:1"},
            "serving": {"image": "server:1"},
        },
    }
    url = f"{MODELS}/foundationmodels/{model}"
    installed.admin.patch(url, params={"fieldManager": "test"}, headers=APPLY, json=foundation).raise_for_status()

    job = f"/apis/batch/v1/namespaces/{WORKLOADS}/jobs/fm-{model}-r1-a1"
    deadline = time.monotonic() + 60
    while installed.admin.get(job).status_code != 200:
        calls = httpx.get(f"{operator}/metrics", trust_env=False).text
        assert time.monotonic() < deadline, re.findall(r"recast_operator_api_calls_total.*", calls)
        time.sleep(0.1)

    calls = httpx.get(f"{operator}/metrics", trust_env=False).text
    assert re.search(r"recast_operator_api_calls_total{.*code=\"20\d\"", calls)
    assert not re.search(r"recast_operator_api_calls_total{.*code=\"403\"", calls)
    assert installed.admin.get(url).json()["status"]["run"]["jobName"] == f"fm-{model}-r1-a1"
