"""From the JSON of pods, Jobs, Deployments and Services to the values that planning reads.

Nothing here decides: which pods belong to which Deployment, what a Job's conditions say. What is read here must be kept
by :mod:`recast_operator.compact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recast_api import names
from recast_operator.adapters.job_objects import DISRUPTION_RULE
from recast_operator.children.record import child_record
from recast_operator.compact import controller_uid, labels
from recast_operator.planning.snapshot import (
    DEADLINE_EXCEEDED,
    DISRUPTED,
    Children,
    ObservedDeployment,
    ObservedPod,
    ObservedRun,
    ObservedService,
    RunState,
)

Object = dict[str, Any]


def observed_children(
    jobs: Sequence[Object], deployments: Sequence[Object], services: Sequence[Object], pods: Sequence[Object]
) -> Children:
    """All children of one model."""
    return Children(
        runs=tuple(observed_run(raw, pods) for raw in jobs),
        deployments=tuple(observed_deployment(raw, pods) for raw in deployments),
        services=tuple(
            observed_service(raw)
            for raw in services
            # A training run's own Service comes and goes with its Job.
            if not labels(raw)[names.LABEL_KIND].endswith("-trainer")
        ),
    )


def template_hash(raw: Object) -> str:
    """Hash of the input that a child was made from."""
    found: str = (raw["metadata"].get("annotations") or {}).get(names.ANNOTATION_TEMPLATE_HASH, "")
    return found


def observed_pod(raw: Object) -> ObservedPod:
    """One pod. Of several containers the first counts: ours have one."""
    status = raw.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or []}
    container = (status.get("containerStatuses") or [{}])[0]
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or last.get("terminated") or {}
    scheduled = conditions.get("PodScheduled", {})
    spec = (raw.get("spec") or {}).get("containers") or [{}]
    return ObservedPod(
        name=raw["metadata"]["name"],
        ready=conditions.get("Ready", {}).get("status") == "True" and not raw["metadata"].get("deletionTimestamp"),
        gone=status.get("phase") in ("Succeeded", "Failed"),
        image=spec[0].get("image", ""),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        termination=ended.get("message", ""),
        exit_code=ended.get("exitCode"),
        restarts=container.get("restartCount", 0),
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
    )


def observed_run(job: Object, pods: Sequence[Object]) -> ObservedRun:
    """The attempt that a Job carries, with its pods."""
    name, status = job["metadata"]["name"], job.get("status") or {}
    mine = tuple(observed_pod(pod) for pod in pods if labels(pod).get("batch.kubernetes.io/job-name") == name)
    true = {item["type"]: item for item in status.get("conditions") or [] if item.get("status") == "True"}
    # FailureTarget comes first, while pods still end; the verdict is the same.
    failed = true.get("Failed") or true.get("FailureTarget")
    state: RunState = "Admitted"
    if "Complete" in true:
        state = "Succeeded"
    elif failed:
        state = "Failed"
    elif (job.get("spec") or {}).get("suspend"):
        state = "Queued"
    elif status.get("ready", 0) >= (job.get("spec") or {}).get("parallelism", 1):
        state = "Running"
    message = (failed or {}).get("message", "")
    disrupted = f"FailJob rule at index {DISRUPTION_RULE}" in message or any(pod.disrupted for pod in mine)
    reason = (failed or {}).get("reason", "")
    return ObservedRun(
        name=name,
        number=_number(job, names.LABEL_RUN),
        attempt=_number(job, names.LABEL_ATTEMPT),
        owner_uid=controller_uid(job),
        state=state,
        reason=DISRUPTED if failed and disrupted else DEADLINE_EXCEEDED if reason == "DeadlineExceeded" else reason,
        message=message,
        pods=mine,
    )


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
        lineage=_number(raw, names.LABEL_LINEAGE),
        revision=labels(raw).get(names.LABEL_REVISION, ""),
        replicas=spec.get("replicas", 1),
        ready=sum(pod.ready for pod in mine),
        updated=status.get("updatedReplicas", 0),
        current=status.get("observedGeneration", 0) >= raw["metadata"].get("generation", 0) and not record.drift,
        pods=mine,
        record=record,
    )


def observed_service(raw: Object) -> ObservedService:
    """One Service."""
    return ObservedService(raw["metadata"]["name"], controller_uid(raw), template_hash(raw), child_record(raw))


def _number(raw: Object, label: str) -> int:
    text = labels(raw).get(label, "")
    return int(text) if text.isdigit() else 0
