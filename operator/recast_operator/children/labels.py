"""Labels, owner and annotations that every child carries; selection by them must hold over operator versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recast_api import names

EXPERT_SERVER = "expert-server"
FOUNDATION_SERVER = "foundation-server"

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""


@dataclass(frozen=True)
class ChildMeta:
    """What tells one child from another of its kind."""

    name: str
    namespace: str
    owner: Object
    """Owner reference to the model, ``controller: true``."""
    template_hash: str
    """Of the user-visible input."""


def labels(kind: str, model: str, **more: str) -> dict[str, str]:
    """Identity first; ``more`` by the last part of the label's name: ``revision``, ``surface``, ``lineage``."""
    return {
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_KIND: kind,
        names.LABEL_MODEL: model,
        **{f"recast.dev/{key}": value for key, value in more.items()},
    }


def metadata(child: ChildMeta, marks: dict[str, str]) -> Object:
    """The metadata of a child: found by label, deleted with its owner, rewritten only when the hash differs."""
    return {
        "name": child.name,
        "namespace": child.namespace,
        "labels": marks,
        "annotations": {names.ANNOTATION_TEMPLATE_HASH: child.template_hash},
        "ownerReferences": [child.owner],
    }


def selector(marks: dict[str, str]) -> dict[str, str]:
    """What a Service selects by: the pods' identity, without the label that all of Recast's objects carry."""
    return {key: value for key, value in marks.items() if key != names.LABEL_MANAGED_BY}


def selector_text(kind: str, model: str, **more: str) -> str:
    """The same as one string, as a scale subresource and ``kubectl get -l`` take it."""
    return ",".join(f"{key}={value}" for key, value in selector(labels(kind, model, **more)).items())
