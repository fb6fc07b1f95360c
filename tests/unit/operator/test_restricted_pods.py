"""Every pod that Recast renders satisfies the Pod Security Standard *restricted*, whose rules are written out here.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (baseline and restricted, for Linux).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_operator_torchx import submission
from torchx.specs import AppDef

from recast_api.names import RUN_AS_USER
from recast_operator.adapters import appdef, job_objects
from tests.unit.children.test_golden_children import build

Object = dict[str, Any]
VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def training_pod(nodes: int) -> Object:
    app: AppDef = appdef.build(submission(nodes))
    gang = job_objects.Gang(
        app=app.name,
        role=app.roles[0],
        namespace="demo",
        owner=None,
        extra_labels={},
        service_account="recast-trainer",
        active_deadline_seconds=60,
        ttl_seconds_after_finished=60,
    )
    pod: Object = job_objects.job(gang)["spec"]["template"]["spec"]
    return pod


def server_pod(name: str) -> Object:
    pod: Object = build(name)["spec"]["template"]["spec"]
    return pod


PODS = {
    "expert server": server_pod("expert_deployment"),
    "foundation server": server_pod("foundation_deployment"),
    "training on one node": training_pod(1),
    "training on two nodes": training_pod(2),
}


def violations(pod: Object) -> Iterator[str]:
    """What the restricted profile refuses."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUME_TYPES:
            yield f"volume {volume['name']}"
    of_pod = pod.get("securityContext", {})
    if of_pod.get("sysctls"):
        yield "sysctls"
    for container in (*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])):
        context = container.get("securityContext", {})
        name = container["name"]
        if context.get("privileged"):
            yield f"{name}: privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: capabilities.drop"
        if not set(context.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield f"{name}: capabilities.add"
        if context.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
            yield f"{name}: runAsNonRoot"
        if context.get("runAsUser", of_pod.get("runAsUser")) == 0:
            yield f"{name}: runAsUser"
        profile = context.get("seccompProfile", of_pod.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccompProfile"
        if context.get("procMount", "Default") != "Default":
            yield f"{name}: procMount"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{name}: hostPort"


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_is_restricted(pod: Object) -> None:
    assert list(violations(pod)) == []


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_runs_as_the_images_user_and_writes_only_to_its_volumes(pod: Object) -> None:
    context = pod["securityContext"]
    assert {context[field] for field in ("runAsUser", "runAsGroup", "fsGroup")} == {RUN_AS_USER}
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    assert all(container["securityContext"]["readOnlyRootFilesystem"] is True for container in pod["containers"])


def test_the_rules_refuse_what_the_standard_refuses() -> None:
    bare = {
        "hostNetwork": True,
        "hostPID": True,
        "hostIPC": True,
        "securityContext": {"sysctls": [{}], "runAsUser": 0},
        "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
        "containers": [
            {
                "name": "c",
                "ports": [{"hostPort": 80}],
                "securityContext": {
                    "privileged": True,
                    "procMount": "Unmasked",
                    "capabilities": {"add": ["SYS_ADMIN"]},
                },
            }
        ],
    }
    assert len(list(violations(bare))) == 14
