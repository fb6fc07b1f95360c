"""One-shot requests in ``spec.rollout.request``: each id is acted on once, or said to be ignored once.

=========  ===========================  ===========================================  =================================
action     no canary                    canary ``Initial``                           ``Progressing`` and ``Promoting``
=========  ===========================  ===========================================  =================================
Abort      ignored                      executed                                     executed
Promote    ignored                      ignored: it serves once its pods are ready   executed; ``Promoting``: ignored
Retry      executed if it has failed and is still a candidate: the canary has not, so that a Retry of it is ignored
=========  ===========================  ===========================================  =================================

Abort and Promote name the running canary, so that a request which arrives late hits nobody else. An id that was used
before does nothing again; where it comes back with other content, that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recast_api.resources import CanaryStatus, FailedRevision, HandledRequest, RolloutRequest
from recast_operator.planning.plan import Event

REMEMBERED = 32


@dataclass(frozen=True)
class RequestDecision:
    """What becomes of a request in this pass."""

    action: Literal["Abort", "Promote", "Retry"] | None
    revision: str
    handled: tuple[str, ...]
    last: HandledRequest | None = None
    """The newest request that was dealt with, now or before."""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class RequestContext:
    """What a request may be about."""

    canary: CanaryStatus | None
    failed: Sequence[FailedRevision]
    candidates: Sequence[str]
    """Revisions that could be rolled out, had they not failed."""


def decide(
    request: RolloutRequest | None, handled: Sequence[str], last: HandledRequest | None, context: RequestContext
) -> RequestDecision:
    """Decide on the request: execute, ignore with a reason, or nothing new."""
    before = tuple(handled)
    if request is None:
        return RequestDecision(None, "", before, last)
    if request.id in before:
        if last is None or _same(last, request):
            return RequestDecision(None, "", before, last)
        return _ignored(request, before, "that id has been used before: give each request an id of its own")
    before = (*before, request.id)[-REMEMBERED:]
    objection = _objection(request, context)
    if objection:
        return _ignored(request, before, objection)
    text = f'request "{request.id}": {request.action} {request.revision}'
    event = Event("Normal", "RequestExecuted", text)
    return RequestDecision(request.action, request.revision, before, _dealt_with(request), (event,))


def _objection(request: RolloutRequest, context: RequestContext) -> str:
    """Why it cannot be carried out; empty where it can."""
    canary = context.canary
    if request.action == "Retry":
        return _objection_to_retry(request.revision, context)
    if canary is None:
        return "no canary is running"
    if canary.revision != request.revision:
        return f"the running canary is {canary.revision}"
    if request.action == "Promote" and canary.state == "Initial":
        return "it is the first revision, with no steps to skip: it serves as soon as all of its pods are ready"
    if request.action == "Promote" and canary.state == "Promoting":
        return "it is being promoted already"
    return ""


def _objection_to_retry(revision: str, context: RequestContext) -> str:
    if context.canary is not None and context.canary.revision == revision:
        return "that revision is on trial now"
    known = [entry.revision for entry in context.failed]
    if revision not in known:
        return f"that revision has not failed; failed ones: {', '.join(known) or 'none'}"
    if revision not in context.candidates:
        return "that revision is no longer wanted: spec.serving has changed since, or a newer version serves"
    return ""


def _ignored(request: RolloutRequest, handled: tuple[str, ...], why: str) -> RequestDecision:
    text = f'request "{request.id}" ({request.action} {request.revision}) is ignored: {why}'
    return RequestDecision(
        None, "", handled, _dealt_with(request, why), (Event("Warning", "RequestIgnored", text[:1024]),)
    )


def _dealt_with(request: RolloutRequest, ignored: str = "") -> HandledRequest:
    return HandledRequest(id=request.id, action=request.action, revision=request.revision, ignored=ignored[:1024])


def _same(last: HandledRequest, request: RolloutRequest) -> bool:
    return (last.id, last.action, last.revision) == (request.id, request.action, request.revision)
