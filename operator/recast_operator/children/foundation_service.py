"""The address of one foundation lineage."""

from __future__ import annotations

from recast_api import names
from recast_operator.children.labels import FOUNDATION_SERVER, ChildMeta, Object, labels, metadata, selector


def foundation_service(model: str, lineage: int, child: ChildMeta) -> Object:
    """``fm-<model>-l<lineage>``: headless, because gRPC keeps its connections and balances on the client's side."""
    marks = labels(FOUNDATION_SERVER, model, lineage=str(lineage))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(child, marks),
        "spec": {
            "clusterIP": "None",
            "selector": selector(marks),
            "ports": [{"name": "grpc", "port": names.FOUNDATION_GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}],
        },
    }
