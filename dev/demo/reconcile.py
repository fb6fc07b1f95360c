"""The client's counts against the servers' own counters: every request is counted on both sides.

The servers' side is the last value of each pod's counters, pods that are gone included, summed per revision. Prometheus
takes the revision from the pod's label, the client from the response header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dev.demo.traffic import Counts
from recast_api.server import REQUESTS_TOTAL

Totals = Mapping[tuple[str, str], tuple[int, int]]
"""(good, bad) answers by (expert, revision)."""


@dataclass(frozen=True)
class Difference:
    """A revision for which the two counts differ."""

    expert: str
    revision: str
    client: tuple[int, int]
    servers: tuple[int, int]

    def __str__(self) -> str:
        revision = self.revision or "without a revision header"
        return f"{self.expert} {revision}: client {_pair(self.client)}, servers {_pair(self.servers)}"


def query(namespace: str, seconds: int) -> str:
    """PromQL for requests by model, revision and code, of all pods that lived in the last ``seconds``."""
    return f'sum by (model, revision, code) (max_over_time({REQUESTS_TOTAL}{{namespace="{namespace}"}}[{seconds}s]))'


def server_totals(answer: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """The totals in Prometheus's JSON answer to :func:`query`; revisions that never answered are left out."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for series in answer["data"]["result"]:
        labels, count = series["metric"], round(float(series["value"][1]))
        key = (labels.get("model", ""), labels.get("revision", ""))
        good, bad = totals.get(key, (0, 0))
        totals[key] = (good + count, bad) if labels.get("code") == "200" else (good, bad + count)
    return {key: pair for key, pair in totals.items() if pair != (0, 0)}


def compare(client: Counts, servers: Totals) -> list[Difference]:
    """Where the two disagree; empty when every request is accounted for on both sides."""
    seen = {key: pair for key, pair in client.by_revision().items() if pair != (0, 0)}
    return [
        Difference(*key, client=seen.get(key, (0, 0)), servers=servers.get(key, (0, 0)))
        for key in sorted({*seen, *servers})
        if seen.get(key, (0, 0)) != servers.get(key, (0, 0))
    ]


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]} good + {pair[1]} bad"
