"""What ``helm template`` makes of the chart, and which values it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, IMAGE, NAMESPACE, RELEASE, Objects, helm, rendered, template

from recast_operator import entry

pytestmark = pytest.mark.integration

DIGEST = "registry.example.com/recast/operator@sha256:0123"
CRDS = Path(__file__).resolve().parents[3] / "crds"


def _of(objects: Objects, kind: str) -> Objects:
    return [found for found in objects if found["kind"] == kind]


def _rules(objects: Objects) -> list[dict[str, Any]]:
    return [rule for kind in ("Role", "ClusterRole") for role in _of(objects, kind) for rule in role["rules"]]


def test_helm_finds_nothing_to_complain_about() -> None:
    flags = ("--set-json", 'workloadNamespaces=["demo"]', "--set", f"operator.image={IMAGE}")
    answer = helm("lint", "--strict", str(CHART), *flags)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_rendered_definitions_are_the_generated_ones_and_outlive_the_release() -> None:
    found_by_name = {crd["metadata"]["name"]: crd for crd in _of(rendered(), "CustomResourceDefinition")}
    generated = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in CRDS.glob("*.yaml")]
    assert set(found_by_name) == {crd["metadata"]["name"] for crd in generated}
    for crd in generated:
        found = found_by_name[crd["metadata"]["name"]]
        assert found["spec"] == crd["spec"]
        assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_can_be_left_to_somebody_else() -> None:
    assert _of(rendered(crds={"enabled": False}), "CustomResourceDefinition") == []


@pytest.mark.parametrize("watched", [[], ["demo", "ads"]], ids=["everywhere", "two namespaces"])
def test_no_rule_has_a_wildcard_or_reaches_secrets(watched: list[str]) -> None:
    rules = _rules(rendered(watchNamespaces=watched, workloadNamespaces=["demo"]))
    assert rules
    for rule in rules:
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
        assert not {"secrets", "configmaps", "pods/exec", "serviceaccounts", "serviceaccounts/token"} & set(
            rule["resources"]
        )
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


def test_a_trainer_may_create_and_read_versions_and_nothing_else() -> None:
    roles = [
        role
        for role in _of(rendered(workloadNamespaces=["demo"]), "Role")
        if role["metadata"]["name"] == "recast-trainer"
    ]
    assert [role["rules"] for role in roles] == [
        [{"apiGroups": ["recast.dev"], "resources": ["modelversions"], "verbs": ["create", "get"]}]
    ]


def test_a_server_has_a_service_account_and_no_permission() -> None:
    objects = rendered(workloadNamespaces=["demo"])
    accounts = [account for account in _of(objects, "ServiceAccount") if account["metadata"]["name"] == "recast-server"]
    assert [account["automountServiceAccountToken"] for account in accounts] == [False]
    bound = {subject["name"] for binding in _of(objects, "RoleBinding") for subject in binding["subjects"]}
    assert "recast-server" not in bound


def test_namespaces_that_are_listed_get_roles_and_the_cluster_gets_none() -> None:
    objects = rendered(watchNamespaces=["demo", "ads"])
    assert _of(objects, "ClusterRole") == _of(objects, "ClusterRoleBinding") == []
    assert {role["metadata"]["namespace"] for role in _of(objects, "Role")} == {"demo", "ads"}
    arguments = _of(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [argument for argument in arguments if argument.startswith("--namespace")] == [
        "--namespace=demo",
        "--namespace=ads",
    ]
    assert "--all-namespaces" not in arguments


def test_the_operator_understands_its_arguments() -> None:
    for watched in ([], ["demo"]):
        deployment = _of(rendered(watchNamespaces=watched), "Deployment")[0]
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        options = entry.arguments(container["args"])
        assert (options.namespace, options.all_namespaces) == (watched, not watched)
        assert [port["containerPort"] for port in container["ports"]] == [options.metrics_port]
        assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(
            options.metrics_port
        )


def test_the_operator_runs_alone_unprivileged_and_probed() -> None:
    deployment = _of(rendered(), "Deployment")[0]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert deployment["metadata"]["namespace"] == NAMESPACE
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert set(container["resources"]) == {"requests", "limits"}
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_values_reach_the_operator() -> None:
    pod = _of(
        rendered(
            operator__prometheusUrl="http://prometheus.mon.svc:9090",
            operator__resyncSeconds=17,
            operator__image=DIGEST,
            operator__imagePullSecrets=["pull"],
            operator__priorityClassName="high",
            operator__nodeSelector={"pool": "system"},
            operator__tolerations=[{"key": "system", "operator": "Exists"}],
        ),
        "Deployment",
    )[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == DIGEST
    assert "--prometheus-url=http://prometheus.mon.svc:9090" in container["args"]
    assert "--resync-seconds=17" in container["args"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["priorityClassName"] == "high"
    assert pod["nodeSelector"] == {"pool": "system"}
    assert pod["tolerations"] == [{"key": "system", "operator": "Exists"}]


def test_two_releases_share_no_cluster_scoped_name() -> None:
    first = {
        (found["kind"], found["metadata"]["name"])
        for found in rendered(crds={"enabled": False})
        if "namespace" not in found["metadata"]
    }
    flags = ("--namespace", "elsewhere", "--set", f"crds.enabled=false,operator.image={IMAGE}")
    other = helm("template", "recast", str(CHART), *flags)
    second = {
        (found["kind"], found["metadata"]["name"])
        for found in yaml.safe_load_all(other.stdout)
        if found and "namespace" not in found["metadata"]
    }
    assert first
    assert first & second == set()


def test_without_an_image_the_chart_says_what_to_set() -> None:
    answer = helm("template", RELEASE, str(CHART))
    assert answer.returncode != 0
    assert "operator.image is not set" in answer.stderr
    assert "--set operator.image=registry.example.com/recast/operator:0.1.0" in answer.stderr


@pytest.mark.parametrize("image", ["recast/operator:0.1.0", "operator:0.1.0", "operator", "recast/operator@sha256:01"])
def test_an_image_that_a_node_would_look_for_on_a_public_registry_is_refused(image: str) -> None:
    answer = template({"operator.image": image})
    assert answer.returncode != 0
    assert f'operator.image "{image}" names no registry' in answer.stderr


@pytest.mark.parametrize(
    "image", [IMAGE, DIGEST, "localhost/operator:1", "registry:5000/operator", "10.0.0.1/operator:1"]
)
def test_an_image_with_a_registry_is_taken_as_it_is_written(image: str) -> None:
    pod = _of(rendered(operator__image=image), "Deployment")[0]["spec"]["template"]["spec"]
    assert [container["image"] for container in pod["containers"]] == [image]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("operater", {}, "operater"),
        ("operator.replicas", 2, "replicas"),
        ("operator.image", "a b", "image"),
        ("operator.imagePullPolicy", "Sometimes", "imagePullPolicy"),
        ("operator.prometheusUrl", "prometheus:9090", "prometheusUrl"),
        ("operator.resyncSeconds", "60", "resyncSeconds"),
        ("operator.resyncSeconds", 0, "resyncSeconds"),
        ("operator.resources.limits.cpu", "lots", "resources"),
        ("operator.tolerations", [{"taint": "x"}], "tolerations"),
        ("crds.enabled", "yes", "crds"),
        ("crds.keep", False, "keep"),
        ("workloadNamespaces", "demo", "workloadNamespaces"),
        ("workloadNamespaces", ["Demo"], "workloadNamespaces"),
        ("watchNamespaces", ["demo", "demo"], "watchNamespaces"),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: object, named: str) -> None:
    answer = template({key: value})
    assert answer.returncode != 0
    assert named in answer.stderr
