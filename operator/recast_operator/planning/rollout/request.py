"""One-shot requests in ``spec.rollout.request``: each id is acted on once, or said to be ignored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recast_api.resources import CanaryStatus, FailedRevision, RolloutRequest
from recast_operator.planning.plan import Event

REMEMBERED = 32


@dataclass(frozen=True)
class RequestDecision:
    """What becomes of a request in this pass."""

    action: Literal["Abort", "Promote", "Retry"] | None
    revision: str
    handled: tuple[str, ...]
    events: tuple[Event, ...] = ()


def decide(
    request: RolloutRequest | None,
    handled: Sequence[str],
    canary: CanaryStatus | None,
    failed: Sequence[FailedRevision],
) -> RequestDecision:
    """Decide on the request: execute, ignore with a reason, or nothing new."""
    if request is None or request.id in handled:
        return RequestDecision(None, "", tuple(handled))
    remembered = (*handled, request.id)[-REMEMBERED:]
    objection = _objection(request, canary, failed)
    if objection:
        text = f'request "{request.id}" ({request.action} {request.revision}) is ignored: {objection}'
        return RequestDecision(None, "", remembered, (Event("Warning", "RequestIgnored", text),))
    text = f'request "{request.id}": {request.action} {request.revision}'
    return RequestDecision(request.action, request.revision, remembered, (Event("Normal", "RequestExecuted", text),))


def _objection(request: RolloutRequest, canary: CanaryStatus | None, failed: Sequence[FailedRevision]) -> str:
    if request.action == "Retry":
        known = [entry.revision for entry in failed]
        return (
            ""
            if request.revision in known
            else f"that revision has not failed; failed ones: {', '.join(known) or 'none'}"
        )
    if canary is None:
        return "no canary is running"
    return "" if canary.revision == request.revision else f"the running canary is {canary.revision}"
