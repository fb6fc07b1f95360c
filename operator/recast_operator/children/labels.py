"""Labels, owner and annotations that every child carries; selection by them must hold over operator versions."""

from __future__ import annotations

from typing import Any

from recast_api import names

EXPERT_SERVER = "expert-server"
FOUNDATION_SERVER = "foundation-server"
RUN_AS = 65532

Object = dict[str, Any]


def labels(kind: str, model: str, **more: str) -> dict[str, str]:
    """Identity first; ``more`` by the last part of the label's name: ``revision``, ``surface``, ``lineage``."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_KIND: kind,
        names.LABEL_MODEL: model,
        **{f"recast.dev/{key}": value for key, value in more.items()},
    }


def metadata(name: str, namespace: str, owner: Object, marks: dict[str, str], template_hash: str) -> Object:
    """The metadata of a child: found by label, deleted with its owner, rewritten only when the hash differs."""
    return {
        "name": name,
        "namespace": namespace,
        "labels": marks,
        "annotations": {names.ANNOTATION_TEMPLATE_HASH: template_hash},
        "ownerReferences": [owner],
    }
