"""Which children to write: those that are missing, and those made from other input than the present one.

The input is hashed, not the object. An operator that renders a pod differently therefore rewrites nothing that runs;
its new rendering reaches pods with the next version or the next change of the spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recast_api import names
from recast_api.names import MODELS_MOUNT
from recast_api.resources import ExpertModel, FoundationModel, LineageStatus, ModelVersion, RevisionStatus
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact
from recast_operator.children.expert_deployment import expert_deployment
from recast_operator.children.expert_service import expert_service
from recast_operator.children.foundation_deployment import foundation_deployment
from recast_operator.children.foundation_service import foundation_service
from recast_operator.planning.hashing import digest, serving_template, visible
from recast_operator.planning.plan import Deletion, Object, Scale
from recast_operator.planning.snapshot import Children, ObservedDeployment, ObservedService

HASH_VERSION = 1
"""Raised only to force every child to be written anew, which restarts pods: a release note, not a refactoring."""


@dataclass(frozen=True)
class ChildChanges:
    """What has to happen to the children."""

    apply: tuple[Object, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletions: tuple[Deletion, ...] = ()

    def __add__(self, other: ChildChanges) -> ChildChanges:
        return ChildChanges(self.apply + other.apply, self.scales + other.scales, self.deletions + other.deletions)


def owner_reference(model: FoundationModel | ExpertModel) -> Object:
    """The controller reference that deletes children with their model."""
    return {
        "apiVersion": model.api_version,
        "kind": model.kind,
        "name": model.metadata.name,
        "uid": model.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def template_hash(*inputs: object) -> str:
    """Of user-visible input only."""
    return digest([HASH_VERSION, *inputs], 16)


def expert_children(
    model: ExpertModel, revisions: tuple[RevisionStatus, ...], replicas: Mapping[str, int], children: Children
) -> ChildChanges:
    """The Service, the Deployments of stable and canary as their snapshots say, and the end of all others."""
    changes = _expert_service(model, children) if revisions else ChildChanges()
    for revision in revisions:
        changes += _expert_deployment(model, revision, replicas.get(revision.revision, 0), children)
    kept = {entry.revision for entry in revisions}
    for deployment in children.deployments:
        if deployment.owner_uid == model.metadata.uid and deployment.revision not in kept:
            changes += _wind_down(deployment, replicas.get(deployment.revision, 0))
    return changes


def foundation_children(
    model: FoundationModel, lineages: Sequence[LineageStatus], versions: Mapping[int, ModelVersion], children: Children
) -> ChildChanges:
    """Service and Deployment of each lineage, and the end of those that are no longer in status."""
    changes = ChildChanges()
    for entry in lineages:
        version = versions.get(entry.version)
        if version is not None:
            changes += _foundation_lineage(model, version, children)
    kept = {names.lineage_server(model.metadata.name, entry.lineage) for entry in lineages}
    existing: tuple[ObservedDeployment | ObservedService, ...] = (*children.deployments, *children.services)
    ours = [child for child in existing if child.owner_uid == model.metadata.uid]
    gone = tuple(Deletion(_kind(child), child.name) for child in ours if child.name not in kept)
    return changes + ChildChanges(deletions=gone)


def _expert_service(model: ExpertModel, children: Children) -> ChildChanges:
    meta = model.metadata
    marker = template_hash("expert-service", meta.name)
    if not _must_write(children.service(names.expert_service(meta.name)), meta.uid, marker):
        return ChildChanges()
    return ChildChanges(
        apply=(expert_service(meta.name, meta.namespace, owner=owner_reference(model), template_hash=marker),)
    )


def _expert_deployment(model: ExpertModel, revision: RevisionStatus, replicas: int, children: Children) -> ChildChanges:
    meta, name = model.metadata, names.revision_deployment(model.metadata.name, revision.revision)
    existing = children.deployment(name)
    template = serving_template(revision.serving)
    tasks = revision.tasks or model.spec.tasks
    marker = template_hash(
        "expert",
        meta.name,
        model.spec.surface,
        revision.revision,
        revision.version,
        revision.digest,
        revision.path,
        visible(revision.foundation),
        template,
        [visible(task) for task in tasks],
        revision.models_claim,
    )
    if not revision.models_claim or not _must_write(existing, meta.uid, marker):
        return _scale(existing, replicas, meta.uid)
    pin, serving = revision.foundation, revision.serving
    address = f"{names.lineage_server(pin.name, pin.lineage)}.{meta.namespace}.svc"
    config = ExpertServerConfig(
        namespace=meta.namespace,
        model=meta.name,
        surface=model.spec.surface,
        revision=revision.revision,
        tasks=tasks,
        artifact=ServedArtifact(
            root=MODELS_MOUNT,
            path=revision.path,
            version=revision.version,
            lineage=revision.version,
            digest=revision.digest,
        ),
        foundation=pin,
        foundation_address=f"{address}:{names.FOUNDATION_GRPC_PORT}",
        slo_milliseconds=serving.slo_milliseconds,
        foundation_deadline_milliseconds=serving.foundation_deadline_milliseconds,
        max_connection_age_seconds=serving.max_connection_age_seconds,
    )
    owner = owner_reference(model)
    built = expert_deployment(
        config, serving, claim=revision.models_claim, replicas=replicas, owner=owner, template_hash=marker
    )
    return ChildChanges(apply=(built,))


def _foundation_lineage(model: FoundationModel, version: ModelVersion, children: Children) -> ChildChanges:
    meta, spec, lineage = model.metadata, version.spec, version.spec.lineage
    serving, name, owner = (
        model.spec.serving,
        names.lineage_server(model.metadata.name, version.spec.lineage),
        owner_reference(model),
    )
    claim = model.spec.storage.persistent_volume_claim.claim_name
    template = serving_template(serving)
    changes = ChildChanges()
    marker = template_hash("foundation-service", meta.name, lineage)
    if _must_write(children.service(name), meta.uid, marker):
        changes += ChildChanges(
            apply=(foundation_service(meta.name, meta.namespace, lineage, owner=owner, template_hash=marker),)
        )
    marker = template_hash("foundation", meta.name, spec.number, lineage, spec.digest, spec.path, template, claim)
    existing = children.deployment(name)
    if not _must_write(existing, meta.uid, marker):
        return changes + _scale(existing, serving.replicas, meta.uid)
    served = ServedArtifact(root=MODELS_MOUNT, path=spec.path, version=spec.number, lineage=lineage, digest=spec.digest)
    config = FoundationServerConfig(namespace=meta.namespace, model=meta.name, artifact=served)
    built = foundation_deployment(
        config, serving, claim=claim, replicas=serving.replicas, owner=owner, template_hash=marker
    )
    return changes + ChildChanges(apply=(built,))


def _must_write(existing: ObservedDeployment | ObservedService | None, uid: str, marker: str) -> bool:
    """Missing, or ours and made from other input. Another owner's object of our name is left for that owner."""
    return existing is None or (existing.owner_uid == uid and existing.template_hash != marker)


def _scale(existing: ObservedDeployment | None, replicas: int, uid: str) -> ChildChanges:
    if existing is None or existing.owner_uid != uid or existing.replicas == replicas:
        return ChildChanges()
    return ChildChanges(scales=(Scale(existing.name, replicas),))


def _wind_down(existing: ObservedDeployment, replicas: int) -> ChildChanges:
    """First to zero, so that its pods drain; the empty Deployment is deleted in a later pass."""
    if existing.replicas > replicas:
        return ChildChanges(scales=(Scale(existing.name, replicas),))
    done = existing.replicas == 0 and existing.ready == 0
    return ChildChanges(deletions=(Deletion("Deployment", existing.name),)) if done else ChildChanges()


def _kind(child: ObservedDeployment | ObservedService) -> Literal["Deployment", "Service"]:
    return "Deployment" if isinstance(child, ObservedDeployment) else "Service"
