"""Which children a model has, what each is made from, and which of them end.

The input is hashed, not the object. An operator that renders a pod differently therefore rewrites nothing that runs;
its new rendering reaches pods with the next version or the next change of the spec. Whether one child is written now is
decided in :mod:`planning.child_writes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from recast_api import names
from recast_api.names import MODELS_MOUNT
from recast_api.resources import (
    CanaryStatus,
    ExpertModel,
    FoundationModel,
    LineageStatus,
    ModelVersion,
    RevisionStatus,
)
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact
from recast_operator.children.answer_log import served_answer_log
from recast_operator.children.disruption_budget import expert_disruption_budget, foundation_disruption_budget
from recast_operator.children.expert_deployment import expert_deployment
from recast_operator.children.expert_service import expert_service
from recast_operator.children.foundation_deployment import foundation_deployment
from recast_operator.children.foundation_service import foundation_service
from recast_operator.children.histories import served_histories
from recast_operator.children.items import served_items
from recast_operator.children.kinds import ChildKind, CompanionKind
from recast_operator.children.labels import ChildMeta, Object
from recast_operator.children.network_policy import foundation_network_policy
from recast_operator.planning.child_writes import ChildChanges, Wanted, child_writes, scale
from recast_operator.planning.hashing import digest, serving_template, visible
from recast_operator.planning.holds import held
from recast_operator.planning.plan import Deletion
from recast_operator.planning.snapshot import (
    ObservedCompanion,
    ObservedDeployment,
    ObservedExpert,
    ObservedFoundation,
)

HASH_VERSION = 1
"""Raised only to force every child to be written anew, which restarts pods: a release note, not a refactoring."""
LEFT = "its revision serves no more"
UNREAD = "nothing reads it any more"
OPEN = "spec.serving.networkPolicy is None"
Model = FoundationModel | ExpertModel
Build = Callable[[ChildMeta], Object]


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
    observed: ObservedExpert,
    revisions: tuple[RevisionStatus, ...],
    replicas: Mapping[str, int],
    now: datetime,
    *,
    failed: Collection[str] = (),
) -> ChildChanges:
    """What all revisions share, the Deployments of stable and canary as their snapshots say, and the end of others.

    ``failed`` names revisions whose pods answer wrongly.
    """
    model, children = observed.model, observed.children
    changes, still = ChildChanges(), bool(held(observed.doubts, "Rollout"))
    if revisions:
        for companion in _expert_companions(model):
            changes += child_writes(children.companion(companion.kind, companion.name), companion, now)
    canary = next((entry for entry in revisions if isinstance(entry, CanaryStatus)), None)
    for revision in revisions:
        existing = children.deployment(names.revision_deployment(model.metadata.name, revision.revision))
        count, reason = replicas.get(revision.revision, 0), _replicas_reason(revision, canary)
        if revision.models_claim:
            wanted = _expert_deployment(model, revision, count, reason)
            changes += child_writes(existing, _as_made(wanted, existing) if still else wanted, now)
        elif existing is not None and existing.owner_uid == model.metadata.uid:
            changes += scale(existing, count, reason, now)
    kept = {entry.revision for entry in revisions}
    for deployment in children.deployments:
        if deployment.owner_uid == model.metadata.uid and deployment.revision not in kept:
            count, wrong = replicas.get(deployment.revision, 0), deployment.revision in failed
            changes += _wind_down(deployment, count, now, wrong=wrong)
    return changes


def foundation_children(
    observed: ObservedFoundation, lineages: Sequence[LineageStatus], versions: Mapping[int, ModelVersion], now: datetime
) -> ChildChanges:
    """Deployment of each lineage and what stands beside it, and the end of those that are no longer in status."""
    model, children, changes = observed.model, observed.children, ChildChanges()
    for entry in lineages:
        version = versions.get(entry.version)
        if version is not None:
            name = names.lineage_server(model.metadata.name, entry.lineage)
            existing, wanted = children.deployment(name), _foundation_deployment(model, version)
            for companion in _foundation_companions(model, entry.lineage):
                changes += child_writes(children.companion(companion.kind, name), companion, now)
            changes += child_writes(
                existing, _as_made(wanted, existing) if held(observed.doubts, "Rollout") else wanted, now
            )
    kept = {names.lineage_server(model.metadata.name, entry.lineage) for entry in lineages}
    present: tuple[ObservedDeployment | ObservedCompanion, ...] = (*children.deployments, *children.companions)
    ours = [child for child in present if child.owner_uid == model.metadata.uid]
    gone = [Deletion(_kind(child), child.name, UNREAD) for child in ours if child.name not in kept]
    if model.spec.serving.network_policy == "None":
        policies = (child for child in ours if child.name in kept and _kind(child) == "NetworkPolicy")
        gone += [Deletion("NetworkPolicy", child.name, OPEN) for child in policies]
    return changes + ChildChanges(deletions=tuple(gone))


def _as_made(wanted: Wanted, existing: ObservedDeployment | None) -> Wanted:
    """Where the template is not understood: whatever the child was made from is what is wanted."""
    return wanted if existing is None else replace(wanted, template_hash=existing.template_hash)


def _companion(kind: CompanionKind, what: str, build: Build, name: str, model: Model, *lineage: int) -> Wanted:
    """One object beside the pods; ``what`` and the names are all that it is made from."""
    meta = model.metadata
    marker = template_hash(what, meta.name, *lineage)
    child = ChildMeta(name, meta.namespace, owner_reference(model), marker)
    return Wanted(kind, name, meta.uid, marker, lambda: build(child))


def _expert_companions(model: ExpertModel) -> tuple[Wanted, ...]:
    """What stands beside the pods of all revisions."""
    name, serves = model.metadata.name, names.expert_service(model.metadata.name)
    return (
        _companion("Service", "expert-service-with-grpc", partial(expert_service, name), serves, model),
        _companion(
            "PodDisruptionBudget",
            "expert-disruption-budget",
            partial(expert_disruption_budget, name),
            serves,
            model,
        ),
    )


def _foundation_companions(model: FoundationModel, lineage: int) -> tuple[Wanted, ...]:
    """What stands beside the pods of a lineage."""
    name, serves = model.metadata.name, names.lineage_server(model.metadata.name, lineage)
    builds: list[tuple[CompanionKind, str, Callable[[str, int, ChildMeta], Object]]] = [
        ("Service", "foundation-service", foundation_service),
        ("PodDisruptionBudget", "foundation-disruption-budget", foundation_disruption_budget),
    ]
    if model.spec.serving.network_policy == "Enforced":
        builds.append(("NetworkPolicy", "foundation-network-policy", foundation_network_policy))
    return tuple(
        _companion(kind, what, partial(build, name, lineage), serves, model, lineage) for kind, what, build in builds
    )


def _expert_deployment(model: ExpertModel, revision: RevisionStatus, replicas: int, reason: str) -> Wanted:
    meta, template = model.metadata, serving_template(revision.serving)
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
    name = names.revision_deployment(meta.name, revision.revision)
    child = ChildMeta(name, meta.namespace, owner_reference(model), marker)

    def build() -> Object:
        config = _expert_config(model, revision)
        return expert_deployment(config, revision.serving, child, claim=revision.models_claim, replicas=replicas)

    return Wanted("Deployment", name, meta.uid, marker, build, replicas, reason)


def _expert_config(model: ExpertModel, revision: RevisionStatus) -> ExpertServerConfig:
    meta, pin, serving = model.metadata, revision.foundation, revision.serving
    address = f"{names.lineage_server(pin.name, pin.lineage)}.{meta.namespace}.svc"
    return ExpertServerConfig(
        namespace=meta.namespace,
        model=meta.name,
        surface=model.spec.surface,
        revision=revision.revision,
        tasks=revision.tasks or model.spec.tasks,
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
        tae_cache_seconds=serving.tae_cache_seconds,
        tae_cache_mebibytes=serving.tae_cache_mebibytes,
        max_connection_age_seconds=serving.max_connection_age_seconds,
        histories=served_histories(serving.histories),
        items=served_items(serving.items),
        answer_log=served_answer_log(serving.answer_log, meta.name),
    )


def _foundation_deployment(model: FoundationModel, version: ModelVersion) -> Wanted:
    meta, spec, serving = model.metadata, version.spec, model.spec.serving
    claim, template = model.spec.storage.persistent_volume_claim.claim_name, serving_template(serving)
    marker = template_hash("foundation", meta.name, spec.number, spec.lineage, spec.digest, spec.path, template, claim)
    name = names.lineage_server(meta.name, spec.lineage)
    child = ChildMeta(name, meta.namespace, owner_reference(model), marker)

    def build() -> Object:
        served = ServedArtifact(
            root=MODELS_MOUNT, path=spec.path, version=spec.number, lineage=spec.lineage, digest=spec.digest
        )
        config = FoundationServerConfig(
            namespace=meta.namespace,
            model=meta.name,
            artifact=served,
            kv_cache_mebibytes=serving.kv_cache_mebibytes,
            items=served_items(serving.items),
        )
        return foundation_deployment(config, serving, child, claim=claim)

    return Wanted("Deployment", name, meta.uid, marker, build, serving.replicas, "spec.serving.replicas")


def _replicas_reason(revision: RevisionStatus, canary: CanaryStatus | None) -> str:
    """Why a revision has the pods that it has, as far as its status says."""
    if canary is None:
        return "it serves 100%"
    share = {
        "Initial": "it is the first revision",
        "Promoting": "the canary is promoted",
        "Progressing": f"the canary moves to {canary.desired_weight}%",
    }[canary.state]
    return share if revision is canary else f"{share} beside it"


def _wind_down(existing: ObservedDeployment, replicas: int, now: datetime, *, wrong: bool) -> ChildChanges:
    """Down to the pods that are still needed; without any the Deployment goes, and its pods drain all the same.

    Pods of a deleted Deployment end when the garbage collector comes to them. Those that answer wrongly must not wait
    for that: they are scaled to zero, which the ReplicaSet's controller does at once, and what is left is deleted then.
    """
    if existing.replicas > replicas and (replicas or wrong):
        return scale(existing, replicas, LEFT, now)
    if replicas or (wrong and existing.ready):
        return ChildChanges()
    return ChildChanges(deletions=(Deletion("Deployment", existing.name, LEFT),))


def _kind(child: ObservedDeployment | ObservedCompanion) -> ChildKind:
    return "Deployment" if isinstance(child, ObservedDeployment) else child.kind
