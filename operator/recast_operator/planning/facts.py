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
    RevisionStatus,
    WaveStatus,
)
from recast_api.resources.expert import RefreshStatus
from recast_operator.planning.fleet.lead import Lead
from recast_operator.planning.freshness.policies import Violation
from recast_operator.planning.freshness.target import FoundationTarget
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.snapshot import ObservedExpert, ObservedFoundation
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
    handled: tuple[str, ...]
    """Ids of ``rollout.request`` that were acted on."""
    blocked: RevisionStatus | None
    """The revision that would be rolled out, had it not failed before."""
    violation: Violation | None
    refresh: RefreshStatus | None

    @property
    def model(self) -> ExpertModel:
        """The resource."""
        return self.observed.model

    @property
    def failed_record(self) -> FailedRevision | None:
        """What is remembered of the revision that would be rolled out, had it not failed."""
        if self.blocked is None:
            return None
        return next((entry for entry in self.rollout.failed if entry.revision == self.blocked.revision), None)
