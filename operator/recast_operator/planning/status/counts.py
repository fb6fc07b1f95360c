"""The figures of a status that are only there to be looked at: how many pods there are, and the weight that follows.

No decision rests on them, the operator's or anybody's: each pass counts anew. While a roll-out moves they change with
every pod, so the controller lets a change of nothing else wait for a moment, and writes it with the next transition.
"""

from __future__ import annotations

from recast_api.resources import CanaryStatus, ExpertModelStatus, RevisionStatus

WAIT_SECONDS = 5.0
"""For how long a change of counts alone may wait for company."""


def only_counts_differ(before: ExpertModelStatus, after: ExpertModelStatus) -> bool:
    """Whether two statuses of an expert say the same but for their counts."""
    return before != after and _without(before) == _without(after)


def _without(status: ExpertModelStatus) -> ExpertModelStatus:
    canary = status.canary
    return status.model_copy(
        update={
            "replicas": 0,
            "stable": _uncounted(status.stable) if status.stable else None,
            "canary": _unweighed(canary) if canary else None,
            "summary": status.summary.model_copy(update={"weight": ""}),
        }
    )


def _uncounted(revision: RevisionStatus) -> RevisionStatus:
    return revision.model_copy(update={"replicas": 0, "ready_replicas": 0})


def _unweighed(canary: CanaryStatus) -> CanaryStatus:
    return canary.model_copy(update={"replicas": 0, "ready_replicas": 0, "actual_weight": 0})
