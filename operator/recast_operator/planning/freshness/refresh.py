"""Whether an expert is to be retrained: its version is stale, and a refresh can begin or is under way.

Only then does it ask its foundation for a slot, so that an expert that cannot refresh never holds one.
"""

from __future__ import annotations

from dataclasses import dataclass

from recast_api.pair import is_pair
from recast_api.resources import FoundationPin, RevisionStatus
from recast_api.resources.expert import RefreshStatus
from recast_operator.planning.clock import not_ahead, stamp
from recast_operator.planning.freshness.policies import Freshness, Violation, evaluate
from recast_operator.planning.freshness.target import FoundationTarget
from recast_operator.planning.holds import held
from recast_operator.planning.snapshot import ObservedExpert
from recast_operator.planning.training import known
from recast_operator.planning.training.inputs import TrainingInputs, expert_inputs, spec_part
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions import verdict
from recast_operator.planning.versions.verdict import Judged


@dataclass(frozen=True)
class RefreshInputs:
    """What the decision looks at."""

    observed: ObservedExpert
    target: FoundationTarget
    training_inputs: TrainingInputs
    training: TrainingState
    stable: RevisionStatus | None
    canary: RevisionStatus | None
    blocked: bool
    """Whether the revision that would be rolled out has failed before."""


@dataclass(frozen=True)
class RefreshDecision:
    """Stale or not, and whether the expert asks for a slot."""

    violation: Violation | None
    refresh: RefreshStatus | None


def decide(inputs: RefreshInputs) -> RefreshDecision:
    """Ask the policies, then whether anything can be done."""
    violation, before = evaluate(_freshness(inputs)), inputs.observed.model.status.refresh
    if inputs.observed.model.spec.foundation_ref.name in inputs.observed.unreadable_foundations:
        return RefreshDecision(violation, before)  # its place in the queue is not lost over what cannot be read
    if violation is None or inputs.target.version is None or not _possible(inputs):
        return RefreshDecision(violation, None)
    now = inputs.training_inputs.now
    return RefreshDecision(
        violation,
        RefreshStatus(
            reason=violation.reason,
            message=violation.message,
            since=not_ahead(before.since, now) if before else stamp(now),
            foundation_version=inputs.target.version.spec.number,
        ),
    )


def _freshness(inputs: RefreshInputs) -> Freshness:
    model, basis = inputs.observed.model, _basis(inputs)
    made = verdict.by_number(inputs.training_inputs.judged, basis.number) if basis else None
    run = made.version.spec.run if made else None
    incomparable = {"SpecChange"} if held(inputs.observed.doubts, "Training") else set()
    return Freshness(
        model=model.metadata.name,
        version=basis.number if basis else None,
        foundation=basis.foundation if basis else None,
        target=inputs.target.pin,
        trained_spec=spec_part(run.inputs_hash) if run else "",
        wanted_spec=spec_part(inputs.training_inputs.wanted or expert_inputs(model.spec, "")),
        policies=frozenset(model.spec.refresh.triggers) - incomparable,
    )


@dataclass(frozen=True)
class _Basis:
    """The version that freshness is asked of."""

    number: int
    foundation: FoundationPin | None


def _basis(inputs: RefreshInputs) -> _Basis | None:
    """The canary's, else the stable one, else the newest accepted that can serve the tasks of the spec."""
    revision = inputs.canary or inputs.stable
    if revision is not None:
        return _Basis(revision.version, revision.foundation)
    tasks = {task.name for task in inputs.observed.model.spec.tasks}
    able = [
        entry for entry in verdict.accepted(inputs.training_inputs.judged) if tasks <= entry.version.spec.served_tasks
    ]
    return _Basis(able[-1].number, able[-1].version.spec.foundation) if able else None


def _possible(inputs: RefreshInputs) -> bool:
    run = inputs.training.run
    return run is not None or known.is_due(inputs.training_inputs, inputs.training) or _awaiting(inputs)


def _awaiting(inputs: RefreshInputs) -> bool:
    """Whether an accepted version newer than the stable one waits for its foundation's servers."""
    newest = _newest_wanted(inputs)
    if newest is None or inputs.blocked or newest.number <= inputs.training_inputs.serving:
        return False
    pin, target = newest.version.spec.foundation, inputs.target.pin
    return pin is not None and target is not None and is_pair(target, pin)


def _newest_wanted(inputs: RefreshInputs) -> Judged | None:
    return next(reversed(known.asked_for(inputs.training_inputs)), None)
