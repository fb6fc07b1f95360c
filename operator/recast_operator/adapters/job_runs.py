"""An Indexed Job as the neutral :class:`ObservedRun` that planning judges. Pure.

The counterpart of :mod:`recast_operator.adapters.job_objects`, which makes such Jobs. A launcher on other objects, such
as a queue's, brings a translation of its own; planning knows no launcher.
"""

from __future__ import annotations

from collections.abc import Sequence

from recast_api import names
from recast_operator.adapters.job_objects import DISRUPTION_RULE, LABEL_JOB
from recast_operator.adapters.objects import Object, controller_uid, label_number, labels
from recast_operator.adapters.pods import observed_pod
from recast_operator.planning.snapshot import DEADLINE_EXCEEDED, DISRUPTED, ObservedRun, RunState


def observed_run(job: Object, pods: Sequence[Object]) -> ObservedRun:
    """The attempt that a Job carries, with its pods."""
    name, status = job["metadata"]["name"], job.get("status") or {}
    mine = tuple(observed_pod(pod) for pod in pods if labels(pod).get(LABEL_JOB) == name)
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
        number=label_number(job, names.LABEL_RUN),
        attempt=label_number(job, names.LABEL_ATTEMPT),
        owner_uid=controller_uid(job),
        state=state,
        reason=DISRUPTED if failed and disrupted else DEADLINE_EXCEEDED if reason == "DeadlineExceeded" else reason,
        message=message,
        pods=mine,
    )
