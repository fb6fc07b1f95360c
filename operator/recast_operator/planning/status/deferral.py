"""Which change of a status may be written a moment later, together with the next one.

That is what is there only to be looked at: how many pods there are, the words of a condition, that a submitted run has
been seen, results that fail nothing. No decision rests on it, since each pass works it out anew. While a roll-out moves
it changes with every pod; what decides is written at once, and takes it along. That a revision's last pod is gone may
wait too: its foundation's servers then stay a moment longer than they are read.
"""

from __future__ import annotations

from recast_api.resources import (
    CanaryStatus,
    Condition,
    ExpertModelStatus,
    ModelVersionStatus,
    RevisionStatus,
    RunStatus,
)

DEFER_SECONDS = 5.0
"""For how long such a change may wait for company."""


def may_wait(before: ExpertModelStatus, after: ExpertModelStatus) -> bool:
    """Whether two statuses of an expert differ, and only in what may wait."""
    if before == after or any(entry not in before.retiring for entry in after.retiring):
        return False
    return _deciding(before) == _deciding(after)


def only_counted(before: ModelVersionStatus, after: ModelVersionStatus) -> bool:
    """Whether two statuses of a foundation version differ, and only in how many experts read it.

    In a wave that changes with every expert, for the old version and the new one.
    """
    return before != after and _uncounted_readers(before) == _uncounted_readers(after)


def _uncounted_readers(status: ModelVersionStatus) -> ModelVersionStatus:
    return status.model_copy(update={"summary": status.summary.model_copy(update={"used_by": None})})


def _deciding(status: ExpertModelStatus) -> ExpertModelStatus:
    canary = status.canary
    return status.model_copy(
        update={
            "replicas": 0,
            "retiring": [],
            "run": _seen(status.run) if status.run else None,
            "stable": _uncounted(status.stable) if status.stable else None,
            "canary": _unjudged(canary) if canary else None,
            "conditions": [_wordless(entry) for entry in status.conditions],
            "summary": status.summary.model_copy(update={"weight": ""}),
        }
    )


def _seen(run: RunStatus) -> RunStatus:
    """Until its Job was seen a run is submitted again, which finds the same Job: nothing is lost by a moment."""
    return run.model_copy(update={"state": "Running"}) if run.state == "Reserved" else run


def _uncounted(revision: RevisionStatus) -> RevisionStatus:
    return revision.model_copy(update={"replicas": 0, "ready_replicas": 0})


def _unjudged(canary: CanaryStatus) -> CanaryStatus:
    """Results that fail the canary end it in the same pass, so those in a status never do."""
    update = {"replicas": 0, "ready_replicas": 0, "actual_weight": 0, "measured_weight": "", "results": []}
    return canary.model_copy(update=update)


def _wordless(condition: Condition) -> Condition:
    return condition.model_copy(update={"message": ""})
