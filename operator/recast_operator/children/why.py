"""Why a child is changed, in words: what it was made from before, and what it is made from now.

Read back from a child's own body, so that it needs no memory of the input; used for the operator's log and for events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from recast_api import names
from recast_operator.children.labels import Object

Inputs = tuple[tuple[str, str], ...]
"""Name and value of what people decide about a child; small, since one is kept for each child."""

MISSING = "it is missing"
UNSAID = "its input changed"


def inputs(body: Object) -> Inputs:
    """What a rendered child says of its input; empty for one without pods, whose input is its name."""
    pod = (body["spec"].get("template") or {}).get("spec") or {}
    return tuple(_inputs(pod, next(iter(pod.get("containers") or []), {}))) if pod else ()


def why_changed(before: Inputs, after: Inputs) -> str:
    """``image: server:1 -> server:2; version: 3 -> 4``."""
    old = dict(before)
    changes = [f"{name}: {old.get(name, 'none')} -> {value}" for name, value in after if old.get(name) != value]
    return "; ".join(changes) if before and changes else UNSAID


def why_scaled(before: int, after: int, reason: str) -> str:
    """``replicas 3 -> 4: canary moves to 50%``."""
    return f"replicas {before} -> {after}: {reason}"


def _inputs(pod: Object, container: Object) -> Iterator[tuple[str, str]]:
    # The body may be another operator version's: whatever it lacks is left out.
    config = _config(container)
    artifact, foundation = config.get("artifact") or {}, config.get("foundation") or {}
    yield "image", str(container.get("image", ""))
    if "version" in artifact:
        yield "version", f"v{artifact['version']}"
    if "version" in foundation:
        yield "foundation", f"{foundation.get('name')} v{foundation['version']}"
    yield "resources", json.dumps(container.get("resources") or {}, sort_keys=True)
    yield "terminationGracePeriodSeconds", str(pod.get("terminationGracePeriodSeconds", ""))
    claims = [volume.get("persistentVolumeClaim") or {} for volume in pod.get("volumes") or []]
    yield "claim", ", ".join(claim["claimName"] for claim in claims if "claimName" in claim)


def _config(container: Object) -> Object:
    texts = (entry.get("value") for entry in container.get("env") or [] if entry.get("name") == names.SERVER_ENV)
    try:
        found = json.loads(next(texts, None) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
