"""Identities by content: what is rolled out, what a child was made from; for runs see :mod:`planning.training.inputs`.

All hashes leave out values that equal their default. A field that a later API version adds with a default therefore
changes no hash, and upgrading the operator neither retrains a model nor restarts a pod.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from recast_api.base import Wire
from recast_api.resources import ExpertServing, FoundationServing

BESIDE_PODS = ("replicas", "networkPolicy")
"""What of a serving spec changes no pod."""


def visible(value: Wire) -> dict[str, Any]:
    """What a user said: the wire form without absent and default values."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def digest(value: object, length: int) -> str:
    """The first hexadecimal digits of the SHA-256 of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def revision(version_digest: str, foundation_lineage: int, serving: ExpertServing) -> str:
    """The name of a revision: expert version, foundation lineage, serving template without its replica count."""
    return digest([version_digest, foundation_lineage, serving_template(serving)], 10)


def serving_template(serving: ExpertServing | FoundationServing) -> dict[str, object]:
    """What of the serving spec makes a revision: all that reaches its pods."""
    return {key: value for key, value in visible(serving).items() if key not in BESIDE_PODS}
