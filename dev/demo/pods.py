"""The pods that the demo makes by itself, beside those that the operator makes.

Each satisfies the Pod Security Standard ``restricted``, which the demo's namespaces enforce. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recast_api import names

Object = dict[str, Any]

POD_SECURITY = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
"""Labels of a namespace whose pods must satisfy ``restricted``."""

_POD: Object = {
    "runAsNonRoot": True,
    "runAsUser": names.RUN_AS_USER,
    "runAsGroup": names.RUN_AS_USER,
    "fsGroup": names.RUN_AS_USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod(name: str, image: str, command: Sequence[str], claims: Mapping[str, str]) -> Object:
    """A pod that runs one command. ``claims`` is where each PersistentVolumeClaim is mounted, by its name."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": _POD,
            "containers": [
                {
                    "name": name,
                    "image": image,
                    "command": list(command),
                    "securityContext": _CONTAINER,
                    "volumeMounts": [{"name": claim, "mountPath": path} for claim, path in claims.items()],
                }
            ],
            "volumes": [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims],
        },
    }


def overrides(name: str) -> Object:
    """The ``--overrides`` of ``kubectl run <name>``, a strategic merge patch beside its image and command."""
    return {
        "apiVersion": "v1",
        "spec": {"securityContext": _POD, "containers": [{"name": name, "securityContext": _CONTAINER}]},
    }
