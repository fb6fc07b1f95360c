"""What a training run is made from: the inputs that decide about it, and their identity by content.

A run's inputs hash has parts, joined by dots: what decides the weights first, *how* it runs last. Another *what* means
that a run is due; a failure is remembered by all parts, so that giving a run more memory is a new chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recast_api.names import Kind
from recast_api.resources import ExpertModelSpec, FoundationModelSpec, RunStatus, Training
from recast_operator.planning.hashing import digest, visible
from recast_operator.planning.snapshot import ObservedRun
from recast_operator.planning.versions.verdict import Judged

_HOW = ("nodes", "procsPerNode", "resources", "maxAttempts", "activeDeadlineSeconds")
_IGNORED = ("ttlSecondsAfterFinished",)


@dataclass(frozen=True)
class TrainingInputs:
    """What the decisions about a run look at."""

    kind: Kind
    model: str
    uid: str
    training: Training
    wanted: str | None
    """Inputs hash of the spec as it is now; None while it cannot be known (no foundation)."""
    runs: tuple[ObservedRun, ...]
    judged: tuple[Judged, ...]
    """Oldest first."""
    now: datetime
    suspended: bool = False
    """``spec.suspend``: no attempt is started; one that runs goes on."""
    serving: int = 0
    """Number of the version that serves: the current or stable one; 0 where none does."""
    on_trial: int = 0
    """Number of the canary's version, or of the candidate; 0 where nothing is on trial."""
    unreadable_versions: tuple[str, ...] = ()
    """Names of ModelVersions of this model that are there and cannot be read."""
    absent_versions: frozenset[str] = frozenset()
    """Names of ModelVersions that a GET in this pass has not found."""

    def known_absent(self, name: str, number: int) -> bool:
        """Whether our version of that number is certain not to be there: read in vain, or the number is another's."""
        return name in self.absent_versions or any(entry.number == number for entry in self.judged)

    def observed_run(self, run: RunStatus) -> ObservedRun | None:
        """What is seen of the run's present attempt, if it is ours."""
        return next((seen for seen in self.runs if seen.name == run.job_name and seen.owner_uid == self.uid), None)


def foundation_inputs(spec: FoundationModelSpec) -> str:
    """``<what>.<how>`` of a foundation's training."""
    what, how = _split(spec.training)
    said = {"training": what, "architecture": visible(spec.architecture), "data": visible(spec.data)}
    return f"{digest(said, 24)}.{digest(how, 8)}"


def expert_inputs(spec: ExpertModelSpec, foundation_digest: str) -> str:
    """``<what>.<foundation>.<how>`` of an expert's training."""
    what, how = _split(spec.training)
    said = {
        "training": what,
        "surface": spec.surface,
        "tasks": [visible(task) for task in spec.tasks],
        "architecture": visible(spec.architecture),
        "data": visible(spec.data) if spec.data else None,
    }
    return f"{digest(said, 24)}.{digest(foundation_digest, 16)}.{digest(how, 8)}"


def weights_part(inputs: str) -> str:
    """The part of an inputs hash that decides the weights: all but *how*."""
    return inputs.rpartition(".")[0]


def spec_part(inputs: str) -> str:
    """The part of an inputs hash that the model's own spec decides."""
    return inputs.partition(".")[0]


def _split(training: Training) -> tuple[dict[str, Any], dict[str, Any]]:
    said = visible(training)
    what = {key: value for key, value in said.items() if key not in _HOW and key not in _IGNORED}
    return what, {key: said[key] for key in _HOW if key in said}
