"""A pure fake cluster with a fake clock: it turns plans into what the operator would observe next.

Jobs finish and land versions, pods get ready, Prometheus answers. Everything is a plain value, so that a test can stop
at any point, look, break something, and go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from recast_api import names
from recast_api.reading import Doubt
from recast_api.resources import (
    ExpertModel,
    FoundationModel,
    FoundationPin,
    Measurement,
    MetricName,
    ModelReference,
    ModelVersion,
    ModelVersionSpec,
)
from recast_api.resources.version import Baseline, TrainingRunRef
from recast_api.run import TerminationMessage, TrainingRun
from recast_operator.adapters.promql import promql
from recast_operator.children.record import ChildRecord, condense, read
from recast_operator.planning.expert import plan_expert
from recast_operator.planning.foundation import plan_foundation
from recast_operator.planning.plan import Event, Plan
from recast_operator.planning.projections import fleet_member, foundation_view, unreadable_member
from recast_operator.planning.rollout import analysis
from recast_operator.planning.rollout.questions import BAD, Answer, Question
from recast_operator.planning.snapshot import (
    Children,
    FleetMember,
    ObservedCompanion,
    ObservedDeployment,
    ObservedExpert,
    ObservedFoundation,
    ObservedPod,
    ObservedRun,
)

START = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


def digest_of(*parts: object) -> str:
    from recast_operator.planning.hashing import digest

    return "sha256:" + digest([str(part) for part in parts], 64)


def measured(ne: float = 0.7, baseline: float | None = None, low: float | None = None, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "surface": "reels",
        "task": "click",
        "rows": 5000,
        "positives": 2000,
        "ne": f"{ne}",
        "calibration": "1.01",
        "baseline_ne": None if baseline is None else f"{baseline}",
        "ne_increase": None if baseline is None else f"{(ne - baseline) / baseline:.6f}",
        "ne_increase_low": None if low is None else f"{low}",
    }
    return Measurement(**(fields | changes))


def foundation(name: str = "home-fm", **spec: Any) -> FoundationModel:
    claim = {"persistentVolumeClaim": {"claimName": "models"}}
    data = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-01-01T00:00:00Z"}
    base = {"storage": claim, "data": data, "training": {"image": "trainer:1"}, "serving": {"image": "server:1"}}
    meta = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
    return FoundationModel.model_validate({"metadata": meta, "spec": base | spec})


def expert(name: str, *, replicas: int = 4, **spec: Any) -> ExpertModel:
    base = {
        "foundationRef": {"name": "home-fm"},
        "surface": name.replace("-", "_"),
        "tasks": [{"name": "click"}],
        "training": {"image": "trainer:1"},
        "serving": {"image": "server:1", "replicas": replicas},
    }
    meta = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
    return ExpertModel.model_validate({"metadata": meta, "spec": base | spec})


def owner_uid(body: dict[str, Any]) -> str:
    return _owner_uid(json.dumps(body))


def record_of(body: dict[str, Any]) -> ChildRecord:
    return _record(json.dumps(body))


@lru_cache(maxsize=256)
def _owner_uid(text: str) -> str:
    """As the operator, which compares a child once, when it enters its memory: simulated hours would take long else."""
    owners = condense(json.loads(text))["metadata"]["ownerReferences"]
    return next((str(entry["uid"]) for entry in owners if entry.get("controller")), "")


@lru_cache(maxsize=256)
def _record(text: str) -> ChildRecord:
    return read(json.loads(text))


@dataclass
class SimJob:
    run: TrainingRun
    born: datetime
    observed: ObservedRun


@dataclass
class SimDeployment:
    """Pods are just ages: a pod is ready when it is old enough and its Deployment's image and revision let it be."""

    body: dict[str, Any]
    pods: list[datetime] = field(default_factory=list)
    """Since when each has a node; those that ``replicas`` asks for beyond these find none."""
    ready_limit: int = 10_000
    applied: int = 1

    @property
    def replicas(self) -> int:
        return int(self.body["spec"]["replicas"])

    @property
    def image(self) -> str:
        return str(self.body["spec"]["template"]["spec"]["containers"][0]["image"])


Landing = Callable[[TrainingRun], list[Measurement] | TerminationMessage]


def good_run(run: TrainingRun) -> list[Measurement] | TerminationMessage:
    """Each version is a little better than the one before."""
    ne = 0.8 - 0.01 * run.number
    return [measured(ne, ne + 0.01, -0.02)] if run.baseline else [measured(ne)]


class Cluster:
    """Objects by name, and the rules of time."""

    def __init__(self, *models: FoundationModel | ExpertModel) -> None:
        self.now = START
        self.models: dict[str, FoundationModel | ExpertModel] = {model.metadata.name: model for model in models}
        self.versions: dict[str, ModelVersion] = {}
        self.jobs: dict[str, SimJob] = {}
        self.deployments: dict[str, SimDeployment] = {}
        self.companions: dict[tuple[str, str], dict[str, Any]] = {}
        """By kind and name."""
        self.events: list[tuple[str, Event]] = []
        self.submitted: list[str] = []
        self.landing: Landing = good_run
        self.shares: dict[tuple[str, str, MetricName], float] = {}
        """By model, image and metric: the share of bad requests; see :meth:`set_share`."""
        self.garble: Callable[[Question], Answer | None] | None = None
        """Answers some questions in Prometheus's place: with an error, or with a lie. None: as it is."""
        self.scrape_seconds = 1.0
        self.unpullable: set[str] = set()
        self.unseen: set[str] = set()
        """ModelVersions that exist and that the watch has not shown yet."""
        self.unreadable: set[str] = set()
        """Models and versions that this operator cannot read."""
        self.requests_per_second = 200.0
        self.train_seconds = 20
        self.ready_seconds = 4
        self.job_ttl_seconds = 100_000
        self.drain_seconds = 3
        """How long an expert's server pod terminates: it holds its node and may still read its foundation."""
        self.draining: list[tuple[str, datetime]] = []
        self.room: int | None = None
        """Server pods of experts that find a node, terminating ones included; None: all do."""
        self.prometheus_error = ""
        """What Prometheus says instead of an answer."""
        self.writes = 0
        self.doubts: dict[str, tuple[Doubt, ...]] = {}
        """By model: what of it this operator does not understand."""

    # ---- what people do

    def edit(self, name: str, **spec: Any) -> None:
        model = self.models[name]
        body = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        meta = model.metadata.model_copy(update={"generation": model.metadata.generation + 1})
        self.models[name] = model.model_copy(
            update={"spec": type(model.spec).model_validate(body | spec), "metadata": meta}
        )

    def fm(self, name: str = "home-fm") -> FoundationModel:
        model = self.models[name]
        assert isinstance(model, FoundationModel)
        return model

    def em(self, name: str) -> ExpertModel:
        model = self.models[name]
        assert isinstance(model, ExpertModel)
        return model

    def condition(self, name: str, kind: str) -> Any:
        return next(entry for entry in self.models[name].status.conditions if entry.type == kind)

    # ---- what nodes do

    def kill(self, name: str, pods: int = 1) -> None:
        """Pods of a Deployment die at once and are made again."""
        found = self.deployments[name]
        found.pods = sorted(found.pods)[pods:]
        self._schedule()

    def _scale(self, name: str, replicas: int) -> None:
        """Who has no node yet goes first, then the youngest."""
        found = self.deployments[name]
        found.body["spec"]["replicas"] = replicas
        self._drain(name, sorted(found.pods)[replicas:])
        found.pods = sorted(found.pods)[:replicas]
        self._schedule()

    def _drain(self, name: str, pods: list[datetime]) -> None:
        if name.startswith("em-"):
            self.draining += [(name, self.now + timedelta(seconds=self.drain_seconds)) for _ in pods]

    def _schedule(self) -> None:
        """Give nodes to pods that have none, Deployments in the order in which they were made."""
        self.draining = [entry for entry in self.draining if entry[1] > self.now]
        for name, found in self.deployments.items():
            missing = found.replicas - len(found.pods)
            if name.startswith("em-") and self.room is not None:
                held = sum(len(entry.pods) for key, entry in self.deployments.items() if key.startswith("em-"))
                missing = min(missing, max(0, self.room - held - len(self.draining)))
            found.pods += [self.now] * missing

    # ---- what the operator sees

    def ready(self, name: str) -> int:
        deployment = self.deployments.get(name)
        if deployment is None or deployment.image in self.unpullable:
            return 0
        grown = [born for born in deployment.pods if (self.now - born).total_seconds() >= self.ready_seconds]
        return min(len(grown), deployment.ready_limit)

    def revision_ready(self, model: str) -> dict[str, int]:
        prefix = f"em-{model}-"
        return {name.removeprefix(prefix): self.ready(name) for name in self.deployments if name.startswith(prefix)}

    def _children(self, uid: str) -> Children:
        return Children(
            runs=tuple(job.observed for job in self.jobs.values() if job.observed.owner_uid == uid),
            deployments=tuple(self._deployment(name) for name in self.deployments if self._owner(name) == uid),
            companions=tuple(
                ObservedCompanion(body["kind"], name, uid, record.template_hash, record)
                for (_, name), body in self.companions.items()
                if owner_uid(body) == uid and (record := record_of(body))
            ),
            revisions_with_pods=frozenset(
                name.rsplit("-", 1)[1]
                for name in (*(name for name, found in self.deployments.items() if found.pods), *self._terminating())
                if name.startswith(f"em-{uid.removeprefix('uid-')}-")
            ),
        )

    def _terminating(self) -> list[str]:
        return [name for name, until in self.draining if until > self.now]

    def _owner(self, name: str) -> str:
        return owner_uid(self.deployments[name].body)

    def _deployment(self, name: str) -> ObservedDeployment:
        found = self.deployments[name]
        meta, ready, record = found.body["metadata"], self.ready(name), record_of(found.body)
        pull = "ImagePullBackOff" if found.image in self.unpullable else ""
        pods = tuple(
            ObservedPod(
                f"{name}-{index}",
                ready=index < ready,
                image=found.image,
                waiting_reason=pull if index < len(found.pods) else "",
                unschedulable="" if index < len(found.pods) else "0/1 nodes are available: 1 Insufficient cpu",
            )
            for index in range(found.replicas)
        )
        return ObservedDeployment(
            name=name,
            owner_uid=self._owner(name),
            template_hash=record.template_hash,
            lineage=int(meta["labels"].get(names.LABEL_LINEAGE, 0)),
            revision=meta["labels"].get(names.LABEL_REVISION, ""),
            replicas=found.body["spec"]["replicas"],
            ready=ready,
            updated=len(found.pods),
            pods=pods,
            record=record,
        )

    def observe_foundation(self, name: str) -> ObservedFoundation:
        model = self.fm(name)
        return ObservedFoundation(
            model=model,
            versions=self._seen(name),
            unreadable_versions=self._unreadable_versions(name),
            children=self._children(model.metadata.uid),
            doubts=self.doubts.get(name, ()),
            experts=tuple(self._member(entry) for entry in self.models.values() if isinstance(entry, ExpertModel)),
        )

    def observe_expert(self, name: str) -> ObservedExpert:
        model = self.em(name)
        bare = ObservedExpert(
            model=model,
            versions=self._seen(name),
            unreadable_versions=self._unreadable_versions(name),
            children=self._children(model.metadata.uid),
            doubts=self.doubts.get(name, ()),
            foundations={
                entry.metadata.name: foundation_view(entry, name)
                for entry in self.models.values()
                if isinstance(entry, FoundationModel) and entry.metadata.name not in self.unreadable
            },
            unreadable_foundations=frozenset(
                entry.metadata.name
                for entry in self.models.values()
                if isinstance(entry, FoundationModel) and entry.metadata.name in self.unreadable
            ),
            foundation_names=tuple(
                entry.metadata.name for entry in self.models.values() if isinstance(entry, FoundationModel)
            ),
            foundation_versions=tuple(
                entry for entry in self.versions.values() if entry.spec.model.kind == "FoundationModel"
            ),
        )
        answers = {question: self._answer(question) for question in analysis.questions(bare, self.now)}
        return replace(bare, answers=answers)

    def _seen(self, model: str) -> tuple[ModelVersion, ...]:
        found = (entry for name, entry in self.versions.items() if name not in self.unseen | self.unreadable)
        return tuple(entry for entry in found if entry.spec.model.name == model)

    def _unreadable_versions(self, model: str) -> tuple[str, ...]:
        found = ((name, entry.spec.model.name) for name, entry in self.versions.items() if name in self.unreadable)
        return tuple(name for name, owner in found if owner == model)

    def _member(self, model: ExpertModel) -> FleetMember:
        if model.metadata.name not in self.unreadable:
            return fleet_member(model)
        return unreadable_member(model.model_dump(mode="json", by_alias=True))

    def _answer(self, question: Question) -> Answer:
        """What Prometheus has counted; requests go to revisions in proportion to their ready pods."""
        if self.prometheus_error:
            return Answer(None, self.prometheus_error)
        if self.garble is not None and (garbled := self.garble(question)) is not None:
            return garbled
        name = names.revision_deployment(question.model, question.revision)
        ready = self.revision_ready(question.model)
        if not ready.get(question.revision):
            return Answer(None, query=promql(question))
        share = ready[question.revision] / sum(ready.values())
        total = share * self.requests_per_second * self._seen_seconds(question.window_seconds)
        image = self.deployments[name].image
        bad = next((self._share(question.model, image, metric) for metric in BAD if BAD[metric] is question.count), 1.0)
        return Answer(total * bad, query=promql(question))

    def _seen_seconds(self, window: int) -> float:
        """The part of the window that lies between two scrapes: what came after the last one is not known yet."""
        end = (self.now - START).total_seconds()
        first, last = -(-(end - window) // self.scrape_seconds), end // self.scrape_seconds
        return max(0.0, last - first) * self.scrape_seconds

    def _share(self, model: str, image: str, metric: MetricName) -> float:
        return self.shares.get((model, image, metric), 0.0)

    def set_share(self, model: str, image: str, metric: MetricName, share: float) -> None:
        """From now on this share of the requests to that expert's servers of that image is bad by this metric."""
        self.shares[model, image, metric] = share

    # ---- what the controller does

    def plan(self, name: str) -> Plan[Any]:
        plan = self._plan(name, frozenset())
        if not plan.confirm:
            return plan
        self.unseen -= set(plan.confirm)
        return self._plan(name, frozenset(plan.confirm) - set(self.versions))

    def _plan(self, name: str, absent: frozenset[str]) -> Plan[Any]:
        if isinstance(self.models[name], FoundationModel):
            return plan_foundation(replace(self.observe_foundation(name), absent_versions=absent), self.now)
        return plan_expert(replace(self.observe_expert(name), absent_versions=absent), self.now)

    def execute(self, name: str, plan: Plan[Any], *, crash_after: int | None = None) -> bool:
        """Carry out a plan; stop after so many writes, as a crash would. True where anything was written."""
        actions = self._actions(name, plan)
        for action in actions[:crash_after]:
            action()
        self.writes += len(actions[:crash_after])
        if crash_after is None:
            told = (*plan.events, *(event for write in (*plan.apply, *plan.scales) for event in write.events))
            self.events += [(name, event) for event in told]
        return bool(actions)

    def _actions(self, name: str, plan: Plan[Any]) -> list[Callable[[], None]]:
        model = self.models[name]
        actions: list[Callable[[], None]] = []
        if plan.finalizers is not None:
            meta = model.metadata.model_copy(update={"finalizers": list(plan.finalizers)})
            actions.append(lambda: self._put(name, metadata=meta))
        for write in plan.versions:
            actions.append(lambda write=write: self._write_version(write))
        if plan.status != model.status:
            status = type(model.status).model_validate(plan.status.wire())  # the round trip through JSON must keep it
            assert status == plan.status
            actions.append(lambda: self._put(name, status=status))
        actions += [lambda entry=entry: self._apply(entry.body) for entry in plan.apply]
        actions += [lambda entry=entry: self._scale(entry.name, entry.replicas) for entry in plan.scales]
        if plan.submit is not None:
            submit = plan.submit
            if submit.run.job_name not in self.jobs:
                actions.append(lambda: self._submit(submit.run))
        actions += [lambda entry=entry: self._delete(entry.kind, entry.name) for entry in plan.deletions]
        return actions

    def _put(self, name: str, **update: Any) -> None:
        self.models[name] = self.models[name].model_copy(update=update)

    def _write_version(self, write: Any) -> None:
        version = self.versions[write.name]
        if write.owner is not None:
            meta = version.metadata.model_dump(by_alias=True) | {"ownerReferences": [write.owner]}
            version = version.model_copy(update={"metadata": type(version.metadata).model_validate(meta)})
        if write.status is not None:
            version = version.model_copy(update={"status": write.status})
        self.versions[write.name] = version

    def _apply(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        if body["kind"] != "Deployment":
            self.companions[body["kind"], name] = body
            return
        previous = self.deployments.get(name)
        self.deployments[name] = SimDeployment(body, applied=previous.applied + 1 if previous else 1)
        self._schedule()

    def _submit(self, run: TrainingRun) -> None:
        self.submitted.append(run.job_name)
        owner = self.models[run.model].metadata.uid
        observed = ObservedRun(run.job_name, run.number, run.attempt, owner, pods=(ObservedPod(f"{run.job_name}-0"),))
        self.jobs[run.job_name] = SimJob(run, self.now, observed)

    def _delete(self, kind: str, name: str) -> None:
        if kind == "Deployment" and name in self.deployments:
            self._drain(name, self.deployments[name].pods)
        self.companions.pop((kind, name), None)
        {"Deployment": self.deployments, "Job": self.jobs}.get(kind, {}).pop(name, None)  # type: ignore[attr-defined]

    def reconcile(self, name: str) -> bool:
        return self.execute(name, self.plan(name))

    # ---- time

    def settle(self, limit: int = 40) -> None:
        """Reconcile everything at this instant until nobody wants to write."""
        for _ in range(limit):
            wrote = [self.reconcile(name) for name in sorted(set(self.models) - self.unreadable)]
            if not any(wrote):
                return
        raise AssertionError(f"not settled after {limit} rounds: the operator keeps on writing")

    def tick(self, seconds: float = 1.0) -> None:
        self.now += timedelta(seconds=seconds)
        self._schedule()
        for name, job in list(self.jobs.items()):
            self._train(name, job)

    def _train(self, name: str, job: SimJob) -> None:
        age = (self.now - job.born).total_seconds()
        if not job.observed.ended and age >= self.train_seconds:
            outcome = self.landing(job.run)
            if isinstance(outcome, TerminationMessage):
                pod = ObservedPod(f"{name}-0", gone=True, termination=outcome.encode(), exit_code=1)
                job.observed = replace(job.observed, state="Failed", reason="BackoffLimitExceeded", pods=(pod,))
            else:
                self.land(job.run, outcome)
                done = ObservedPod(f"{name}-0", gone=True, exit_code=0)
                job.observed = replace(job.observed, state="Succeeded", pods=(done,))
        elif job.observed.ended and age >= self.train_seconds + self.job_ttl_seconds:
            del self.jobs[name]

    def land(self, run: TrainingRun, measurements: list[Measurement], *, uid: str | None = None) -> ModelVersion:
        name = names.version(run.kind, run.model, run.number)
        read = run.expert.foundation if run.expert else None
        spec = ModelVersionSpec(
            model=ModelReference(kind=run.kind, name=run.model, uid=uid or run.uid),
            number=run.number,
            lineage=run.number,
            digest=digest_of(run.uid, run.number, run.inputs_hash),
            path=names.artifact_path(run.kind, run.model, run.uid, run.number),
            watermark="2026-01-01T00:00:00Z",
            foundation=(
                FoundationPin(name=read.model, version=read.version, lineage=read.lineage, digest=read.digest)
                if read
                else None
            ),
            baseline=Baseline(version=run.baseline.version, digest=run.baseline.digest) if run.baseline else None,
            run=TrainingRunRef(job_name=run.job_name, attempt=run.attempt, inputs_hash=run.inputs_hash),
            tasks=[task.name for task in run.expert.tasks] if run.expert else [],
            measurements=measurements,
        )
        meta = {"name": name, "namespace": run.namespace, "uid": f"uid-{name}", "generation": 1}
        version = ModelVersion.model_validate({"metadata": meta, "spec": spec.wire()})
        self.versions[name] = version
        return version

    def run(self, seconds: float, watch: Callable[[Cluster], None] | None = None) -> None:
        """Let time pass, a second at a time, reconciling all the while."""
        for _ in range(int(seconds)):
            self.tick()
            self.settle()
            if watch:
                watch(self)

    def until(
        self, condition: Callable[[Cluster], bool], limit: float = 2000, watch: Callable[[Cluster], None] | None = None
    ) -> None:
        """Let time pass until the condition holds."""
        waited = 0
        self.settle()
        while not condition(self):
            assert waited < limit, f"still waiting after {limit} s; {self.describe()}"
            self.run(1, watch)
            waited += 1

    def describe(self) -> str:
        lines = []
        for name, model in self.models.items():
            ready = next((entry for entry in model.status.conditions if entry.type == "Ready"), None)
            lines.append(f"{name}: {model.status.summary.wire()} {(ready.reason, ready.message) if ready else ''}")
        return "\n".join(lines)
