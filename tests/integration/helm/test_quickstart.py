"""The commands of docs/quickstart.md, in their order, against a real apiserver."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?P<needs><!-- needs [^>]*-->\n)?^```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# A person would have waited for a Job between installing the definitions and using them.
SERVED = "kubectl wait crd --all --for condition=Established >&2 || true"


def blocks() -> list[str]:
    """The shell blocks that need nothing but an apiserver."""
    return [found["text"] for found in BLOCK.finditer(PAGE) if not found["needs"]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where kubectl and helm reach an apiserver on which nothing is installed yet."""
    with ControlPlane() as plane:
        home = tmp_path_factory.mktemp("home")
        for tool in ("kubectl", "helm"):
            (home / tool).symlink_to(assets.binaries() / tool)
        yield {"PATH": f"{home}:{os.environ['PATH']}", "HOME": str(home), "KUBECONFIG": str(plane.kubeconfig)}


def run(environment: dict[str, str], script: str) -> str:
    """The output of a shell script in the repository's root; fails with its complaint."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def followed(environment: dict[str, str]) -> dict[str, str]:
    """The same, after every command was run."""
    run(environment, "\n".join(line for block in blocks() for line in (block, SERVED)))
    return environment


def get(environment: dict[str, str], *what: str) -> dict[str, Any]:
    """One object."""
    found: dict[str, Any] = json.loads(run(environment, f"kubectl get {' '.join(what)} -o json"))
    return found


def test_the_page_has_commands_of_both_sorts() -> None:
    assert len(blocks()) >= 5
    assert len(blocks()) < PAGE.count("```sh")


def test_the_operator_runs_the_image_that_was_pushed_and_asks_the_prometheus_that_was_named(
    followed: dict[str, str],
) -> None:
    deployment = get(followed, "deployment", "recast-operator", "-n", "recast-system")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/recast/operator:0.1.0"
    assert "--prometheus-url=http://prometheus.monitoring.svc:9090" in container["args"]


@pytest.mark.parametrize("model", ["fm/home-fm", "em/reels"])
def test_models_are_taken_and_use_the_images_that_were_pushed(followed: dict[str, str], model: str) -> None:
    spec = get(followed, model, "-n", "models")["spec"]
    assert spec["training"]["image"] == "registry.example.com/recast/trainer:0.1.0"
    assert spec["serving"]["image"] == "registry.example.com/recast/server:0.1.0"


def test_claims_and_the_data_job_are_made_for_this_cluster(followed: dict[str, str]) -> None:
    for claim in ("data", "models"):
        assert get(followed, "pvc", claim, "-n", "models")["spec"]["storageClassName"] == "nfs"
    (container,) = get(followed, "job", "stream", "-n", "models")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/recast/trainer:0.1.0"


@pytest.mark.parametrize("namespace", ["models", "recast-system"])
def test_both_namespaces_enforce_pod_security_and_the_models_have_their_accounts(
    followed: dict[str, str], namespace: str
) -> None:
    labels = get(followed, "namespace", namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for account in ("recast-trainer", "recast-server"):
        get(followed, "serviceaccount", account, "-n", "models")
