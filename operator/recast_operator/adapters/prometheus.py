"""Instant queries to Prometheus. Whatever goes wrong is an answer without a value and with a reason, never an error:
no data is a verdict of its own, and planning decides what follows from it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from datetime import datetime

import aiohttp

from recast_operator.planning.snapshot import Sample

QUERY_SECONDS = 5.0


class Prometheus:
    """One Prometheus server. Made and used inside one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def samples(self, queries: Iterable[str], now: datetime) -> Mapping[str, Sample]:
        """The answers at ``now``, by query; asked side by side."""
        asked = tuple(dict.fromkeys(queries))
        return dict(zip(asked, await asyncio.gather(*(self.sample(query, now) for query in asked)), strict=True))

    async def sample(self, query: str, now: datetime) -> Sample:
        """The value of one query: of its only series, or none."""
        if not self._url:
            return Sample(None, "the operator runs without --prometheus-url")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=QUERY_SECONDS))
        parameters = {"query": query, "time": f"{now.timestamp():.3f}", "timeout": f"{QUERY_SECONDS:.0f}s"}
        try:
            async with self._session.get(f"{self._url}/api/v1/query", params=parameters) as response:
                answer = await response.json(content_type=None)
                if response.status != 200 or answer.get("status") != "success":
                    return Sample(None, f"HTTP {response.status}: {str(answer.get('error', ''))[:200]}")
                return parse(answer)
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError, AttributeError) as error:
            return Sample(None, f"{self._url}: {str(error)[:200] or type(error).__name__}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def parse(answer: object) -> Sample:
    """The sample in a successful answer of the query API."""
    try:
        data = answer["data"]  # type: ignore[index]
        result = data["result"]
        if data["resultType"] == "scalar":
            value = float(result[1])
        elif data["resultType"] != "vector":
            return Sample(None, f"a {data['resultType']} where one number was asked for")
        elif not result:
            return Sample(None)
        elif len(result) > 1:
            return Sample(None, f"{len(result)} series where one was asked for")
        else:
            value = float(result[0]["value"][1])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return Sample(None, f"an answer that is not Prometheus's: {error!r}")
    return Sample(value) if math.isfinite(value) else Sample(None)
