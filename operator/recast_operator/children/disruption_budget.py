"""How many pods of an expert, or of a foundation lineage, an eviction may take at once: a node's drain is made of them.

``maxUnavailable: 1`` and not ``minAvailable: 1``: of several pods one is evicted when all others are ready, so that a
drain takes no surface and no lineage down; a pod that is alone may be evicted, since a budget that forbade it would
keep its node from ever being drained. ``AlwaysAllow``: a pod that is not ready serves nobody, and one that never gets
ready would hold the drain for ever.
"""

from __future__ import annotations

from recast_operator.children.labels import (
    EXPERT_SERVER,
    FOUNDATION_SERVER,
    ChildMeta,
    Object,
    labels,
    metadata,
    selector,
)


def expert_disruption_budget(model: str, child: ChildMeta) -> Object:
    """``em-<model>``: one budget over the pods of all revisions, as they share the traffic."""
    return _budget(child, labels(EXPERT_SERVER, model))


def foundation_disruption_budget(model: str, lineage: int, child: ChildMeta) -> Object:
    """``fm-<model>-l<lineage>``: one a lineage, since none answers for another."""
    return _budget(child, labels(FOUNDATION_SERVER, model, lineage=str(lineage)))


def _budget(child: ChildMeta, marks: dict[str, str]) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(child, marks),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(marks)},
        },
    }
