"""``POST /v1/impressions``: what of an answer a client really showed, and where.

The items are joined to the answer by its request id, later, by whoever reads the log. An item that is reported again
changes nothing: readers keep the first report of each (request, item). So a client that does not know whether its
report arrived sends it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from recast_server.expert.compression import inflated
from recast_server.expert.edge import Exchange, Reply, Route, encode_json
from recast_server.expert.schema import CANDIDATES, Id, Milliseconds, RefusedError, Strict, refusal_of, refused

PATH = "/v1/impressions"
_ALLOWED = {
    "requestId": "the requestId of an answer: 1 to 72 letters, digits, dots, colons, hyphens and underscores",
    "items": f"1 to {CANDIDATES} objects {{item, position, time}}, each item once",
}
_OVERHEAD_BYTES, _ITEM_BYTES = 512, 256


class ShownItem(Strict):
    """An item that was shown; ``position`` is its place on the screen from 0, ``time`` defaults to now."""

    item: Id
    position: Annotated[int, Field(ge=0, lt=2**31)]
    time: Milliseconds | None = None


class ImpressionsRequest(Strict):
    """What was shown of one answer."""

    request_id: Annotated[str, Field(alias="requestId", pattern=r"^[A-Za-z0-9._:\-]{1,72}$")]
    items: Annotated[list[ShownItem], Field(min_length=1, max_length=CANDIDATES)]


class ImpressionsAnswer(TypedDict):
    """A report that is in the log."""

    requestId: Annotated[str, Field(description="Of the answer that the report is about")]
    items: int


@dataclass(frozen=True)
class Impressions:
    """One report."""

    request_id: str
    items: tuple[ShownItem, ...]
    received_ms: int

    @property
    def bytes(self) -> int:
        """Memory that it takes, at most."""
        return _OVERHEAD_BYTES + _ITEM_BYTES * len(self.items)


def parse(body: bytes) -> ImpressionsRequest:
    """The report in a body. Raises :class:`RefusedError` that names each wrong field and what is allowed there."""
    try:
        found = ImpressionsRequest.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error, _ALLOWED, "an object with requestId and items") from None
    if len({shown.item for shown in found.items}) < len(found.items):
        raise refused([{"field": "items", "problem": "an item stands there twice", "allowed": _ALLOWED["items"]}])
    return found


def route(take: Callable[[Impressions], bool] | None) -> Mapping[str, Route]:
    """What answers at :data:`PATH`. ``take`` puts a report into the log, and says whether there was room; None where no
    log is kept.
    """

    async def report(exchange: Exchange) -> Reply:
        if take is None:
            raise RefusedError(
                404, "NoAnswerLog", "this expert keeps no log of its answers: set spec.serving.answerLog"
            )
        found = parse(inflated(await exchange.body(), exchange.headers.get("content-encoding")))
        if not take(Impressions(found.request_id, tuple(found.items), time.time_ns() // 1_000_000)):
            raise RefusedError(
                503, "LogFull", "the log has no room for this report: send it again later", headers={"retry-after": "1"}
            )
        answer: ImpressionsAnswer = {"requestId": found.request_id, "items": len(found.items)}
        return Reply(202, encode_json(answer))

    return {"POST": Route(report)}
