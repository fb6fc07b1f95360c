"""The log of one pod of a Job: its lines as they are, or followed until the pod has ended.

The apiserver is asked again and again, over the same kind of requests as everything else, instead of holding a stream
open: a cut connection then loses no line.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from recast_operator.adapters.errors import Invalid, NotFound
from recast_operator.adapters.job_objects import LABEL_INDEX, LABEL_JOB
from recast_operator.adapters.kube import JOBS, PODS, Exchange, Request
from recast_operator.adapters.objects import Object

FOLLOW_SECONDS = 1.0


def finished(job: Object) -> bool:
    """Whether a Job has come to its end, so that no further pod comes."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


@dataclass(frozen=True)
class PodLog:
    """The log of the pod that has ``index`` in a Job."""

    api: Exchange
    namespace: str
    job: str
    index: int
    since: datetime | None = None
    """An aware instant: lines before it are left out."""

    def lines(self, *, follow: bool) -> Iterator[str]:
        """The lines that there are, each with its newline; with ``follow`` also those that come, whole ones only."""
        given = 0
        while True:
            pod = self._pod()
            ended = pod is not None and pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
            text = self._text(pod, wait=follow and not ended) if pod is not None else ""
            if follow and not ended:
                text = text[: text.rfind("\n") + 1]  # the rest of the last line may still come
            if len(text) < given:
                given = 0  # the kubelet began a new file
            yield from io.StringIO(text[given:], newline="\n")
            given = len(text)
            if ended or not follow or (pod is None and not self._may_come()):
                return
            time.sleep(FOLLOW_SECONDS)

    def _pod(self) -> Object | None:
        selector = f"{LABEL_JOB}={self.job},{LABEL_INDEX}={self.index}"
        found = self.api.send(Request("GET", PODS.path(self.namespace), params={"labelSelector": selector}))
        pod: Object | None = next(iter(found["items"]), None)
        return pod

    def _text(self, pod: Object, *, wait: bool) -> str:
        """The log as it is. With ``wait``: empty for a container that has not started, which is an error otherwise."""
        path = PODS.path(self.namespace, pod["metadata"]["name"], "log")
        params = {"sinceTime": self.since.isoformat()} if self.since is not None else {}
        try:
            return str(self.api.send(Request("GET", path, params=params, text=True)))
        except NotFound:
            return ""  # went after it was listed
        except Invalid:
            if wait:
                return ""
            raise

    def _may_come(self) -> bool:
        try:
            return not finished(self.api.send(Request("GET", JOBS.path(self.namespace, self.job))))
        except NotFound:
            return False
