"""``POST /v1/impressions``: what is taken, what is refused in which words, and that it never scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from server_builders import NOW

from recast_server.expert import impressions_api
from recast_server.expert.edge import Reply
from recast_server.expert.impressions_api import Impressions
from recast_server.expert.schema import CANDIDATES, RefusedError

ITEM = {"item": 7, "position": 0}


def body(**changes: Any) -> bytes:
    return json.dumps({"requestId": "request-1", "items": [ITEM]} | changes).encode()


def test_a_report_is_read_as_it_was_sent() -> None:
    found = impressions_api.parse(body(items=[{"item": 9, "position": 3, "time": "2026-01-01T00:00:00Z"}, ITEM]))
    assert found.request_id == "request-1"
    assert [(shown.item, shown.position, shown.time) for shown in found.items] == [(9, 3, NOW), (7, 0, None)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"requestId": ""}, "requestId"),
        ({"requestId": "a b"}, "requestId"),
        ({"requestId": "a\n"}, "requestId"),
        ({"requestId": "x" * 73}, "requestId"),
        ({"requestId": 7}, "requestId"),
        ({"items": []}, "items"),
        ({"items": [{"item": n, "position": n} for n in range(CANDIDATES + 1)]}, "items"),
        ({"items": [{**ITEM, "position": -1}]}, "items.0.position"),
        ({"items": [{**ITEM, "position": 1.5}]}, "items.0.position"),
        ({"items": [{**ITEM, "item": "7"}]}, "items.0.item"),
        ({"items": [{**ITEM, "time": "yesterday"}]}, "items.0.time"),
        ({"items": [{**ITEM, "note": "x"}]}, "items.0.note"),
        ({"items": [ITEM, {**ITEM, "position": 1}]}, "items"),
        ({"user": 5}, "user"),
    ],
)
def test_a_report_that_is_none_is_refused_with_the_field_and_what_is_allowed(changes: Any, field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        impressions_api.parse(body(**changes))
    assert (caught.value.status, caught.value.reason) == (422, "InvalidRequest")
    assert caught.value.fields[0]["field"] == field
    assert caught.value.fields[0]["allowed"]


def test_what_is_no_json_is_400() -> None:
    with pytest.raises(RefusedError) as caught:
        impressions_api.parse(b"{")
    assert (caught.value.status, caught.value.reason) == (400, "InvalidJson")


class Sent:
    """An exchange with a body."""

    def __init__(self, body: bytes) -> None:
        self._body, self.headers = body, dict[str, str]()

    async def body(self) -> bytes:
        return self._body


async def sent(take: Callable[[Impressions], bool] | None) -> Reply:
    route = impressions_api.route(take)["POST"]
    assert not route.scores
    return await route.handler(Sent(body()))  # type: ignore[arg-type]


async def test_a_report_goes_into_the_log_and_is_refused_to_be_sent_again_where_that_has_no_room() -> None:
    taken: list[Impressions] = []

    def take(report: Impressions) -> bool:
        taken.append(report)
        return True

    reply = await sent(take)
    assert (reply.status, json.loads(reply.body)) == (202, {"requestId": "request-1", "items": 1})
    assert reply.tae is None
    (report,) = taken
    assert (report.request_id, report.items[0].item) == ("request-1", 7)
    with pytest.raises(RefusedError) as caught:
        await sent(lambda report: False)
    assert (caught.value.status, caught.value.reason, caught.value.headers) == (503, "LogFull", {"retry-after": "1"})


async def test_an_expert_without_a_log_says_how_to_have_one() -> None:
    with pytest.raises(RefusedError, match="answerLog") as caught:
        await sent(None)
    assert (caught.value.status, caught.value.reason) == (404, "NoAnswerLog")
