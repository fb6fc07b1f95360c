"""Questions of planning as PromQL. Nothing else in the operator knows the language.

Series are selected by the labels that Prometheus takes from the pods, never by anything a pod reports.

A count is what the scrapes have *seen*: the last value less the first, series by series. ``increase()`` is not that: it
extrapolates to the edges of the window, by a factor of two where the window holds two scrapes, and a verdict that rests
on so many requests would rest on requests that nobody saw. It is asked only for a series that began anew in the window,
after a container's restart, since it alone knows of that.
"""

from __future__ import annotations

from recast_api import server
from recast_operator.children.labels import EXPERT_SERVER
from recast_operator.planning.rollout.questions import Count, Question

_SERIES: dict[Count, tuple[str, str]] = {
    Count.REQUESTS: (server.REQUESTS_TOTAL, ""),
    Count.ERRORS: (server.REQUESTS_TOTAL, 'code=~"5.."'),
    Count.SLOW: (server.SLOW_TOTAL, ""),
    Count.TAE_ANSWERS: (server.TAE_TOTAL, ""),
    Count.TAE_NOT_FRESH: (server.TAE_TOTAL, f'state!="{server.TAE_FRESH}"'),
}


def promql(question: Question) -> str:
    """The instant query that answers the question, as one number."""
    name, condition = _SERIES[question.count]
    labels = {
        "namespace": question.namespace,
        "kind": EXPERT_SERVER,
        "model": question.model,
        "revision": question.revision,
    }
    selector = ",".join([*(f'{key}="{value}"' for key, value in labels.items()), *([condition] if condition else [])])
    series = f"{name}{{{selector}}}[{question.window_seconds}s]"
    seen = f"max_over_time({series}) - min_over_time({series})"
    return f"sum({seen} and resets({series}) == 0 or increase({series}))"
