"""Identities by content: what was trained, what is rolled out, what a child was made from.

All hashes leave out values that equal their default. A field that a later API version adds with a default therefore
changes no hash, and upgrading the operator neither retrains a model nor restarts a pod.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from recast_api.base import Wire
from recast_api.resources import ExpertModelSpec, ExpertServing, FoundationModelSpec, Training

_HOW = ("nodes", "procsPerNode", "resources", "maxAttempts", "activeDeadlineSeconds")
_FORGET = ("ttlSecondsAfterFinished",)


def visible(value: Wire) -> dict[str, Any]:
    """What a user said: the wire form without absent and default values."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def digest(value: object, length: int) -> str:
    """The first hexadecimal digits of the SHA-256 of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _split(training: Training) -> tuple[dict[str, Any], dict[str, Any]]:
    said = visible(training)
    what = {key: value for key, value in said.items() if key not in _HOW and key not in _FORGET}
    return what, {key: said[key] for key in _HOW if key in said}


def foundation_inputs(spec: FoundationModelSpec) -> str:
    """``<what>.<how>`` of a foundation's training.

    ``what`` decides the weights: another one means that a run is due. ``how`` (processes, resources, limits) does not,
    but a failure is remembered by both, so that giving a run more memory is a new chance.
    """
    what, how = _split(spec.training)
    said = {"training": what, "architecture": visible(spec.architecture), "data": visible(spec.data)}
    return f"{digest(said, 24)}.{digest(how, 8)}"


def expert_inputs(spec: ExpertModelSpec, foundation_digest: str) -> str:
    """``<what>.<foundation>.<how>`` of an expert's training; the parts as in :func:`foundation_inputs`."""
    what, how = _split(spec.training)
    said = {
        "training": what,
        "surface": spec.surface,
        "tasks": [visible(task) for task in spec.tasks],
        "architecture": visible(spec.architecture),
        "data": visible(spec.data) if spec.data else None,
    }
    return f"{digest(said, 24)}.{digest(foundation_digest, 16)}.{digest(how, 8)}"


def what(inputs: str) -> str:
    """The part of an inputs hash that decides the weights: all but ``how``."""
    return inputs.rpartition(".")[0]


def spec_part(inputs: str) -> str:
    """The part of an inputs hash that the model's own spec decides."""
    return inputs.partition(".")[0]


def revision(version_digest: str, foundation_lineage: int, serving: ExpertServing) -> str:
    """The name of a revision: expert version, foundation lineage, serving template without its replica count."""
    return digest([version_digest, foundation_lineage, serving_template(serving)], 10)


def serving_template(serving: ExpertServing) -> dict[str, object]:
    """What of the serving spec makes a revision: all but the replica count."""
    return {key: value for key, value in visible(serving).items() if key != "replicas"}
