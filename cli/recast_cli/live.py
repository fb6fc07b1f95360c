"""The figures of a canary as they are now: the queries that stand in its status, asked again up to this moment. Pure.

Status holds verdicts as they change and figures that are up to a minute old; Prometheus has the rest. How it is reached
is :mod:`recast_cli.prometheus`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from recast_api.resources import CanaryStatus, ExpertModel, MetricName, MetricResult
from recast_cli import words

Ask = Callable[[str], float | None]
"""Answers an instant query with its one number, or None where there is no series. Raises :class:`NoAnswerError`."""
_WINDOW = re.compile(r"\[\d+s\]")
_BETWEEN = " / "
"""Stands between the query for bad requests and that for all of them."""


class NoAnswerError(Exception):
    """Prometheus gives no usable answer; the message says why, and what to do."""


@dataclass(frozen=True)
class Figure:
    """One metric, counted since the step's weight took effect."""

    share: float
    requests: float
    stable: float | None = None
    """Stable's share at the same time, where the metric is compared with it."""


@dataclass(frozen=True)
class Live:
    """All figures of a canary, as far as they are known."""

    figures: Mapping[MetricName, Figure] = field(default_factory=dict)
    error: str = ""
    """Why there are no figures, or no more."""


def read(expert: ExpertModel, ask: Ask, now: datetime) -> Live:
    """Ask for each of the canary's metrics. Ends at the first question without an answer: the next would fare alike."""
    canary = expert.status.canary
    figures: dict[MetricName, Figure] = {}
    try:
        for result in canary.results if canary else []:
            assert canary is not None
            figure = _figure(expert, canary, result, ask, now)
            if figure is not None:
                figures[result.metric] = figure
    except NoAnswerError as error:
        return Live(figures, str(error))
    return Live(figures)


def _figure(expert: ExpertModel, canary: CanaryStatus, result: MetricResult, ask: Ask, now: datetime) -> Figure | None:
    if _BETWEEN not in result.query or canary.weight_since is None:
        return None
    seconds = max(1, int((now - words.instant(canary.weight_since)).total_seconds()))
    query = _WINDOW.sub(f"[{seconds}s]", result.query)
    counted = _counted(query, ask)
    if counted is None:
        return None
    bad, total = counted
    stable, beside = expert.status.stable, None
    if stable is not None and result.bound.startswith("stable"):
        theirs = _counted(query.replace(f'revision="{canary.revision}"', f'revision="{stable.revision}"'), ask)
        beside = theirs[0] / theirs[1] if theirs else None
    return Figure(1 - bad / total if result.bound.startswith("min") else bad / total, total, beside)


def _counted(query: str, ask: Ask) -> tuple[float, float] | None:
    """Bad and all requests; None where there are none."""
    bad, total = (ask(part) for part in query.split(_BETWEEN, 1))
    return (bad, total) if bad is not None and total else None
