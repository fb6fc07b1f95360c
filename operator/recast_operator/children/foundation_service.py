"""The address of one foundation lineage."""

from __future__ import annotations

from recast_api import names
from recast_operator.children.labels import FOUNDATION_SERVER, Object, labels, metadata


def foundation_service(model: str, namespace: str, lineage: int, *, owner: Object, template_hash: str) -> Object:
    """``fm-<model>-l<lineage>``: headless, because gRPC keeps its connections and balances on the client's side."""
    marks = labels(FOUNDATION_SERVER, model, lineage=str(lineage))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(names.lineage_server(model, lineage), namespace, owner, marks, template_hash),
        "spec": {
            "clusterIP": "None",
            "selector": {key: value for key, value in marks.items() if key != names.LABEL_MANAGED_BY},
            "ports": [{"name": "grpc", "port": names.FOUNDATION_GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}],
        },
    }
