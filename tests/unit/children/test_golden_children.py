"""Each child kind against the object it is meant to be.

``UPDATE_GOLDEN=1`` writes the files anew: read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from recast_api.resources import ExpertServing, FoundationPin, FoundationServing, Task
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact
from recast_operator.children.disruption_budget import expert_disruption_budget, foundation_disruption_budget
from recast_operator.children.expert_deployment import expert_deployment
from recast_operator.children.expert_service import expert_service
from recast_operator.children.foundation_deployment import foundation_deployment
from recast_operator.children.foundation_service import foundation_service
from recast_operator.children.labels import ChildMeta
from recast_operator.children.network_policy import foundation_network_policy

GOLDEN = Path(__file__).parent / "golden"
OWNER = {
    "apiVersion": "recast.dev/v1alpha1",
    "kind": "ExpertModel",
    "name": "reels",
    "uid": "0b9e",
    "controller": True,
    "blockOwnerDeletion": True,
}
FM_OWNER = OWNER | {"kind": "FoundationModel", "name": "home-fm", "uid": "1c8f"}
DIGEST = "sha256:" + "ab" * 32
RESOURCES = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}}


def served(kind: str, version: int) -> ServedArtifact:
    return ServedArtifact(
        root="/var/recast/models", path=f"{kind}/uid/v{version}", version=version, lineage=version, digest=DIGEST
    )


def expert_config() -> ExpertServerConfig:
    return ExpertServerConfig(
        namespace="demo",
        model="reels",
        surface="reels",
        revision="0123456789",
        tasks=[Task(name="click"), Task(name="longView", weight="0.5")],
        artifact=served("em/reels", 3),
        foundation=FoundationPin(name="home-fm", version=2, lineage=2, digest=DIGEST),
        foundation_address="fm-home-fm-l2.demo.svc:8082",
        slo_milliseconds=200,
        foundation_deadline_milliseconds=100,
        max_connection_age_seconds=30,
    )


def build(name: str) -> dict[str, Any]:
    if name == "expert_service":
        return expert_service("reels", ChildMeta("em-reels", "demo", OWNER, "hash"))
    if name == "foundation_service":
        return foundation_service("home-fm", 2, ChildMeta("fm-home-fm-l2", "demo", FM_OWNER, "hash"))
    if name == "expert_disruption_budget":
        return expert_disruption_budget("reels", ChildMeta("em-reels", "demo", OWNER, "hash"))
    if name == "foundation_disruption_budget":
        return foundation_disruption_budget("home-fm", 2, ChildMeta("fm-home-fm-l2", "demo", FM_OWNER, "hash"))
    if name == "foundation_network_policy":
        return foundation_network_policy("home-fm", 2, ChildMeta("fm-home-fm-l2", "demo", FM_OWNER, "hash"))
    if name == "expert_deployment":
        serving = ExpertServing.model_validate({"image": "server:1", "resources": RESOURCES})
        child = ChildMeta("em-reels-0123456789", "demo", OWNER, "hash")
        return expert_deployment(expert_config(), serving, child, claim="models", replicas=4)
    serving = FoundationServing.model_validate({"image": "server:1", "replicas": 2, "terminationGracePeriodSeconds": 6})
    config = FoundationServerConfig(namespace="demo", model="home-fm", artifact=served("fm/home-fm", 2))
    child = ChildMeta("fm-home-fm-l2", "demo", FM_OWNER, "hash")
    return foundation_deployment(config, serving, child, claim="models")


class Plain(yaml.SafeDumper):
    """Writes a value twice rather than by reference."""

    def ignore_aliases(self, data: object) -> bool:
        return True


KINDS = (
    "expert_deployment",
    "expert_disruption_budget",
    "expert_service",
    "foundation_deployment",
    "foundation_disruption_budget",
    "foundation_network_policy",
    "foundation_service",
)


@pytest.mark.parametrize("name", KINDS)
def test_a_child_is_what_its_golden_file_says(name: str) -> None:
    path, built = GOLDEN / f"{name}.yaml", build(name)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.dump(built, Dumper=Plain, sort_keys=False, width=120))
    assert built == yaml.safe_load(path.read_text()), f"{name} has changed; UPDATE_GOLDEN=1 rewrites {path.name}"


@pytest.mark.parametrize("name", KINDS)
def test_a_selector_finds_the_pods_that_it_is_for(name: str) -> None:
    built = build(name)
    deployment = build(name.partition("_")[0] + "_deployment")
    spec = built["spec"].get("selector") or built["spec"]["podSelector"]
    selector = spec.get("matchLabels", spec) if isinstance(spec, dict) else spec
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()


@pytest.mark.parametrize("name", ["expert_deployment", "foundation_deployment"])
def test_a_servers_pod_holds_no_right_that_it_does_not_need(name: str) -> None:
    spec = build(name)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] == "models")


@pytest.mark.parametrize("name", ["expert_deployment", "foundation_deployment"])
def test_a_pod_drains_within_its_grace_period(name: str) -> None:
    spec = build(name)["spec"]["template"]["spec"]
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < sleep < spec["terminationGracePeriodSeconds"]
    text = next(entry["value"] for entry in spec["containers"][0]["env"] if entry["name"] == "RECAST_SERVER")
    assert json.loads(text)["graceSeconds"] + sleep == spec["terminationGracePeriodSeconds"]


def test_the_servers_configuration_reads_back_as_it_was_written() -> None:
    (container,) = build("expert_deployment")["spec"]["template"]["spec"]["containers"]
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "RECAST_SERVER")
    assert ExpertServerConfig.model_validate(json.loads(text)) == expert_config()


def test_the_experts_service_and_budget_find_every_revision() -> None:
    every = {"recast.dev/kind": "expert-server", "recast.dev/model": "reels"}
    assert build("expert_service")["spec"]["selector"] == every
    assert build("expert_disruption_budget")["spec"]["selector"] == {"matchLabels": every}


@pytest.mark.parametrize("name", ["expert_disruption_budget", "foundation_disruption_budget"])
def test_a_budget_lets_the_only_pod_and_every_pod_that_is_not_ready_be_evicted(name: str) -> None:
    spec = build(name)["spec"]
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_only_experts_that_read_the_lineage_reach_its_grpc_port_and_everybody_the_admin_port_and_no_other() -> None:
    spec = build("foundation_network_policy")["spec"]
    (container,) = build("foundation_deployment")["spec"]["template"]["spec"]["containers"]
    port = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    readers, everybody = spec["ingress"]
    assert [entry["port"] for entry in readers["ports"]] == [port["grpc"]]
    assert [entry["port"] for entry in everybody["ports"]] == [port["admin"]]
    assert "from" not in everybody
    (peer,) = readers["from"]
    wanted = peer["podSelector"]["matchLabels"]
    expert = build("expert_deployment")["spec"]["template"]["metadata"]["labels"]
    assert wanted.items() <= expert.items(), "its own experts are locked out"
    assert not wanted.items() <= (expert | {"recast.dev/lineage": "1"}).items(), "experts of an older lineage come in"
    foundation = build("foundation_deployment")["spec"]["template"]["metadata"]["labels"]
    assert not wanted.items() <= foundation.items()
    assert peer.keys() == {"podSelector"}, "pods of other namespaces come in"
    assert spec["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("name", ["expert_deployment", "foundation_deployment"])
def test_a_count_of_threads_is_left_to_the_image_and_the_server(name: str) -> None:
    (container,) = build(name)["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"]] == ["RECAST_SERVER", "POD_NAME"]


def test_an_experts_service_leads_to_ports_that_its_pods_have() -> None:
    (container,) = build("expert_deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in build("expert_service")["spec"]["ports"]} <= ports
