"""The Indexed Job and the headless Service of a TorchX role, as plain objects. Pure, with golden files.

A gang is never repaired: one pod that fails, or is taken away, fails the whole Job (``backoffLimit: 0``, FailJob
rules), and nothing replaces a pod before it is gone. The next attempt is another Job, with another name.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchx.specs import Role, VolumeMount

from recast_api import names
from recast_operator.adapters.appdef import EXACT_RESOURCES, FIELD_PATH
from recast_operator.adapters.objects import Object
from recast_operator.children.security import container_security, pod_security

LABEL_JOB = "batch.kubernetes.io/job-name"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""Set by Kubernetes on the pods of an Indexed Job."""
LABEL_APP = "torchx.pytorch.org/app-name"
LABEL_ROLE = "torchx.pytorch.org/role-name"
KEPT_TORCHX_ENV = frozenset({"TORCHX_JOB_ID"})
DISRUPTION_RULE = 0
"""Index of the rule below by which a disrupted pod fails the Job; the Job's condition names it."""


@dataclass(frozen=True)
class Gang:
    """The pods of one TorchX role, all of them at once, and what surrounds them."""

    app: str
    """Name of the Job, and of the Service of several pods."""
    role: Role
    namespace: str
    owner: Object | None
    """Owner reference to the model."""
    extra_labels: dict[str, str]
    service_account: str
    active_deadline_seconds: int
    ttl_seconds_after_finished: int

    def metadata(self) -> Object:
        """Of the Job and of its Service."""
        labels = {
            **self.extra_labels,
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
            LABEL_APP: self.app,
            LABEL_ROLE: self.role.name,
        }
        metadata: Object = {"name": self.app, "namespace": self.namespace, "labels": labels}
        if self.owner is not None:
            metadata["ownerReferences"] = [self.owner]
        return metadata


def service(gang: Gang) -> Object:
    """The headless Service by whose name pods find pod 0, from before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": gang.metadata(),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_APP: gang.app},
            "ports": [{"name": name, "port": port} for name, port in sorted(gang.role.port_map.items())],
        },
    }


def job(gang: Gang) -> Object:
    """The Indexed Job: one pod a node, all of them at once."""
    metadata, role = gang.metadata(), gang.role
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": role.num_replicas,
            "parallelism": role.num_replicas,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": role.name, "operator": "NotIn", "values": [0]},
                    },
                ]
            },
            "activeDeadlineSeconds": gang.active_deadline_seconds,
            "ttlSecondsAfterFinished": gang.ttl_seconds_after_finished,
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": _pod_spec(gang),
            },
        },
    }


def _pod_spec(gang: Gang) -> Object:
    role = gang.role
    mounts = [mount for mount in role.mounts if isinstance(mount, VolumeMount)]
    if len(mounts) != len(role.mounts):
        raise ValueError(f"role {role.name}: only volume mounts (persistent volume claims) are supported")
    # Two mounts of one claim are one volume; it is read-only for the pod only if every mount of it is.
    claims: dict[str, bool] = {}
    for mount in mounts:
        claims[mount.src] = claims.get(mount.src, True) and mount.read_only
    volumes: list[Object] = [
        {
            "name": f"claim-{index}",
            "persistentVolumeClaim": {"claimName": claim, **({"readOnly": True} if read_only else {})},
        }
        for index, (claim, read_only) in enumerate(claims.items())
    ]
    volume_of = {claim: f"claim-{index}" for index, claim in enumerate(claims)}
    return {
        "restartPolicy": "Never",
        "serviceAccountName": gang.service_account,
        **({"subdomain": gang.app} if role.num_replicas > 1 else {}),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": role.name,
                "image": role.image,
                "command": [role.entrypoint],
                "args": list(role.args),
                "env": [_variable(name, value) for name, value in sorted(role.env.items()) if _wanted(name)],
                "ports": [
                    {"name": name, "containerPort": port, "protocol": "TCP"}
                    for name, port in sorted(role.port_map.items())
                ],
                "resources": _resources(role),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": container_security(),
                "volumeMounts": [
                    {"name": "tmp", "mountPath": names.SCRATCH_MOUNT},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    *(
                        {
                            "name": volume_of[mount.src],
                            "mountPath": mount.dst_path,
                            **({"readOnly": True} if mount.read_only else {}),
                        }
                        for mount in mounts
                    ),
                ],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}, *volumes],
    }


def _wanted(name: str) -> bool:
    # TorchX passes its session and trackers on to its jobs; there every TORCHX_* would configure another TorchX.
    return not name.startswith("TORCHX_") or name in KEPT_TORCHX_ENV


def _variable(name: str, value: str) -> Object:
    if value.startswith(FIELD_PATH):
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": value.removeprefix(FIELD_PATH)}}}
    return {"name": name, "value": value}


def _resources(role: Role) -> Object:
    exact = role.metadata.get(EXACT_RESOURCES)
    if exact is not None:
        return {kind: dict(values) for kind, values in exact.items() if values}
    limits: Object = {"cpu": str(role.resource.cpu), "memory": f"{role.resource.memMB}Mi"}
    if role.resource.gpu > 0:
        limits["nvidia.com/gpu"] = str(role.resource.gpu)
    return {"requests": dict(limits), "limits": limits}
