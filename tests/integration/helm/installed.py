"""The rendered chart on a real kube-apiserver, and pods of trainers whose tokens can be asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from chart import NAMESPACE, Objects, rendered

WORKLOADS = "workloads"
APPLY = {"Content-Type": "application/apply-patch+yaml"}
PLURALS = {
    "ServiceAccount": "api/v1|serviceaccounts",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1|customresourcedefinitions",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1|clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1|clusterrolebindings",
    "Role": "apis/rbac.authorization.k8s.io/v1|roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1|rolebindings",
    "Deployment": "apis/apps/v1|deployments",
    "ValidatingAdmissionPolicy": "apis/admissionregistration.k8s.io/v1|validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "apis/admissionregistration.k8s.io/v1|validatingadmissionpolicybindings",
}
Connect = Callable[[str | None], httpx.Client]
VERSIONS = f"/apis/recast.dev/v1alpha1/namespaces/{WORKLOADS}/modelversions"


def url(found: dict[str, Any]) -> str:
    base, plural = PLURALS[found["kind"]].split("|")
    namespace = found["metadata"].get("namespace")
    return f"/{base}/{f'namespaces/{namespace}/' if namespace else ''}{plural}/{found['metadata']['name']}"


def apply(admin: httpx.Client, objects: Objects) -> None:
    for found in objects:
        answer = admin.patch(
            url(found),
            params={"fieldManager": "helm", "force": "true", "fieldValidation": "Strict"},
            headers=APPLY,
            json=found,
        )
        assert answer.is_success, (found["kind"], answer.text)


@dataclass(frozen=True)
class Installed:
    """An apiserver with the chart on it, and pods of trainers whose tokens can be asked for."""

    admin: httpx.Client
    connect: Connect

    def pod(self, name: str) -> str:
        """Create a trainer's pod as the Job controller would; its UID."""
        pods = f"/api/v1/namespaces/{WORKLOADS}/pods"
        spec = {"serviceAccountName": "recast-trainer", "containers": [{"name": "trainer", "image": "t"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        answer = self.admin.post(pods, json=body)
        if answer.status_code == 409:
            answer = self.admin.get(f"{pods}/{name}")
        return str(answer.raise_for_status().json()["metadata"]["uid"])

    def token(self, account: str, namespace: str, pod: str | None = None) -> str:
        """A token of a service account, bound to a pod as the kubelet binds it."""
        spec: dict[str, Any] = {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 600}
        if pod is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": self.pod(pod)}
        answer = self.admin.post(
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            json={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(answer.raise_for_status().json()["status"]["token"])

    def trainer(self, pod: str | None) -> httpx.Client:
        """A client with the token that the pod would find in its file system."""
        return self.connect(self.token("recast-trainer", WORKLOADS, pod))

    def may(self, account: str, namespace: str, verb: str, group: str, resource: str, where: str) -> bool:
        """What the apiserver would answer to a service account."""
        resource, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": where,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"system:serviceaccount:{namespace}:{account}", "resourceAttributes": attributes},
        }
        answer = self.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=body)
        return bool(answer.raise_for_status().json()["status"]["allowed"])

    def permit(self, objects: Objects) -> None:
        """Replace every permission of the release by those among ``objects``."""
        kinds = ("ClusterRoleBinding", "ClusterRole", "RoleBinding", "Role")
        for old in rendered(workloadNamespaces=[WORKLOADS]):
            if old["kind"] in kinds:
                self.admin.delete(url(old))
        apply(self.admin, [found for found in objects if found["kind"] in kinds])


def install(admin: httpx.Client, connect: Connect) -> Installed:
    """The chart, applied; its definitions are served when this returns."""
    for name in (NAMESPACE, WORKLOADS):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert admin.post("/api/v1/namespaces", json=body).status_code in (201, 409)
    objects = rendered(workloadNamespaces=[WORKLOADS])
    apply(admin, [found for found in objects if found["kind"] == "CustomResourceDefinition"])
    deadline = time.monotonic() + 30
    while admin.get(VERSIONS).status_code != 200:
        assert time.monotonic() < deadline, admin.get(VERSIONS).text
        time.sleep(0.05)
    apply(admin, [found for found in objects if found["kind"] != "CustomResourceDefinition"])
    return Installed(admin, connect)
