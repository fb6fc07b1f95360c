"""Who may reach a foundation's servers: the experts that read the lineage. They answer about any user to whoever asks.

An expert's pods are found by the labels that they have had since the first release, so that none of an older operator
is locked out. The label of the lineage tells no foundation from another of the same namespace; nothing is told apart
further than that. A cluster whose network plug-in knows no NetworkPolicy takes the object and enforces nothing.
"""

from __future__ import annotations

from recast_api import names
from recast_operator.children.labels import (
    EXPERT_SERVER,
    FOUNDATION_SERVER,
    ChildMeta,
    Object,
    labels,
    metadata,
    selector,
)


def foundation_network_policy(model: str, lineage: int, child: ChildMeta) -> Object:
    """``fm-<model>-l<lineage>``: gRPC from experts that read the lineage, health and metrics from anywhere, no more."""
    marks = labels(FOUNDATION_SERVER, model, lineage=str(lineage))
    readers = {names.LABEL_KIND: EXPERT_SERVER, names.LABEL_LINEAGE: str(lineage)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(child, marks),
        "spec": {
            "podSelector": {"matchLabels": selector(marks)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": readers}}],
                    "ports": [{"port": names.FOUNDATION_GRPC_PORT, "protocol": "TCP"}],
                },
                {"ports": [{"port": names.ADMIN_PORT, "protocol": "TCP"}]},
            ],
        },
    }
