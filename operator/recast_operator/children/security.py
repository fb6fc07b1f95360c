"""The security contexts of every pod that Recast makes: Pod Security Standard *restricted*, and a read-only root."""

from __future__ import annotations

from recast_api.names import RUN_AS_USER
from recast_operator.children.labels import Object


def pod_security() -> Object:
    """Of the pod: the images' user, whose group owns the volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": RUN_AS_USER,
        "runAsGroup": RUN_AS_USER,
        "fsGroup": RUN_AS_USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Object:
    """Of each container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
