"""A real kube-apiserver that enforces the Pod Security Standard ``restricted`` takes every pod that Recast makes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from chart import rendered

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane
from dev.demo import pods, story
from dev.demo.target import Cluster

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "restricted"


@pytest.fixture(scope="module")
def enforcing(admin: httpx.Client) -> httpx.Client:
    """The administrator of an apiserver with a namespace that enforces ``restricted``."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": pods.POD_SECURITY}}
    assert admin.post("/api/v1/namespaces", json=body).status_code in (201, 409)
    return admin


def verdict(admin: httpx.Client, spec: dict[str, Any]) -> str:
    """Empty where the apiserver would take a pod of this spec and has nothing to warn of; else its words."""
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec}
    answer = admin.post(f"/api/v1/namespaces/{NAMESPACE}/pods", params={"dryRun": "All"}, json=body)
    return "" if answer.status_code == 201 else str(answer.json()["message"])


def templates(path: Path) -> list[dict[str, Any]]:
    """The pod specs in the Deployments and Jobs of a YAML file."""

    def found(node: object) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict) and node.get("kind") in ("Deployment", "Job"):
            yield node["spec"]["template"]["spec"]
        elif isinstance(node, dict):
            for child in node.values():
                yield from found(child)

    return [spec for document in yaml.safe_load_all(path.read_text()) for spec in found(document)]


GOLDEN = sorted(path for path in (ROOT / "tests" / "unit").rglob("golden/*.yaml") if templates(path))
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if templates(path))


def test_the_namespace_refuses_a_pod_that_says_nothing_of_security(enforcing: httpx.Client) -> None:
    assert "violates PodSecurity" in verdict(enforcing, {"containers": [{"name": "main", "image": "x"}]})


def test_the_operators_pod_is_taken(enforcing: httpx.Client) -> None:
    (spec,) = [found["spec"]["template"]["spec"] for found in rendered() if found["kind"] == "Deployment"]
    assert verdict(enforcing, spec) == ""


@pytest.mark.parametrize("path", [*GOLDEN, *EXAMPLES], ids=lambda path: path.name)
def test_pods_of_training_serving_and_the_examples_are_taken(enforcing: httpx.Client, path: Path) -> None:
    assert [verdict(enforcing, spec) for spec in templates(path)] == [""]


def test_every_kind_of_pod_that_the_operator_makes_is_among_the_golden_files() -> None:
    specs = [spec for path in GOLDEN for spec in templates(path)]
    assert {container["name"] for spec in specs for container in spec["containers"]} >= {"server", "trainer"}


def test_the_demos_pod_with_volumes_is_taken(enforcing: httpx.Client) -> None:
    assert verdict(enforcing, pods.pod("loader", "x", ["sleep", "900"], {"data": "/data"})["spec"]) == ""


def test_the_demos_traffic_client_is_taken_as_kubectl_makes_it(
    enforcing: httpx.Client, control_plane: ControlPlane
) -> None:
    cluster = Cluster(
        kubeconfig=control_plane.kubeconfig,
        kubectl=str(assets.binaries() / "kubectl"),
        helm="",
        images={"server": "recast.invalid/server:1"},
        storage_class="",
        prometheus_url="",
        context="another",
        namespace=NAMESPACE,
    )
    attached = ("-i", "--rm")  # there is no node that would run it
    command = [word for word in story.client_command(cluster) if word not in attached]
    done = subprocess.run(command, capture_output=True, text=True, env={"HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    made = enforcing.get(f"/api/v1/namespaces/{NAMESPACE}/pods/traffic").raise_for_status().json()
    assert made["spec"]["containers"][0]["command"][:2] == ["python", "-u"]
    assert made["spec"]["containers"][0]["image"] == "recast.invalid/server:1"
