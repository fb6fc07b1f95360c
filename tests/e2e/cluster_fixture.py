"""The node of dev/cluster as fixtures: ``cluster``, the one of this checkout, and ``spare_cluster``, one to break.

Pods here need no image of the project: they run the cache's static programs from a host folder, on the pause image.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dev.cluster import assets, lifecycle, pause
from dev.cluster.layout import ClusterLayout
from dev.cluster.paths import STATE
from recast_api import names

Object = dict[str, Any]
T = TypeVar("T")


def eventually(attempt: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """The first result of ``attempt`` that is true; fails with ``what`` at the deadline."""
    end = time.monotonic() + seconds
    while not (result := attempt()):
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)
    return result


def listeners(pid: int | None = None) -> set[str]:
    """Addresses with a TCP or UDP listener: of the host, or of the network namespace of ``pid``."""
    enter = ["nsenter", "-t", str(pid), "-n"] if pid else []
    out = subprocess.run([*enter, "ss", "-Htuln"], capture_output=True, text=True, check=True).stdout
    return {f"{fields[0]} {fields[4]}" for line in out.splitlines() if (fields := line.split())}


@dataclass(frozen=True)
class Cluster:
    """A running node, and the shortest ways to ask it something."""

    layout: ClusterLayout

    @property
    def pid(self) -> int:
        """The host's pid of the node's first process."""
        supervisor = lifecycle.supervisor(self.layout)
        assert supervisor, "the node is down"
        return lifecycle.inside(supervisor)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of kubectl as administrator; fails the test where kubectl fails."""
        done = lifecycle.kubectl(self.layout, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Object:
        """One object, or a list, as the apiserver gives it."""
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def apply(self, *objects: Object) -> None:
        """Create or change objects."""
        self.kubectl(
            "apply",
            "--server-side",
            "-f",
            "-",
            stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}),
        )

    def until_usable(self, namespace: str = "default") -> None:
        """Wait until the node is Ready, and pods can be made in ``namespace``."""
        eventually(lambda: lifecycle.ready(self.layout), "the node to be Ready")
        account = ("get", "serviceaccount", "default", "-n", namespace)
        eventually(lambda: lifecycle.kubectl(self.layout, *account).returncode == 0, "the default service account")

    def run_pod(self, namespace: str, name: str, *command: str, **spec: Any) -> str:
        """The log of a pod that ran ``command`` with the cache's programs in ``/tools``; fails where the pod fails."""
        self.apply(tools_pod(namespace, name, *command, **spec))

        def phase() -> str:
            found: str = self.get("pod", name, "-n", namespace)["status"]["phase"]
            return found if found in ("Succeeded", "Failed") else ""

        ended = eventually(phase, f"pod {name} to end")
        log = self.kubectl("logs", name, "-n", namespace)
        assert ended == "Succeeded", log
        return log


def tools_pod(namespace: str, name: str, *command: str, **spec: Any) -> Object:
    """A pod that runs ``command`` as the user of our images; ``/tools/kubectl`` and ``/tools/helm`` are there."""
    container = {
        "name": "main",
        "image": pause.REFERENCE,
        "command": list(command),
        "securityContext": {"runAsUser": names.RUN_AS_USER, "runAsNonRoot": True, "readOnlyRootFilesystem": True},
        "env": [{"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [
            {"name": "tools", "mountPath": "/tools", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
            *spec.pop("mounts", []),
        ],
    }
    volumes = [
        {"name": "tools", "hostPath": {"path": str(assets.binaries())}},
        {"name": "scratch", "emptyDir": {}},
        *spec.pop("volumes", []),
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **spec.pop("metadata", {})},
        "spec": {"containers": [container], "volumes": volumes, "restartPolicy": "Never", **spec},
    }


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of this checkout; started where it does not run, and left running."""
    return Cluster(lifecycle.up(STATE))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of this test alone, whose default service account is there."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.until_usable(name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def spare_state(tmp_path: Path) -> Iterator[Path]:
    """A state folder for a second cluster, which is gone after the test whatever the test did to it."""
    state = tmp_path / "state"
    yield state
    lifecycle.down(state)


@pytest.fixture
def spare_cluster(spare_state: Path) -> Cluster:
    """A second cluster beside the first: one to kill."""
    spare = Cluster(lifecycle.up(spare_state))
    spare.until_usable()
    return spare
