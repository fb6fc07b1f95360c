"""The condition ``Trained``: run by run the same for foundations and experts."""

from __future__ import annotations

from recast_operator.planning.status.conditions import ConditionUpdate
from recast_operator.planning.training.lifecycle import TrainingState
from recast_operator.planning.versions.verdict import Judged


def trained(training: TrainingState, failed_reason: str, failed_message: str, newest: Judged | None) -> ConditionUpdate:
    """Whether the spec has been trained: run by run the same for foundations and experts."""
    if training.run is not None:
        return ConditionUpdate("Trained", "Unknown", training.note_reason, training.note)
    if failed_reason:
        return ConditionUpdate("Trained", "False", failed_reason, failed_message)
    if newest is None:
        return ConditionUpdate("Trained", "Unknown", "NoVersionYet", training.note or "no version has landed yet")
    if not newest.accepted:
        return ConditionUpdate("Trained", "False", newest.reason, f"v{newest.number}: {newest.message}")
    return ConditionUpdate("Trained", "True", newest.reason, f"v{newest.number}: {newest.message}")
