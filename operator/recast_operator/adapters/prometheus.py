"""Instant queries to Prometheus. Whatever goes wrong is an answer without a number and with a reason, never an error:
no data is a verdict of its own, and planning decides what follows from it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import aiohttp

from recast_operator.adapters.promql import promql
from recast_operator.planning.rollout.questions import Answer, Question

QUERY_SECONDS = 5.0
ANSWER_BYTES = 65536
"""One number takes a few hundred bytes; whoever sends more is not answering the question."""
WORDS = 200


class Prometheus:
    """One Prometheus server. Made and used inside one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def answers(self, questions: Iterable[Question], now: datetime) -> Mapping[Question, Answer]:
        """The answers at ``now``; each question is asked once, all of them side by side."""
        asked = tuple(dict.fromkeys(questions))
        return dict(zip(asked, await asyncio.gather(*(self._answer(entry, now) for entry in asked)), strict=True))

    async def _answer(self, question: Question, now: datetime) -> Answer:
        query = promql(question)
        return replace(await self._ask(query, now), query=query)

    async def _ask(self, query: str, now: datetime) -> Answer:
        if not self._url:
            return Answer(
                None, "the operator has none: set operator.prometheusUrl in the values of its chart (--prometheus-url)"
            )
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=QUERY_SECONDS))
        # Windows are whole seconds from a whole second on: asked at any other time they would begin later at one pass
        # than at the next, and count fewer requests than before.
        time = int(now.timestamp())
        parameters = {"query": query, "time": str(time), "timeout": f"{QUERY_SECONDS:.0f}s"}
        try:
            async with self._session.get(f"{self._url}/api/v1/query", params=parameters) as response:
                text = b""
                async for chunk in response.content.iter_chunked(ANSWER_BYTES):
                    text += chunk
                    if len(text) > ANSWER_BYTES:
                        return Answer(None, f"more than {ANSWER_BYTES} bytes where one number was asked for")
                body = json.loads(text)
                if response.status != 200 or body.get("status") != "success":
                    return Answer(None, f"HTTP {response.status}: {str(body.get('error', ''))[:WORDS]}")
                return parse(body)
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError, AttributeError) as error:
            return Answer(None, f"{self._url}: {str(error)[:WORDS] or type(error).__name__}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def parse(body: object) -> Answer:
    """The count in a successful answer of the query API. No series at all is no number, and no error either."""
    try:
        data = body["data"]  # type: ignore[index]
        kind, result = data["resultType"], data["result"]
        if kind != "vector":
            return Answer(None, f"a {kind} where one number was asked for")
        if not result:
            return Answer(None)
        if len(result) > 1:
            return Answer(None, f"{len(result)} series where one was asked for")
        value = float(result[0]["value"][1])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return Answer(None, f"an answer that is not Prometheus's: {error!r}"[:WORDS])
    if not math.isfinite(value) or value < 0:
        return Answer(None, f"{value:g} where a count was asked for")
    return Answer(value)
