"""The add-ons of a fresh cluster: DNS, Prometheus, storage, and the marker of a throw-away cluster.

Pure: a layout in, a ``List`` of objects out.
"""

from __future__ import annotations

from typing import Any

from dev.cluster.components import DNS_PORT
from dev.cluster.layout import PROMETHEUS_PORT, ClusterLayout

MARKER = "recast-dev-cluster"
STORAGE_CLASS = "recast-local"
VOLUMES = 32
MONITORING = "recast-monitoring"

Object = dict[str, Any]


def _outside_service(
    name: str, namespace: str, port: Object, target: Object, layout: ClusterLayout, ip: str | None = None
) -> list[Object]:
    """A Service without selector and the EndpointSlice that points it at a process of the node."""
    spec: Object = {"ports": port["ports"]}
    if ip:
        spec["clusterIP"] = ip
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-node", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": target["ports"],
        "endpoints": [{"addresses": [layout.node_ip], "conditions": {"ready": True}}],
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return [service, slice_]


def _reader(user: str, rules: list[Object]) -> list[Object]:
    """A ClusterRole with these rules, bound to the client certificate's user."""
    name = f"recast-dev:{user}"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    return [role, binding]


def _volumes(layout: ClusterLayout) -> list[Object]:
    """Host folders as volumes, bound to whichever claim comes first: a single node needs no provisioner."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    volumes = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"recast-volume-{index}"},
            "spec": {
                "capacity": {"storage": "20Gi"},
                "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "hostPath": {"path": str(layout.state / "volumes" / str(index)), "type": "Directory"},
            },
        }
        for index in range(VOLUMES)
    ]
    return [storage_class, *volumes]


def objects(layout: ClusterLayout) -> Object:
    """Everything to apply to a fresh cluster, as one ``List``."""
    dns_ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    dns_targets = [{**port, "port": DNS_PORT} for port in dns_ports]
    prometheus = [{"name": "http", "port": PROMETHEUS_PORT, "protocol": "TCP"}]
    items: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MONITORING}},
        *_outside_service(
            "kube-dns", "kube-system", {"ports": dns_ports}, {"ports": dns_targets}, layout, layout.dns_ip
        ),
        *_outside_service("prometheus", MONITORING, {"ports": prometheus}, {"ports": prometheus}, layout),
        *_reader(
            "coredns",
            [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        ),
        *_reader("prometheus", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]),
        *_volumes(layout),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": MARKER, "namespace": "kube-system"},
            "data": {"id": layout.id, "purpose": "a throw-away cluster of dev/cluster: disruptive tests may run here"},
        },
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}
