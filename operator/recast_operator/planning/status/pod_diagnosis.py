"""What pods say about why they do not run: images that cannot be pulled, termination messages, no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recast_api.run import TerminationMessage
from recast_operator.planning.snapshot import ObservedPod

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Trouble:
    """Why pods are not ready, in a user's words."""

    reason: str
    message: str
    final: bool = False
    """Waiting will not help: the pod itself said that it must not be tried again."""
    image: bool = False


def diagnose(pods: Sequence[ObservedPod], image_field: str) -> Trouble | None:
    """The first thing wrong with these pods, the most telling first; ``image_field`` names what to correct."""
    waiting = [pod for pod in pods if not pod.ready]
    return (
        _image(waiting, image_field)
        or _terminated(waiting)
        or _config(waiting)
        or _crashing(waiting)
        or _no_room(waiting)
    )


def termination_message(pods: Sequence[ObservedPod]) -> TerminationMessage | None:
    """The telling termination message of these pods: one that forbids another attempt before one that allows it."""
    messages = [TerminationMessage.decode(pod.termination) for pod in pods if pod.termination]
    known = [message for message in messages if message is not None]
    return min(known, key=lambda message: message.retryable, default=None)


def _image(pods: Sequence[ObservedPod], image_field: str) -> Trouble | None:
    pod = next((pod for pod in pods if pod.waiting_reason in IMAGE_REASONS), None)
    if pod is None:
        return None
    detail = f" ({pod.waiting_message[:200]})" if pod.waiting_message else ""
    return Trouble(
        "ImagePullBackOff",
        f'image "{pod.image}" cannot be pulled{detail}; correct {image_field} or make the image available',
        image=True,
    )


def _terminated(pods: Sequence[ObservedPod]) -> Trouble | None:
    message = termination_message(pods)
    return Trouble(message.reason, message.message, final=not message.retryable) if message else None


def _config(pods: Sequence[ObservedPod]) -> Trouble | None:
    pod = next((pod for pod in pods if pod.waiting_reason in _CONFIG_REASONS), None)
    return Trouble(pod.waiting_reason, f"pod {pod.name}: {pod.waiting_message[:300]}") if pod else None


def _crashing(pods: Sequence[ObservedPod]) -> Trouble | None:
    pod = next((pod for pod in pods if pod.restarts > 0 and pod.exit_code not in (None, 0)), None)
    if pod is None:
        return None
    hint = "; it ran out of memory: raise resources.limits.memory" if pod.exit_code == 137 else ""
    last = f": {pod.termination.strip()[-200:]}" if pod.termination.strip() else ""
    return Trouble(
        "CrashLoop", f"pod {pod.name} ended with exit code {pod.exit_code}, {pod.restarts} restarts{hint}{last}"
    )


def _no_room(pods: Sequence[ObservedPod]) -> Trouble | None:
    pod = next((pod for pod in pods if pod.unschedulable), None)
    return Trouble("InsufficientCapacity", f"pod {pod.name} finds no node: {pod.unschedulable[:300]}") if pod else None
