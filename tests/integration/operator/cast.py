"""Everybody but the operator: Job controller, trainers, Deployment controller, kubelet and Prometheus, played simply.

They see the cluster through a mirror of it, and put what they write there at once: the watch of a test has no delay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from recast_api import names
from recast_api.resources import MetricName
from recast_api.run import TrainingRun
from recast_operator.adapters.errors import NotFound
from recast_operator.adapters.kube import DEPLOYMENTS, JOBS, MERGE, PODS, VERSIONS, Kube, Request, Resource
from recast_operator.adapters.promql import promql
from recast_operator.planning.rollout.questions import BAD, Answer, Question
from tests.integration.operator.mirror import Mirror

Object = dict[str, Any]


class Traffic:
    """Prometheus: a thousand requests a window for every revision; scripted shares of them are bad."""

    def __init__(self, image_of: Callable[[str], str]) -> None:
        self._image_of = image_of
        self._shares: dict[tuple[str, MetricName], float] = {}

    def set_share(self, image: str, metric: MetricName, share: float) -> None:
        """From now on this share of the requests to revisions of images with that in their name is bad."""
        self._shares[image, metric] = share

    async def answers(self, questions: tuple[Question, ...], now: datetime) -> Mapping[Question, Answer]:
        return {question: self._answer(question) for question in questions}

    def _answer(self, question: Question) -> Answer:
        image, requests = self._image_of(question.revision), 1000.0
        for (part, metric), share in self._shares.items():
            if BAD[metric] is question.count and part in image:
                return Answer(requests * share, query=promql(question))
        return Answer(0.0 if question.count in BAD.values() else requests, query=promql(question))


def completed(job: Object, time: str) -> Object:
    """The status of a Job whose pods have all succeeded."""
    return {
        "startTime": time,
        "completionTime": time,
        "succeeded": job["spec"]["completions"],
        "completedIndexes": ",".join(str(index) for index in range(job["spec"]["completions"])),
        "uncountedTerminatedPods": {},
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": time, "lastProbeTime": time}
            for kind in ("SuccessCriteriaMet", "Complete")
        ],
    }


def training_run(job: Object) -> TrainingRun:
    """The run that a Job's pods were given."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    env = {item["name"]: item.get("value", "") for item in container["env"]}
    return TrainingRun.model_validate_json(env[names.RUN_ENV])


def landed_version(run: TrainingRun, namespace: str, *, worse: bool = False) -> Object:
    """The ModelVersion that a trainer creates at the end of a run."""
    seed = f"{run.kind}/{run.model}/{run.number}"
    foundation = run.expert.foundation if run.expert else None
    surface = run.expert.surface if run.expert else "feed"
    measurement = {
        "surface": surface,
        "task": "click",
        "rows": 5000,
        "positives": 800,
        "ne": "0.9900" if worse else "0.7300",
        "calibration": "1.01",
    }
    if run.baseline is not None:
        change = "0.3000" if worse else "-0.0050"
        measurement |= {
            "baselineNe": "0.7350",
            "neIncrease": change,
            "neIncreaseLow": "0.2500" if worse else "-0.0070",
            "neIncreaseHigh": "0.3500" if worse else "-0.0030",
        }
    spec: Object = {
        "model": {"kind": run.kind, "name": run.model, "uid": run.uid},
        "number": run.number,
        "lineage": run.number,
        "digest": "sha256:" + hashlib.sha256(seed.encode()).hexdigest(),
        "path": names.artifact_path(run.kind, run.model, run.uid, run.number),
        "watermark": "2026-01-03T00:00:00Z",
        "run": {"jobName": run.job_name, "attempt": run.attempt, "inputsHash": run.inputs_hash},
        "measurements": [measurement],
    }
    if foundation is not None:
        spec["foundation"] = {
            "name": foundation.model,
            "version": foundation.version,
            "lineage": foundation.lineage,
            "digest": foundation.digest,
        }
    if run.expert is not None:
        spec["tasks"] = [task.name for task in run.expert.tasks]
    if run.baseline is not None:
        spec["baseline"] = {"version": run.baseline.version, "digest": run.baseline.digest}
    owner = {"apiVersion": VERSIONS.api_version, "kind": run.kind, "name": run.model, "uid": run.uid}
    return {
        "apiVersion": VERSIONS.api_version,
        "kind": "ModelVersion",
        "metadata": {
            "name": names.version(run.kind, run.model, run.number),
            "namespace": namespace,
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": spec,
    }


class Cast:
    """Plays one turn at a time. ``worse``: learning rates that make a version worse than the one before."""

    def __init__(
        self, kube: Kube, namespace: str, mirror: Mirror, clock: Callable[[], datetime], worse: set[str]
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._mirror = mirror
        self._clock = clock
        self._worse = worse

    async def trainers(self) -> int:
        """Job controller and trainers: the version lands, then the Job is complete."""
        acted = 0
        for job in list(self._mirror.of("Job")):
            if any(item["status"] == "True" for item in job.get("status", {}).get("conditions") or []):
                continue
            raw = await self._kube.get(JOBS, self._namespace, job["metadata"]["name"])
            run = training_run(raw)
            worse = run.optimization.learning_rate in self._worse
            version = await self._create_or_get(landed_version(run, self._namespace, worse=worse))
            self._mirror.put("ModelVersion", version)
            status = completed(raw, self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
            self._mirror.put("Job", await self._set_status(JOBS, raw["metadata"]["name"], status))
            acted += 1
        return acted

    async def _create_or_get(self, body: Object) -> Object:
        try:
            return await self._kube.get(VERSIONS, self._namespace, body["metadata"]["name"])
        except NotFound:
            return await self._kube.create(VERSIONS, self._namespace, body)

    async def deployments(self) -> int:
        """Deployment controller and kubelet: pods as many as wished, ready at once; no owner, no pods."""
        acted = 0
        wished: set[str] = set()
        for raw in list(self._mirror.of("Deployment")):
            name, replicas = raw["metadata"]["name"], raw["spec"]["replicas"]
            wished |= {f"{name}-{index}" for index in range(replicas)}
            for index in range(replicas):
                if self._mirror.get("Pod", f"{name}-{index}") is None:
                    await self._pod(f"{name}-{index}", raw)
                    acted += 1
            status = raw.get("status") or {}
            generation = raw["metadata"]["generation"]
            if (status.get("observedGeneration"), status.get("readyReplicas", 0)) != (generation, replicas):
                counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
                status = {"observedGeneration": generation, **counts}
                self._mirror.put("Deployment", await self._set_status(DEPLOYMENTS, name, status))
                acted += 1
        for raw in list(self._mirror.of("Pod")):
            name = raw["metadata"]["name"]
            if name not in wished:
                await self._kube.requester.send(
                    Request("DELETE", PODS.path(self._namespace, name), params={"gracePeriodSeconds": "0"})
                )
                self._mirror.remove("Pod", name)
                acted += 1
        return acted

    async def _pod(self, name: str, deployment: Object) -> None:
        marks = {**deployment["spec"]["selector"]["matchLabels"], names.LABEL_MANAGED_BY: names.MANAGED_BY}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": marks},
            "spec": {"containers": [{"name": "server", "image": "server"}]},
        }
        await self._kube.create(PODS, self._namespace, body)
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self._mirror.put("Pod", await self._set_status(PODS, name, ready))

    async def _set_status(self, resource: Resource, name: str, status: Object) -> Object:
        path = resource.path(self._namespace, name, "status")
        made: Object = await self._kube.requester.send(
            Request("PATCH", path, body={"status": status}, content_type=MERGE)
        )
        return made
