"""The one address of an expert."""

from __future__ import annotations

from recast_api import names
from recast_operator.children.labels import EXPERT_SERVER, ChildMeta, Object, labels, metadata, selector


def expert_service(model: str, child: ChildMeta) -> Object:
    """``em-<model>``: over the pods of all revisions, so that the ratio of ready pods is the ratio of connections."""
    marks = labels(EXPERT_SERVER, model)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(child, marks),
        "spec": {
            "selector": selector(marks),
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
                {
                    "name": "grpc",
                    "port": names.EXPERT_GRPC_PORT,
                    "targetPort": "grpc",
                    "protocol": "TCP",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }
