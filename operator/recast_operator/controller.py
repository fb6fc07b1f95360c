"""One pass over one model: observe, plan, execute.

The plan is a value; here it is carried out, in the one order that survives a crash between any two writes:
finalizers and verdicts, then the status (with the observed ``resourceVersion``: it fails when somebody wrote first, and
then nothing has happened), then children, scales, the training run and deletions, which all follow from that status and
which the next pass would derive from it again; events last.

Errors by kind: a :class:`Conflict` or :class:`Transient` ends the pass and is tried again with back-off. An
:class:`Invalid` or :class:`Blocked` is said in the condition ``Stalled`` too, since a person must act.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from recast_api.names import FIELD_MANAGER
from recast_api.resources import API_VERSION, Condition, ExpertModelStatus, FoundationModelStatus
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound, OutsideError
from recast_operator.adapters.kube import BY_KIND, DEPLOYMENTS, EVENTS, JOBS, VERSIONS, Kube, Resource
from recast_operator.metrics import Metrics
from recast_operator.observe import Key, Observer
from recast_operator.planning.expert import plan_expert
from recast_operator.planning.foundation import plan_foundation
from recast_operator.planning.plan import Event, Plan, SubmitRun, VersionWrite
from recast_operator.planning.rollout import analysis
from recast_operator.planning.rollout.questions import Answer, Question
from recast_operator.planning.snapshot import ObservedExpert, ObservedFoundation
from recast_operator.store import Object, Store

logger = logging.getLogger(__name__)

StatusT = TypeVar("StatusT", FoundationModelStatus, ExpertModelStatus)
T = TypeVar("T")

STALLED = "Stalled"
OUR_REASONS = ("InvalidRequest", "BlockedRequest")
"""Reasons of ``Stalled`` that are given here; others are planning's."""
NOTE_LIMIT = 1024


class Submits(Protocol):
    """Submits training runs; see :class:`recast_operator.adapters.torchx.Launcher`."""

    async def submit(self, namespace: str, request: SubmitRun) -> str:
        """Create or adopt the Job of one attempt."""
        ...


class Answers(Protocol):
    """Answers planning's questions; see :class:`recast_operator.adapters.prometheus.Prometheus`."""

    async def answers(self, questions: tuple[Question, ...], now: datetime) -> Mapping[Question, Answer]:
        """The answers at ``now``, one to each question."""
        ...


@dataclass(frozen=True)
class Problem:
    """Why a plan could not be carried out, for the condition."""

    reason: str
    message: str


class Controller:
    """Carries out plans. ``clock`` gives aware UTC instants."""

    def __init__(
        self,
        store: Store,
        kube: Kube,
        launcher: Submits,
        prometheus: Answers,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._observer = Observer(store)
        self._kube = kube
        self._launcher = launcher
        self._prometheus = prometheus
        self._metrics = metrics
        self._clock = clock
        self._problems: dict[Key, Problem] = {}

    async def reconcile(self, key: Key) -> float | None:
        """One pass. Seconds until time alone may change the plan; None: until an event or the resync.

        Raises :class:`OutsideError` where the pass could not be finished.
        """
        await self._settle(key.namespace)
        try:
            requeue = await self._pass(key)
        except (Invalid, Blocked) as error:
            self._problems[key] = Problem(f"{error.kind}Request", str(error)[:NOTE_LIMIT])
            raise
        if self._problems.pop(key, None) is not None:
            return 0.0  # the condition still says so: take it back
        return requeue

    async def _pass(self, key: Key) -> float | None:
        if key.kind == "FoundationModel":
            foundation = self._observer.foundation(key)
            return None if foundation is None else await self._foundation(key, foundation)
        expert = self._observer.expert(key)
        return None if expert is None else await self._expert(key, expert)

    async def _foundation(self, key: Key, observed: ObservedFoundation) -> float | None:
        now = self._clock()
        plan = plan_foundation(observed, now)
        if plan.confirm:
            absent = await self._absent(key.namespace, plan.confirm)
            again = self._observer.foundation(key)
            if again is None:
                return None
            observed = replace(again, absent_versions=absent)
            plan = plan_foundation(observed, now)
        return await self._execute(key, observed.model.status, plan)

    async def _expert(self, key: Key, observed: ObservedExpert) -> float | None:
        now = self._clock()
        if questions := analysis.questions(observed, now):
            observed = replace(observed, answers=await self._prometheus.answers(questions, now))
        plan = plan_expert(observed, now)
        if plan.confirm:
            absent = await self._absent(key.namespace, plan.confirm)
            again = self._observer.expert(key)
            if again is None:
                return None
            observed = replace(again, answers=observed.answers, absent_versions=absent)
            plan = plan_expert(observed, now)
        return await self._execute(key, observed.model.status, plan)

    async def _absent(self, namespace: str, wanted: tuple[str, ...]) -> frozenset[str]:
        """Read these ModelVersions into the store; the names of those that are not there."""
        absent = set()
        for name in wanted:
            try:
                self._store.put(VERSIONS.kind, await self._kube.get(VERSIONS, namespace, name))
            except NotFound:
                absent.add(name)
        return frozenset(absent)

    async def _execute(self, key: Key, before: StatusT, plan: Plan[StatusT]) -> float | None:
        if plan.finalizers is not None:
            await self._write_finalizers(key, plan.finalizers)
        for version in plan.versions:
            await self._write_version(key.namespace, version)
        status = self._with_problem(key, before, plan.status)
        if status != before:
            await self._write_status(key, status.wire())
        for child in plan.apply:
            await self._apply(child)
        for scale in plan.scales:
            await self._guard(
                DEPLOYMENTS, key.namespace, scale.name, self._kube.scale(key.namespace, scale.name, scale.replicas)
            )
            await self._read(DEPLOYMENTS, key.namespace, scale.name)
        if plan.submit is not None:
            await self._submit(key.namespace, plan.submit)
        for deletion in plan.deletions:
            await self._delete(BY_KIND[deletion.kind], key.namespace, deletion.name)
        for event in plan.events:
            await self._tell(key, event)
        return plan.requeue_after

    def _with_problem(self, key: Key, before: StatusT, status: StatusT) -> StatusT:
        problem = self._problems.get(key)
        others: list[Condition] = [
            item
            for item in status.conditions
            if item.type != STALLED or (problem is None and item.reason not in OUR_REASONS)
        ]
        if problem is None:
            return status.model_copy(update={"conditions": others})
        old = next((item for item in before.conditions if item.type == STALLED and item.status == "True"), None)
        condition = Condition(
            type=STALLED,
            status="True",
            reason=problem.reason,
            message=problem.message,
            last_transition_time=(
                old.last_transition_time if old else self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ),
            observed_generation=status.observed_generation,
        )
        return status.model_copy(update={"conditions": [*others, condition]})

    async def _settle(self, namespace: str) -> None:
        """Read again what a failed write left in doubt."""
        for address in self._store.doubts(namespace):
            kind, _, name = address
            try:
                found = await self._kube.get(BY_KIND[kind], namespace, name)
            except NotFound:
                self._store.settle(address, None)
            else:
                self._store.settle(address, found)

    async def _guard(self, resource: Resource, namespace: str, name: str, write: Awaitable[T]) -> T:
        """Await a write; if anything goes wrong, its object is read before the next plan."""
        try:
            return await write
        except BaseException:
            self._store.doubt(resource.kind, namespace, name)
            raise

    async def _read(self, resource: Resource, namespace: str, name: str) -> None:
        try:
            found = await self._guard(resource, namespace, name, self._kube.get(resource, namespace, name))
        except NotFound:
            return
        self._store.put(resource.kind, found)

    def _known(self, key: Key) -> Object:
        raw = self._store.get(*key)
        if raw is None:
            raise Conflict(f"{key} went while it was planned")
        return raw

    async def _write_finalizers(self, key: Key, finalizers: tuple[str, ...]) -> None:
        raw = self._known(key)
        if tuple(raw["metadata"].get("finalizers") or ()) == finalizers:
            return
        metadata = {"resourceVersion": raw["metadata"]["resourceVersion"], "finalizers": list(finalizers)}
        await self._merge(BY_KIND[key.kind], key.namespace, key.name, {"metadata": metadata})

    async def _merge(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        made = await self._guard(resource, namespace, name, self._kube.merge(resource, namespace, name, body))
        self._store.put(resource.kind, made)
        return made

    async def _write_version(self, namespace: str, write: VersionWrite) -> None:
        raw = self._store.get("ModelVersion", namespace, write.name)
        if raw is None:
            raise Conflict(f"ModelVersion {namespace}/{write.name} went while it was planned")
        metadata: dict[str, Any] = {}
        owners = raw["metadata"].get("ownerReferences") or []
        if write.owner is not None and write.owner["uid"] not in {owner["uid"] for owner in owners}:
            metadata["ownerReferences"] = [*owners, write.owner]
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": write.resource_version}}
        if metadata:
            metadata["resourceVersion"] = write.resource_version
            raw = await self._merge(VERSIONS, namespace, write.name, {"metadata": metadata})
        if write.status is not None and raw.get("status") != write.status.wire():
            await self._replace_status(VERSIONS, raw, write.status.wire())

    async def _write_status(self, key: Key, status: Object) -> None:
        await self._replace_status(BY_KIND[key.kind], self._known(key), status)

    async def _replace_status(self, resource: Resource, raw: Object, status: Object) -> None:
        metadata = raw["metadata"]
        made = await self._guard(
            resource, metadata["namespace"], metadata["name"], self._kube.replace_status(resource, raw, status)
        )
        self._store.put(resource.kind, made)
        self._metrics.status_written(resource.kind)

    async def _apply(self, child: Object) -> None:
        resource, metadata = BY_KIND[child["kind"]], child["metadata"]
        known = self._store.get(resource.kind, metadata["namespace"], metadata["name"])
        mine = {owner["uid"] for owner in metadata.get("ownerReferences", [])}
        if known is not None and not mine & {item["uid"] for item in known["metadata"].get("ownerReferences") or []}:
            raise Blocked(
                f'{resource.kind} "{metadata["name"]}" in namespace {metadata["namespace"]} exists and is not owned by '
                "this model; delete it or rename the model"
            )
        made = await self._guard(resource, metadata["namespace"], metadata["name"], self._kube.apply(child))
        self._store.put(resource.kind, made)

    async def _submit(self, namespace: str, request: SubmitRun) -> None:
        name = request.run.job_name
        await self._guard(JOBS, namespace, name, self._launcher.submit(namespace, request))
        await self._read(JOBS, namespace, name)

    async def _delete(self, resource: Resource, namespace: str, name: str) -> None:
        raw = self._store.get(resource.kind, namespace, name)
        if raw is None:
            return
        uid = raw["metadata"]["uid"]
        await self._guard(resource, namespace, name, self._kube.delete(resource, namespace, name, uid))
        if raw["metadata"].get("finalizers"):
            await self._read(resource, namespace, name)
        else:
            self._store.deleted(resource.kind, namespace, name, uid)

    async def _tell(self, key: Key, event: Event) -> None:
        """Post an event. A lost one is a loss of words only, and never ends a pass."""
        raw = self._known(key)
        body = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"generateName": f"{key.name}-", "namespace": key.namespace},
            "eventTime": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "recast.dev/operator",
            "reportingInstance": FIELD_MANAGER,
            "action": "Reconcile",
            "type": event.type,
            "reason": event.reason,
            "note": event.message[:NOTE_LIMIT],
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": raw["metadata"]["uid"],
            },
        }
        try:
            await self._kube.create(EVENTS, key.namespace, body)
        except OutsideError as error:
            logger.warning("%s: an event was lost: %s", key, error)
