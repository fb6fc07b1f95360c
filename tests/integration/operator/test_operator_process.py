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


class OperatorProcess:
    """The real process. ``code`` asks it for its health."""

    def __init__(self, plane: ControlPlane, port: int, folder: Path, *options: str) -> None:
        self.log = folder / "operator.log"
        self._plane = plane
        self._port = port
        command = [
            sys.executable, "-m", "recast_operator.entry", f"--kubeconfig={plane.kubeconfig}", f"--metrics-port={port}",
            *options,
        ]  # fmt: skip
        paths = os.pathsep.join([str(ROOT / part) for part in ("api", "operator")])
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(command, stderr=stream, env={**os.environ, "PYTHONPATH": paths}, cwd=folder)

    def code(self, path: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/{path}", trust_env=False, timeout=2).status_code
        except httpx.HTTPError:
            return 0

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self._port}/metrics", trust_env=False).text

    def kubectl(self, *arguments: str) -> str:
        command = [str(assets.binaries() / "kubectl"), f"--kubeconfig={self._plane.kubeconfig}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the process ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < end, f"never came true: {what}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)

    def said(self, words: str) -> int:
        """How often the log has these words."""
        return self.log.read_text().count(words)

    def judged(self, expert: str) -> bool:
        """Whether an expert has a status by now."""
        path = "jsonpath={.status.conditions[*].type}"
        return "Ready" in self.kubectl("get", "em", "-n", "demo", expert, "-o", path)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def working(plane: ControlPlane, port: int, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator that has found its definitions, with a namespace ``demo``; ended cleanly after the test."""
    operator = OperatorProcess(
        plane, port, tmp_path, "--all-namespaces", "--heartbeat-seconds=0.5", "--liveness-seconds=3"
    )
    try:
        # Without the definitions it waits, unready, and does not fail.
        operator.wait("it answers", lambda: operator.code("readyz") == 503)
        operator.kubectl("apply", "--server-side", "-f", str(CRDS))
        operator.kubectl("create", "namespace", "demo")
        operator.wait("it is ready and well", lambda: operator.code("readyz") == operator.code("healthz") == 200)
        yield operator
        assert operator.end() == 0
        assert "Traceback" not in operator.log.read_text()
    finally:
        operator.kill()


@pytest.mark.timeout(240)
def test_the_process_waits_for_its_definitions_works_and_outlives_an_outage_without_calling_itself_ill(
    working: OperatorProcess, plane: ControlPlane
) -> None:
    kubectl = working.kubectl
    kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "home-fm.yaml"))
    working.wait("the Job is made", lambda: "fm-home-fm-r1-a1" in kubectl("get", "jobs", "-n", "demo", "-o", "name"))
    job = yaml.safe_load(kubectl("get", "job", "-n", "demo", "fm-home-fm-r1-a1", "-o", "yaml"))
    assert job["spec"]["completionMode"] == "Indexed"
    assert 'recast_operator_status_writes_total{kind="FoundationModel"}' in working.metrics()
    assert 'recast_operator_watch_events_total{kind="Job"}' in working.metrics()

    plane.stop_apiserver()
    codes: set[int] = set()

    def long_away() -> bool:
        codes.add(working.code("healthz"))
        return working.said("the apiserver is away") > 12  # twice the limit, at two heartbeats a second

    working.wait("the outage is noticed", long_away)
    assert codes == {200}, "a restart would not bring the apiserver back"
    plane.start()
    kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "reels.yaml"))
    working.wait("it works again", lambda: working.judged("reels"), seconds=90)


@pytest.mark.timeout(240)
def test_an_apiserver_that_hangs_is_no_answer_and_health_says_so_until_it_speaks_again(
    working: OperatorProcess, plane: ControlPlane
) -> None:
    process = plane.process("kube-apiserver")
    process.send_signal(signal.SIGSTOP)
    try:
        working.wait("the silence is noticed", lambda: working.code("healthz") == 503)
    finally:
        process.send_signal(signal.SIGCONT)
    working.wait("it is over", lambda: working.code("healthz") == 200)


@pytest.mark.timeout(240)
def test_a_kind_whose_definition_goes_and_comes_back_is_watched_again_and_the_others_go_on(
    working: OperatorProcess,
) -> None:
    kubectl = working.kubectl
    kubectl("delete", "crd", "expertmodels.recast.dev")
    working.wait("the end of the watch is said", lambda: working.said("the watch of expertmodels in all ended") > 0)
    kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "home-fm.yaml"))
    working.wait(
        "the foundation's watch goes on",
        lambda: "fm-home-fm-r1-a1" in kubectl("get", "jobs", "-n", "demo", "-o", "name"),
    )
    assert working.code("healthz") == 200
    kubectl("apply", "--server-side", "-f", str(CRDS))
    working.wait("it is found again", lambda: working.said("expertmodels are served; watching them again") > 0)
    kubectl("apply", "-n", "demo", "-f", str(EXAMPLES / "reels.yaml"))
    working.wait("its events arrive", lambda: working.judged("reels"))


def test_a_signal_ends_it_also_while_it_still_waits_for_the_definitions(
    plane: ControlPlane, port: int, tmp_path: Path
) -> None:
    operator = OperatorProcess(plane, port, tmp_path, "--namespace=demo")
    try:
        operator.wait("it waits", lambda: operator.said("CustomResourceDefinitions") > 0)
        assert operator.end() == 0
    finally:
        operator.kill()
