"""What has become of inputs that were trained before: they are not trained twice.

====================================================  ================================================================
newest of our versions that was made from the inputs  a run from the same inputs is
====================================================  ================================================================
accepted, and not older than the version that serves  not due: that version serves, or is on its way
accepted, and older than the version that serves      due: numbers only grow, so going back is landing it again
rejected                                              not due: it would be rejected again
none, and a run from them failed                      not due: it would fail again
none                                                  due
====================================================  ================================================================

So a spec that is reverted while its successor is on trial or rejected trains nothing: :func:`asked_for` passes over the
versions of specs that are no longer asked for, and the version that the spec had before goes on serving.
Versions without a run (landed by Git or CI) were asked for by whoever landed them, and are never passed over.
"""

from __future__ import annotations

from recast_api.resources import InputFailure
from recast_operator.planning.training.inputs import TrainingInputs, weights_part
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import Judged, newest_landed


def is_due(inputs: TrainingInputs, state: TrainingState) -> bool:
    """Whether the spec asks for a version that was neither landed nor tried in vain."""
    if inputs.wanted is None or inputs.suspended or state.run is not None:
        return False
    if failure(inputs, state) is not None or inputs.unreadable_versions:
        return False  # what cannot be read may be the very version that is asked for
    if newest_landed(inputs.judged) is None:
        # A version that landed and is not there: deleted, or in words this operator cannot read. Not a second time.
        return weights_part(inputs.wanted) != weights_part(state.trained)
    made = answer(inputs)
    return made is None or (made.accepted and made.number < inputs.serving)


def failure(inputs: TrainingInputs, state: TrainingState) -> InputFailure | None:
    """The failed run of these very inputs: more memory or more time is a new chance."""
    return next((entry for entry in state.failures if entry.inputs_hash == inputs.wanted), None)


def answer(inputs: TrainingInputs) -> Judged | None:
    """The newest version that was made from the inputs that the spec asks for."""
    return next((entry for entry in reversed(inputs.judged) if entry.ours and made_from(entry, inputs.wanted)), None)


def rejection(inputs: TrainingInputs) -> Judged | None:
    """The rejected version that stands between the spec and what it asks for, if one does."""
    made, newest = answer(inputs), newest_landed(inputs.judged)
    if made is not None and not made.accepted:
        return made
    given = newest is not None and (inputs.wanted is None or newest.version.spec.run is None)
    return newest if newest is not None and given and not newest.accepted else None


def asked_for(inputs: TrainingInputs) -> tuple[Judged, ...]:
    """The accepted versions that serve or may come to serve, oldest first.

    Where one of them is what the spec asks for, the others of our own runs are passed over, save the one that serves.
    While it cannot be known what the spec asks for, nothing of our own runs begins to serve beside one that does: the
    newer one may be what the spec has taken back.
    """
    able = tuple(entry for entry in inputs.judged if entry.accepted and entry.number >= inputs.serving)
    if inputs.wanted is None and inputs.serving:
        begun = (inputs.serving, inputs.on_trial)
        return tuple(entry for entry in able if entry.version.spec.run is None or entry.number in begun)
    if not any(made_from(entry, inputs.wanted) for entry in able):
        return able
    return tuple(
        entry
        for entry in able
        if entry.version.spec.run is None or entry.number == inputs.serving or made_from(entry, inputs.wanted)
    )


def made_from(entry: Judged, inputs: str | None) -> bool:
    """Whether a run of ours made this version from inputs with the same weights."""
    run = entry.version.spec.run
    return inputs is not None and run is not None and weights_part(run.inputs_hash) == weights_part(inputs)
