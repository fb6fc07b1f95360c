"""The one address of an expert."""

from __future__ import annotations

from recast_api import names
from recast_operator.children.labels import EXPERT_SERVER, Object, labels, metadata


def expert_service(model: str, namespace: str, *, owner: Object, template_hash: str) -> Object:
    """``em-<model>``: over the pods of all revisions, so that the ratio of ready pods is the ratio of connections."""
    marks = labels(EXPERT_SERVER, model)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(names.expert_service(model), namespace, owner, marks, template_hash),
        "spec": {
            "selector": {key: value for key, value in marks.items() if key != names.LABEL_MANAGED_BY},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }
