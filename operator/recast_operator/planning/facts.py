"""Everything that one pass has found out and decided about a model: what the plan is made from and what status says.

A value is made once, complete, at the end of a pipeline (:mod:`planning.foundation`, :mod:`planning.expert`). The
questions that both the decisions and the status ask of it are answered here, so that neither guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from recast_api.resources import (
    ExpertModel,
    FailedRevision,
    FoundationModel,
    LineageStatus,
    ModelVersion,
    RetiringRevision,
    RevisionStatus,
    WaveStatus,
)
from recast_api.resources.expert import RefreshStatus
from recast_operator.planning.fleet.lead import Lead
from recast_operator.planning.freshness.policies import Violation
from recast_operator.planning.freshness.target import FoundationTarget
from recast_operator.planning.rollout import machine
from recast_operator.planning.rollout.candidates import Selection
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.snapshot import ObservedExpert, ObservedFoundation
from recast_operator.planning.status import messages
from recast_operator.planning.training.inputs import TrainingInputs
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import Judged


@dataclass(frozen=True)
class FoundationFacts:
    """A pass over a foundation."""

    observed: ObservedFoundation
    now: datetime
    judged: tuple[Judged, ...]
    training_inputs: TrainingInputs
    training: TrainingState
    lead: Lead
    wave: WaveStatus
    lineages: tuple[LineageStatus, ...]
    users: tuple[str, ...]
    """Experts that read or pin this foundation, and those of which nobody can tell."""

    @property
    def model(self) -> FoundationModel:
        """The resource."""
        return self.observed.model

    @property
    def served(self) -> Mapping[int, ModelVersion]:
        """The versions of ours, by number."""
        return {entry.number: entry.version for entry in self.judged if entry.ours}


@dataclass(frozen=True)
class ExpertFacts:
    """A pass over an expert."""

    observed: ObservedExpert
    now: datetime
    judged: tuple[Judged, ...]
    target: FoundationTarget
    training_inputs: TrainingInputs
    training: TrainingState
    rollout_inputs: RolloutInputs
    rollout: RolloutState
    selection: Selection
    """What could be rolled out, by what is remembered after this pass."""
    request: RequestDecision
    """What became of ``rollout.request``."""
    violation: Violation | None
    refresh: RefreshStatus | None

    @property
    def model(self) -> ExpertModel:
        """The resource."""
        return self.observed.model

    @property
    def failed_record(self) -> FailedRevision | None:
        """What is remembered of the revision that would be rolled out, had it not failed."""
        blocked = self.selection.blocked
        if blocked is None:
            return None
        return next((entry for entry in self.rollout.failed if entry.revision == blocked.revision), None)

    def name(self, revision: RevisionStatus | RetiringRevision) -> str:
        """What people call a revision of this expert, beside the one that serves."""
        stable = self.rollout.stable
        other = stable if stable is not None and stable.revision != revision.revision else None
        return messages.beside(revision, other, self.model.spec.foundation_ref.name)

    @property
    def shares(self) -> Mapping[str, int]:
        """Who has how much of the traffic now, in percent by what people call the revision."""
        inputs, state = self.rollout_inputs, self.rollout
        known = (*state.retiring, state.canary, state.stable)
        names = {entry.revision: self.name(entry) for entry in known if entry is not None}
        route = inputs.router.route(machine.target(inputs, state), inputs.endpoints)
        return {names.get(revision, f"revision {revision}"): share for revision, share in route.shares.items()}
