"""The real process, kopf and all, against an apiserver of its own that comes and goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane
from dev.cluster.ports import held
from tests.integration.conftest import CRDS
from tests.integration.operator.world import EXAMPLES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """An apiserver that this test may stop."""
    with ControlPlane() as made:
        yield made


@pytest.fixture
def port() -> Iterator[int]:
    """A port that the operator's process can be told."""
    with held() as number:
        yield number


def wait(what: str, condition: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


def test_the_process_waits_works_notices_an_outage_and_ends_cleanly(
    plane: ControlPlane, port: int, tmp_path: Path
) -> None:
    def kubectl(*arguments: str, text: str = "") -> str:
        command = [str(assets.binaries() / "kubectl"), f"--kubeconfig={plane.kubeconfig}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    log = tmp_path / "operator.log"

    def code(path: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/{path}", trust_env=False, timeout=2).status_code
        except httpx.HTTPError:
            return 0

    command = [
        sys.executable, "-m", "recast_operator.entry", "--all-namespaces", f"--kubeconfig={plane.kubeconfig}",
        f"--metrics-port={port}", "--heartbeat-seconds=0.5", "--liveness-seconds=3",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT / part) for part in ("api", "operator")])
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path)
    try:
        # Without the definitions it waits, unready, and does not fail.
        wait("it answers", lambda: code("readyz") == 503, log)
        kubectl("apply", "--server-side", "-f", str(CRDS))
        kubectl("create", "namespace", "demo")
        wait("it is ready and well", lambda: code("readyz") == 200 and code("healthz") == 200, log)
        kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "home-fm.yaml"))
        wait("the Job is made", lambda: "fm-home-fm-r1-a1" in kubectl("get", "jobs", "-n", "demo", "-o", "name"), log)
        job = yaml.safe_load(kubectl("get", "job", "-n", "demo", "fm-home-fm-r1-a1", "-o", "yaml"))
        assert job["spec"]["completionMode"] == "Indexed"
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert 'recast_operator_status_writes_total{kind="FoundationModel"}' in metrics
        assert 'recast_operator_watch_events_total{kind="Job"}' in metrics

        plane.stop_apiserver()
        wait("the outage is noticed", lambda: code("healthz") == 503, log)
        plane.start()
        wait("the outage is over", lambda: code("healthz") == 200, log)
        kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "reels.yaml"))
        wait(
            "it works again",
            lambda: (
                "Ready" in kubectl("get", "em", "-n", "demo", "-o", "jsonpath={.items[*].status.conditions[*].type}")
            ),
            log,
        )

        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_signal_ends_it_also_while_it_still_waits_for_the_definitions(
    plane: ControlPlane, port: int, tmp_path: Path
) -> None:
    log = tmp_path / "operator.log"
    command = [
        sys.executable, "-m", "recast_operator.entry", "--namespace=demo", f"--kubeconfig={plane.kubeconfig}",
        f"--metrics-port={port}",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT / part) for part in ("api", "operator")])
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path)
    try:
        wait("it waits", lambda: "CustomResourceDefinitions" in log.read_text(), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
