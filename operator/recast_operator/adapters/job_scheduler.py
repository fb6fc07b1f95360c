"""Recast's TorchX scheduler: an AppDef becomes one Indexed Job, without Volcano.

Where it has several pods a headless Service lets them find each other; one pod alone looks for nobody.

TorchX finds it as ``recast`` through the plugin module ``torchx_plugins.schedulers.recast``. What TorchX's own
Kubernetes scheduler leaves to chance is fixed here: the name is the AppDef's, so that a second submission finds the
first one; the owner is checked before a Job is adopted; and ``describe`` reads the Job's conditions and nothing else.
App ids are ``<namespace>:<name>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, Stream, StructuredOpts
from torchx.specs import (
    AppDef,
    AppDryRunInfo,
    AppState,
    CfgVal,
    ReplicaState,
    ReplicaStatus,
    RoleStatus,
    macros,
    runopts,
)

from recast_api import names
from recast_operator.adapters import job_objects
from recast_operator.adapters.errors import Blocked, Conflict, NotFound, Transient
from recast_operator.adapters.job_logs import PodLog, finished
from recast_operator.adapters.job_objects import LABEL_INDEX, LABEL_JOB
from recast_operator.adapters.kube import JOBS, MERGE, PODS, SERVICES, Exchange, Request, Resource
from recast_operator.adapters.objects import Object, label_number, labels

BACKEND = "recast"
ANNOTATION_CANCELLED = "recast.dev/cancelled"
_BY_RECAST = {"fieldManager": names.FIELD_MANAGER}

REPLICA_STATES: Mapping[str, ReplicaState] = {
    phase: ReplicaState[phase.upper()] for phase in ("Pending", "Running", "Succeeded", "Failed")
}


@dataclass
class JobOptions(StructuredOpts):  # type: ignore[misc]
    """Run options of the ``recast`` scheduler."""

    namespace: str = "default"
    """Namespace of the Job and the Service."""

    service_account: str = names.TRAINER_SERVICE_ACCOUNT
    """Service account of the pods."""

    active_deadline_seconds: int = 14400
    """After this long the Job fails."""

    ttl_seconds_after_finished: int = 3600
    """Kubernetes deletes a finished Job after this long."""

    owner: str | None = None
    """JSON of the owner reference that the Job and the Service carry, and that an adopted Job must carry."""

    labels: str | None = None
    """JSON object of further labels for the Job, the Service and the pods."""


RUN_OPTS = JobOptions.as_runopts()
"""Worked out once: TorchX parses this file's source for it, and of two threads that parse at once one may fail with
``SystemError: AST constructor recursion depth mismatch`` (Python 3.11.7)."""


@dataclass
class JobRequest:
    """What is sent to the apiserver."""

    service: Object | None
    """None where the Job is one pod."""
    job: Object

    def __str__(self) -> str:
        return json.dumps([self.service, self.job] if self.service else [self.job], indent=2)


class JobScheduler(Scheduler[JobOptions]):  # type: ignore[misc]
    """TorchX scheduler on plain Kubernetes Jobs."""

    def __init__(self, session_name: str, exchange: Exchange) -> None:
        super().__init__(BACKEND, session_name)
        self._api = exchange

    def _run_opts(self) -> runopts:
        return RUN_OPTS

    def _submit_dryrun(self, app: AppDef, cfg: JobOptions) -> AppDryRunInfo[JobRequest, JobOptions]:
        if len(app.roles) != 1:
            raise ValueError(f"{app.name}: the recast scheduler runs one role, this AppDef has {len(app.roles)}")
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", app.name) or len(f"{app.name}-999") > 63:
            raise ValueError(f"{app.name!r} cannot name a Job and its pods: at most 59 of a-z, 0-9 and '-'")
        values = macros.Values(
            img_root="",
            app_id=f"{cfg.namespace}:{app.name}",
            replica_id="$(JOB_COMPLETION_INDEX)",
            rank0_env="RECAST_RANK0_HOST",
        )
        role = values.apply(app.roles[0])
        several = role.num_replicas > 1
        role.env["RECAST_RANK0_HOST"] = f"{app.name}-0.{app.name}" if several else "localhost"
        gang = job_objects.Gang(
            app=app.name,
            role=role,
            namespace=cfg.namespace,
            owner=json.loads(cfg.owner) if cfg.owner else None,
            extra_labels=json.loads(cfg.labels) if cfg.labels else {},
            service_account=cfg.service_account,
            active_deadline_seconds=cfg.active_deadline_seconds,
            ttl_seconds_after_finished=cfg.ttl_seconds_after_finished,
        )
        request = JobRequest(job_objects.service(gang) if several else None, job_objects.job(gang))
        return AppDryRunInfo(request, str)

    def schedule(self, dryrun_info: AppDryRunInfo[JobRequest, JobOptions]) -> str:
        """Create the Job, and the Service of several pods, or adopt those of an interrupted submission of that name.

        Raises :class:`Blocked` where the name belongs to somebody else, :class:`Transient` where what has the name is
        on its way out.
        """
        request = dryrun_info.request
        if request.service is None:
            job = self._create_or_adopt(JOBS, request.job)
        else:
            # The Service first: a Job that exists is complete, so that whoever sees it need not come back here.
            service = self._create_or_adopt(SERVICES, request.service)
            job = self._create_or_adopt(JOBS, request.job)
            self._hand_over(service, job, request.service)
        return f"{job['metadata']['namespace']}:{job['metadata']['name']}"

    def _create_or_adopt(self, resource: Resource, body: Object) -> Object:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            made: Object = self._api.send(Request("POST", resource.path(namespace), body=body, params=_BY_RECAST))
            return made
        except Conflict:
            pass
        try:
            found: Object = self._api.send(Request("GET", resource.path(namespace, name)))
        except NotFound as error:
            raise Transient(f'{resource.kind} "{name}" went while it was looked at; trying again creates it') from error
        if found["metadata"].get("deletionTimestamp"):
            raise Transient(f'{resource.kind} "{name}" is being deleted; trying again creates it once it is gone')
        if not is_same_owner(found, body):
            raise Blocked(
                f'{resource.kind} "{name}" in namespace {namespace} exists and is not owned by this model; '
                "delete it or rename the model"
            )
        return found

    def _hand_over(self, service: Object, job: Object, wanted: Object) -> None:
        """Let the Job own the Service, so that both go together when the Job's time is over."""
        metadata, uid = service["metadata"], job["metadata"]["uid"]
        if uid in {owner["uid"] for owner in metadata.get("ownerReferences", [])}:
            return
        owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": uid}]
        path = SERVICES.path(metadata["namespace"], metadata["name"])
        # With its UID, as Kubernetes' controllers write it: a conflict where another Service has the name by now.
        body = {"metadata": {"uid": metadata["uid"], "ownerReferences": owners}}
        try:
            self._api.send(Request("PATCH", path, body=body, content_type=MERGE, params=_BY_RECAST))
        except NotFound:
            if finished(job):
                return  # its time is over, and the Service's with it
            # Deleted since, perhaps with an earlier Job of this name: the pods of this one need it.
            self._create_or_adopt(SERVICES, {**wanted, "metadata": {**wanted["metadata"], "ownerReferences": owners}})

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The Job's state from its conditions, and one replica for each pod; None where there is no Job."""
        namespace, name = _split(app_id)
        try:
            job = self._api.send(Request("GET", JOBS.path(namespace, name)))
        except NotFound:
            return None
        state, message = state_of(job)
        pods = self._api.send(Request("GET", PODS.path(namespace), params={"labelSelector": f"{LABEL_JOB}={name}"}))
        role = labels(job).get(job_objects.LABEL_ROLE, "")
        replicas = [
            ReplicaStatus(
                id=_index(pod),
                state=REPLICA_STATES.get(pod.get("status", {}).get("phase", ""), ReplicaState.UNKNOWN),
                role=role,
                hostname=pod["metadata"]["name"],
            )
            for pod in sorted(pods["items"], key=_index)
        ]
        return DescribeAppResponse(
            app_id=app_id, state=state, num_restarts=0, msg=message, roles_statuses=[RoleStatus(role, replicas)]
        )

    def list(self, cfg: Mapping[str, CfgVal] | None = None) -> list[ListAppResponse]:
        """All Jobs that this scheduler made, in the namespace of ``cfg`` or in all."""
        namespace = str(cfg["namespace"]) if cfg and cfg.get("namespace") else None
        selector = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{job_objects.LABEL_APP}"
        jobs = self._api.send(Request("GET", JOBS.path(namespace), params={"labelSelector": selector}))
        found = []
        for job in jobs["items"]:
            metadata = job["metadata"]
            app_id = f"{metadata['namespace']}:{metadata['name']}"
            found.append(ListAppResponse(app_id=app_id, state=state_of(job)[0], name=metadata["name"]))
        return found

    def _cancel_existing(self, app_id: str) -> None:
        """Take the pods away and keep the Job, marked as cancelled."""
        namespace, name = _split(app_id)
        body = {"metadata": {"annotations": {ANNOTATION_CANCELLED: "true"}}, "spec": {"suspend": True}}
        self._api.send(Request("PATCH", JOBS.path(namespace, name), body=body, content_type=MERGE, params=_BY_RECAST))

    def _delete_existing(self, app_id: str) -> None:
        namespace, name = _split(app_id)
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._api.send(Request("DELETE", JOBS.path(namespace, name), body=options))

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """The lines of pod ``k``, both streams together, since an aware instant; following ends with the pod.

        Raises :class:`ValueError` for what Kubernetes cannot give: one stream alone, or an end in time.
        """
        if streams not in (None, Stream.COMBINED):
            raise ValueError("Kubernetes keeps stdout and stderr in one stream: ask for combined")
        if until is not None:
            raise ValueError("Kubernetes cannot end a log at an instant: leave until away")
        if since is not None and since.tzinfo is None:
            raise ValueError("since must be an aware datetime")
        namespace, name = _split(app_id)
        pattern = re.compile(regex) if regex else None
        lines = PodLog(self._api, namespace, name, k, since).lines(follow=should_tail)
        return (line for line in lines if pattern is None or pattern.search(line))


def state_of(job: Object) -> tuple[AppState, str]:
    """TorchX's state of a Job, and the message of the condition that says so."""
    status = job.get("status") or {}
    true = {item["type"]: item for item in status.get("conditions") or [] if item.get("status") == "True"}
    if "Complete" in true:
        return AppState.SUCCEEDED, ""
    if "Failed" in true:
        return AppState.FAILED, f"{true['Failed'].get('reason', '')}: {true['Failed'].get('message', '')}"
    if job["metadata"].get("annotations", {}).get(ANNOTATION_CANCELLED):
        return AppState.CANCELLED, "cancelled"
    if "Suspended" in true or not status.get("active"):
        return AppState.PENDING, ""
    return (AppState.RUNNING if status.get("ready") else AppState.PENDING), ""


def is_same_owner(found: Object, wanted: Object) -> bool:
    """Whether an object that has the name was made for the same owner.

    A Service may already belong to its Job: then the Job, looked at next, decides. Without an owner, as from TorchX's
    command line, what this scheduler made without one is the same.
    """
    name, theirs = wanted["metadata"]["name"], found["metadata"].get("ownerReferences", [])
    if wanted["kind"] == "Service" and any((owner["kind"], owner["name"]) == ("Job", name) for owner in theirs):
        return True
    if mine := wanted["metadata"].get("ownerReferences"):
        return _owners(mine) <= _owners(theirs)
    ours = {names.LABEL_MANAGED_BY: names.MANAGED_BY, job_objects.LABEL_APP: name}
    return not theirs and ours.items() <= labels(found).items()


def _owners(references: Sequence[Object]) -> set[tuple[str, bool]]:
    return {(reference["uid"], bool(reference.get("controller"))) for reference in references}


def _split(app_id: str) -> tuple[str, str]:
    namespace, separator, name = app_id.partition(":")
    if not separator or not namespace or not name:
        raise ValueError(f"{app_id!r} is no app id of the recast scheduler: <namespace>:<name>")
    return namespace, name


def _index(pod: Object) -> int:
    return label_number(pod, LABEL_INDEX)
