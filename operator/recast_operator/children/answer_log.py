"""What a log of answers adds to an expert's pod: a volume that it may write."""

from __future__ import annotations

from recast_api import names
from recast_api.base import duration_seconds
from recast_api.resources.serving import AnswerLog
from recast_api.server import ServedAnswerLog
from recast_operator.children.labels import Object

_UNITS = {"Mi": 2**20, "Gi": 2**30}
_VOLUME = "answers"


def served_answer_log(log: AnswerLog | None, model: str) -> ServedAnswerLog | None:
    """The log as the server is told of it: in a folder of the expert's own, since experts may share a claim.

    It is told of nine tenths of the size: a file takes whole blocks, and a pod whose emptyDir is too large is evicted.
    """
    if log is None:
        return None
    return ServedAnswerLog(
        path=f"{names.ANSWERS_MOUNT}/{model}",
        share=log.share,
        window_milliseconds=1000 * duration_seconds(log.window),
        roll_seconds=duration_seconds(log.segment),
        max_bytes=int(log.size[:-2]) * _UNITS[log.size[-2:]] * 9 // 10,
    )


def volumes(log: AnswerLog | None) -> list[Object]:
    """Volumes of the pod."""
    if log is None:
        return []
    if log.claim_name is None:
        return [{"name": _VOLUME, "emptyDir": {"sizeLimit": log.size}}]
    return [{"name": _VOLUME, "persistentVolumeClaim": {"claimName": log.claim_name}}]


def mounts(log: AnswerLog | None) -> list[Object]:
    """Where its container has them."""
    return [{"name": volume["name"], "mountPath": names.ANSWERS_MOUNT} for volume in volumes(log)]
