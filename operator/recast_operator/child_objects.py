"""From the JSON of a model's children to the values that planning reads.

Nothing here decides: which pods belong to which Deployment. What a training run's launcher says is translated by its
adapter, such as :mod:`recast_operator.adapters.job_runs`. What is read here must be kept
by :mod:`recast_operator.compact`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from recast_api import names
from recast_operator.adapters.job_runs import observed_run
from recast_operator.adapters.objects import Object, controller_uid, label_number, labels
from recast_operator.adapters.pods import observed_pod
from recast_operator.children.kinds import CompanionKind
from recast_operator.children.record import child_record
from recast_operator.planning.snapshot import Children, ObservedCompanion, ObservedDeployment


def observed_children(
    jobs: Sequence[Object], deployments: Sequence[Object], companions: Sequence[Object], pods: Sequence[Object]
) -> Children:
    """All children of one model."""
    return Children(
        runs=tuple(observed_run(raw, pods) for raw in jobs),
        deployments=tuple(observed_deployment(raw, pods) for raw in deployments),
        companions=tuple(
            observed_companion(raw)
            for raw in companions
            # A training run's own Service comes and goes with its Job.
            if not labels(raw)[names.LABEL_KIND].endswith("-trainer")
        ),
        revisions_with_pods=frozenset(_revisions(pods)),
    )


def _revisions(pods: Sequence[Object]) -> Iterator[str]:
    """Revisions of which a pod may still run: one that terminates answers until it is gone."""
    for pod in pods:
        revision = labels(pod).get(names.LABEL_REVISION)
        if revision and not observed_pod(pod).gone:
            yield revision


def template_hash(raw: Object) -> str:
    """Hash of the input that a child was made from."""
    found: str = (raw["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH, "")
    return found


def observed_deployment(raw: Object, pods: Sequence[Object]) -> ObservedDeployment:
    """One Deployment with the pods that its selector selects."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    selector = ((spec.get("selector") or {}).get("matchLabels") or {}).items()
    mine = tuple(observed_pod(pod) for pod in pods if selector and selector <= labels(pod).items())
    record = child_record(raw)
    return ObservedDeployment(
        name=raw["metadata"]["name"],
        owner_uid=controller_uid(raw),
        template_hash=template_hash(raw),
        lineage=label_number(raw, names.LABEL_LINEAGE),
        revision=labels(raw).get(names.LABEL_REVISION, ""),
        replicas=spec.get("replicas", 1),
        ready=sum(pod.ready for pod in mine),
        updated=status.get("updatedReplicas", 0),
        current=status.get("observedGeneration", 0) >= raw["metadata"].get("generation", 0) and not record.drift,
        pods=mine,
        record=record,
    )


def observed_companion(raw: Object) -> ObservedCompanion:
    """One Service, or whatever else stands beside pods."""
    kind = cast("CompanionKind", raw["kind"])
    return ObservedCompanion(kind, raw["metadata"]["name"], controller_uid(raw), template_hash(raw), child_record(raw))
