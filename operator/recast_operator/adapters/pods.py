"""A Pod as planning sees it. Pure; used for the pods of servers and, by each launcher's adapter, for those of runs."""

from __future__ import annotations

from recast_operator.adapters.objects import Object
from recast_operator.planning.snapshot import ObservedPod


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
