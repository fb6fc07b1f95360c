"""``spec.rollout.request``: every action in every state, each id once, and always an answer."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_values import canary, failed

from recast_api.resources import CanaryStatus, HandledRequest, RolloutRequest
from recast_operator.planning.rollout.request import RequestContext, decide

RUNNING: dict[str, CanaryStatus | None] = {
    "settled": None,
    "Initial": canary(state="Initial"),
    "Progressing": canary(),
    "Promoting": canary(state="Promoting"),
}


def request(action: str = "Abort", revision: str = "c", id_: str = "new") -> RolloutRequest:
    return RolloutRequest.model_validate({"id": id_, "action": action, "revision": revision})


def context(state: str = "Progressing", candidates: tuple[str, ...] = ("c", "bad")) -> RequestContext:
    return RequestContext(RUNNING[state], [failed("bad"), failed("ancient")], candidates)


@pytest.mark.parametrize(
    ("state", "action", "revision", "ignored"),
    [
        ("settled", "Abort", "c", "no canary is running"),
        ("settled", "Promote", "c", "no canary is running"),
        ("settled", "Retry", "bad", ""),
        ("settled", "Retry", "c", "that revision has not failed; failed ones: bad, ancient"),
        ("settled", "Retry", "ancient", "that revision is no longer wanted"),
        ("Initial", "Abort", "c", ""),
        ("Initial", "Promote", "c", "it is the first revision, with no steps to skip"),
        ("Initial", "Retry", "c", "that revision is on trial now"),
        ("Initial", "Retry", "bad", ""),
        ("Progressing", "Abort", "c", ""),
        ("Progressing", "Abort", "old", "the running canary is c"),
        ("Progressing", "Promote", "c", ""),
        ("Progressing", "Promote", "old", "the running canary is c"),
        ("Progressing", "Retry", "c", "that revision is on trial now"),
        ("Progressing", "Retry", "bad", ""),
        ("Progressing", "Retry", "old", "that revision has not failed"),
        ("Promoting", "Abort", "c", ""),
        ("Promoting", "Abort", "old", "the running canary is c"),
        ("Promoting", "Promote", "c", "it is being promoted already"),
        ("Promoting", "Retry", "c", "that revision is on trial now"),
        ("Promoting", "Retry", "bad", ""),
    ],
)
def test_every_action_in_every_state_is_executed_or_says_why_not(
    state: str, action: str, revision: str, ignored: str
) -> None:
    decision = decide(request(action, revision), ["one"], None, context(state))
    (event,) = decision.events
    assert decision.handled == ("one", "new")
    assert decision.last is not None
    assert (decision.last.id, decision.last.action, decision.last.revision) == ("new", action, revision)
    if ignored:
        assert (decision.action, decision.revision, event.type, event.reason) == (None, "", "Warning", "RequestIgnored")
        assert ignored in event.message
        assert event.message.startswith(f'request "new" ({action} {revision}) is ignored: ')
        assert ignored in decision.last.ignored
    else:
        assert (decision.action, decision.revision, event.reason) == (action, revision, "RequestExecuted")
        assert decision.last.ignored == ""


LAST = HandledRequest(id="new", action="Abort", revision="c")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (LAST, False),
        (None, False),
        (LAST.model_copy(update={"action": "Retry"}), True),
        (LAST.model_copy(update={"revision": "before"}), True),
        (LAST.model_copy(update={"id": "later"}), True),
    ],
)
def test_an_id_acts_once_and_coming_back_with_other_content_is_said_once(last: Any, said: bool) -> None:
    again = decide(request(), ["new"], last, context())
    assert (again.action, again.handled) == (None, ("new",))
    assert [event.reason for event in again.events] == (["RequestIgnored"] if said else [])
    assert not said or "give each request an id of its own" in again.events[0].message
    once_more = decide(request(), again.handled, again.last, context())
    assert (once_more.action, once_more.events, once_more.last) == (None, (), again.last)


def test_without_a_request_nothing_is_forgotten() -> None:
    decision = decide(None, ["one"], LAST, context())
    assert (decision.action, decision.handled, decision.last, decision.events) == (None, ("one",), LAST, ())


def test_no_more_than_thirty_two_requests_are_remembered_the_newest_ones() -> None:
    decision = decide(request(), [f"r{number}" for number in range(32)], None, context())
    assert decision.handled == (*(f"r{number}" for number in range(1, 32)), "new")


def test_where_nothing_has_failed_a_retry_says_so() -> None:
    decision = decide(request("Retry", "bad"), [], None, RequestContext(None, [], ["bad"]))
    assert "that revision has not failed; failed ones: none" in decision.events[0].message
