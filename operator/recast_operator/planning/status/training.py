"""What training says in a status: the same for foundations and experts."""

from __future__ import annotations

from recast_operator.planning.status import messages
from recast_operator.planning.status.conditions import ConditionUpdate, State
from recast_operator.planning.training import known
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import newest_landed


def trained(inputs: TrainingInputs, training: TrainingState) -> ConditionUpdate:
    """The condition ``Trained``: whether there is a version of what the spec asks for."""
    if training.run is not None:
        return ConditionUpdate("Trained", "Unknown", training.note_reason, training.note)
    if (failed := known.failure(inputs, training)) is not None:
        return ConditionUpdate("Trained", "False", failed.reason, failed.message)
    shown = known.answer(inputs) or newest_landed(inputs.judged)
    if shown is None:
        return ConditionUpdate("Trained", "Unknown", "NoVersionYet", training.note or "no version has landed yet")
    status: State = "True" if shown.accepted else "False"
    return ConditionUpdate("Trained", status, shown.reason, f"v{shown.number}: {shown.message}")


def stalled(inputs: TrainingInputs, training: TrainingState) -> ConditionUpdate | None:
    """What of training keeps the spec from being served until a person acts."""
    if inputs.unreadable_versions:
        return ConditionUpdate(
            "Stalled", "True", "VersionUnreadable", messages.versions_unreadable(inputs.unreadable_versions)
        )
    if (failed := known.failure(inputs, training)) is not None:
        return ConditionUpdate("Stalled", "True", failed.reason, messages.run_failed(failed))
    rejected = known.rejection(inputs)
    if rejected is None:
        return None
    text = messages.version_rejected(rejected.number, rejected.message, rejected.version.spec.run is not None)
    return ConditionUpdate("Stalled", "True", rejected.reason, text)
