"""The configuration of one training attempt: what the operator hands to a training pod, complete and self-contained."""

from __future__ import annotations

from collections.abc import Sequence

from recast_api.names import DATA_MOUNT, MODELS_MOUNT
from recast_api.resources import ExpertModel, FoundationModel, FoundationPin, ModelVersion, RunStatus
from recast_api.resources.common import Data
from recast_api.resources.foundation import Architecture
from recast_api.run import ArtifactRef, DataRef, ExpertRun, Optimization, TrainingRun
from recast_operator.planning.child_changes import owner_reference
from recast_operator.planning.freshness.target import FoundationTarget
from recast_operator.planning.plan import SubmitRun
from recast_operator.planning.snapshot import ObservedExpert
from recast_operator.planning.versions.verdict import Judged, by_number


def foundation_run(model: FoundationModel, run: RunStatus, judged: Sequence[Judged]) -> SubmitRun:
    """A foundation's attempt; measured against the version that is current."""
    current = by_number(judged, model.status.current.version) if model.status.current else None
    return SubmitRun(
        run=_training_run(
            model,
            run,
            model.spec.data,
            tail=model.spec.data.tail,
            architecture=model.spec.architecture,
            baseline=artifact(current.version) if current else None,
        ),
        training=model.spec.training,
        models_claim=model.spec.storage.persistent_volume_claim.claim_name,
        data_claim=model.spec.data.persistent_volume_claim.claim_name,
        owner=owner_reference(model),
    )


def expert_run(
    observed: ObservedExpert, run: RunStatus, judged: Sequence[Judged], target: FoundationTarget
) -> SubmitRun | None:
    """An expert's attempt towards the target version of its foundation; measured against the stable pair.

    None where the target is not known in this snapshot.
    """
    if target.foundation is None or target.version is None:
        return None
    model = observed.model
    data = model.spec.data or target.foundation.data
    stable = model.status.stable
    serving = by_number(judged, stable.version) if stable else None
    read = _pinned(observed.foundation_versions, stable.foundation) if stable else None
    return SubmitRun(
        run=_training_run(
            model,
            run,
            data,
            expert=ExpertRun(
                surface=model.spec.surface,
                tasks=model.spec.tasks,
                architecture=model.spec.architecture,
                foundation=artifact(target.version),
            ),
            baseline=artifact(serving.version) if serving and read else None,
            baseline_foundation=artifact(read) if serving and read else None,
        ),
        training=model.spec.training,
        models_claim=target.foundation.models_claim,
        data_claim=data.persistent_volume_claim.claim_name,
        owner=owner_reference(model),
    )


def _training_run(
    model: FoundationModel | ExpertModel,
    run: RunStatus,
    data: Data,
    *,
    baseline: ArtifactRef | None,
    tail: str | None = None,
    architecture: Architecture | None = None,
    expert: ExpertRun | None = None,
    baseline_foundation: ArtifactRef | None = None,
) -> TrainingRun:
    return TrainingRun(
        kind=model.kind,
        namespace=model.metadata.namespace,
        model=model.metadata.name,
        uid=model.metadata.uid,
        number=run.number,
        attempt=run.attempt,
        job_name=run.job_name,
        inputs_hash=run.inputs_hash,
        models_root=MODELS_MOUNT,
        data_root=DATA_MOUNT,
        data=DataRef(path=data.path, until=data.until, window=data.window, tail=tail),
        optimization=Optimization.of(model.spec.training),
        architecture=architecture,
        expert=expert,
        baseline=baseline,
        baseline_foundation=baseline_foundation,
    )


def artifact(version: ModelVersion) -> ArtifactRef:
    """A landed version as a trainer finds it."""
    spec = version.spec
    return ArtifactRef(
        model=spec.model.name, version=spec.number, lineage=spec.lineage, digest=spec.digest, path=spec.path
    )


def _pinned(versions: Sequence[ModelVersion], pin: FoundationPin) -> ModelVersion | None:
    wanted = (pin.name, pin.version, pin.digest)
    return next(
        (entry for entry in versions if (entry.spec.model.name, entry.spec.number, entry.spec.digest) == wanted), None
    )
