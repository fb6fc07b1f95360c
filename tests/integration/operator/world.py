"""A namespace on a real apiserver in which a test plays everyone but the operator.

Everybody else is played by :mod:`cast`, and time is a number that the test moves. The operator's own parts are the real
ones, without kopf: what it writes goes to the apiserver through :mod:`recorder`, which can cut the operator down at any
write. After a crash everything of the operator is made anew, and it lists the cluster as it does at a start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from recast_api import names
from recast_api.resources import MetricName
from recast_operator.adapters.errors import OutsideError
from recast_operator.adapters.kube import APPLY, BY_KIND, CHILDREN, MODELS, Kube, Request, Requester
from recast_operator.adapters.torchx import Launcher
from recast_operator.controller import Controller
from recast_operator.metrics import Metrics
from recast_operator.observe import Key, Observer
from recast_operator.runtime import selector
from recast_operator.store import Store
from tests.integration.operator.cast import Cast, Traffic
from tests.integration.operator.recorder import Crash, Point, Recorder

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Object = dict[str, Any]
MAX_PASSES = 200


class World:
    """One namespace, its operator, and everybody else."""

    def __init__(self, requester: Requester, namespace: str, cuts: frozenset[Point] = frozenset()) -> None:
        self.namespace = namespace
        self.kube = Kube(requester)  # everybody else's line: never cut
        self.recorder = Recorder(requester, namespace, cuts)
        self.now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
        self.crashes = 0
        self.traffic = Traffic(self._image_of)
        self.traffic.set_share("bad-server", MetricName.ERROR_RATE, 0.2)
        self.weights: dict[str, list[tuple[tuple[str, int], ...]]] = {}
        self.worse: set[str] = set()
        """Learning rates that make a version worse."""
        self.dip: list[str] = []
        self.tolerated = {"Conflict", "Transient"}
        self._launcher: Launcher | None = None

    async def boot(self) -> None:
        """A fresh operator process: empty memory, then a listing of everything."""
        if self._launcher is not None:
            self._launcher.close()
        self._due: dict[Key, datetime] = {}
        self.store = Store(self._changed)
        self._observer = Observer(self.store)
        self._cast = Cast(self.kube, self.namespace, self.store, lambda: self.now, self.worse)
        operator = Kube(self.recorder)
        self._launcher = Launcher(self.recorder)
        self._controller = Controller(
            self.store, operator, self._launcher, self.traffic, Metrics(), clock=lambda: self.now
        )
        for resource in (*MODELS, *CHILDREN):
            found = await operator.list(resource, self.namespace, selector(resource))
            for raw in found["items"]:
                self.store.put(resource.kind, raw)

    def close(self) -> None:
        if self._launcher is not None:
            self._launcher.close()

    def _changed(self, kind: str, raw: Object) -> None:
        for key in self._observer.concerned(kind, raw):
            self._due[key] = min(self._due.get(key, self.now), self.now)

    async def apply(self, *files: str, change: Callable[[Object], None] = lambda body: None) -> None:
        """``kubectl apply`` of examples, each changed before."""
        for file in files:
            for body in yaml.safe_load_all((EXAMPLES / file).read_text()):
                body["metadata"]["namespace"] = self.namespace
                change(body)
                resource = BY_KIND[body["kind"]]
                made = await self.kube.requester.send(
                    Request(
                        "PATCH",
                        resource.path(self.namespace, body["metadata"]["name"]),
                        body=body,
                        content_type=APPLY,
                        params={"fieldManager": "kubectl", "force": "true"},
                    )
                )
                self.store.put(resource.kind, made)

    def model(self, kind: str, name: str) -> Object:
        """A model as last known."""
        raw = self.store.get(kind, self.namespace, name)
        assert raw is not None, f"{kind} {name} is gone"
        return raw

    async def until(self, what: str, condition: Callable[[], bool], minutes: int = 120) -> None:
        """Let everybody act until the condition holds."""
        end = self.now + timedelta(minutes=minutes)
        while not condition():
            assert self.now < end, f"never came true: {what}\n{json.dumps(self.end_state(), indent=1)[:6000]}"
            await self.turn()

    async def settle(self, seconds: int = 60) -> None:
        """Let time pass in which nothing but the operator's own afterthoughts happens."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            await self.turn()

    async def turn(self) -> None:
        """The operator works off what is due; then everybody else acts; where nobody did, time goes on."""
        try:
            worked = await self._work()
        except Crash:
            self.crashes += 1
            await self.boot()
            return
        acted = await self._cast.trainers() + await self._cast.deployments()
        if not worked and not acted:
            later = min(self._due.values(), default=self.now + timedelta(seconds=5))
            self.now = max(self.now + timedelta(seconds=1), min(later, self.now + timedelta(seconds=5)))

    async def _work(self) -> int:
        passes = 0
        while due := sorted(key for key, time in self._due.items() if time <= self.now):
            key = due[0]
            del self._due[key]
            try:
                requeue = await self._controller.reconcile(key)
            except OutsideError as error:
                if error.kind not in self.tolerated:
                    raise
                requeue = 1.0
            self._watch_weights()
            if requeue is not None:
                time = self.now + timedelta(seconds=max(requeue, 0.1))
                self._due[key] = min(self._due.get(key, time), time)
            passes += 1
            assert passes < MAX_PASSES, f"a hot loop over {key}"
        return passes

    def _image_of(self, revision: str) -> str:
        """The image that a revision on trial or in service was made with."""
        for expert in self.store.of("ExpertModel", self.namespace):
            status = expert.get("status") or {}
            for entry in (status.get("canary"), status.get("stable")):
                if entry and entry["revision"] == revision:
                    return str(entry["serving"]["image"])
        return ""

    def _watch_weights(self) -> None:
        """Write down how many pods each revision of each expert shall have, whenever that changes."""
        for expert in self.store.of("ExpertModel", self.namespace):
            name = expert["metadata"]["name"]
            pods: dict[str, int] = {}
            ready = 0
            for raw in self.store.of("Deployment", self.namespace):
                marks = raw["metadata"]["labels"]
                if marks.get(names.LABEL_MODEL) == name and names.LABEL_REVISION in marks:
                    pods[marks[names.LABEL_REVISION]] = raw["spec"]["replicas"]
                    ready += min(raw["spec"]["replicas"], (raw.get("status") or {}).get("readyReplicas", 0))
            seen = self.weights.setdefault(name, [])
            state = tuple(sorted(item for item in pods.items() if item[1]))
            if state and (not seen or seen[-1] != state):
                seen.append(state)
            if (expert.get("status") or {}).get("stable") and ready < expert["spec"]["serving"]["replicas"]:
                self.dip.append(f"{name}: {ready} ready of {pods}")

    def end_state(self) -> Object:
        """Everything that should not depend on when the operator ran: names, numbers, verdicts, replicas."""
        state: Object = {"jobs": sorted(raw["metadata"]["name"] for raw in self.store.of("Job", self.namespace))}
        for kind in ("FoundationModel", "ExpertModel", "ModelVersion"):
            for raw in self.store.of(kind, self.namespace):
                state[f"{kind}/{raw['metadata']['name']}"] = timeless(raw.get("status") or {})
        for raw in self.store.of("Deployment", self.namespace):
            state[f"Deployment/{raw['metadata']['name']}"] = raw["spec"]["replicas"]
        servers = [
            raw["metadata"]["name"]
            for raw in self.store.of("Service", self.namespace)
            if not raw["metadata"]["labels"][names.LABEL_KIND].endswith("-trainer")
        ]
        return {**state, "services": sorted(servers)}


TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UIDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def timeless(value: Any) -> Any:
    """A status without instants, UIDs, windows of time and namespaces."""
    text = UIDS.sub("<uid>", TIMES.sub("<time>", json.dumps(value, sort_keys=True)))
    text = re.sub(r"\[\d+s\]", "[<window>]", re.sub(r"test-\d+-\d+(-\d+)?", "<namespace>", text))
    return json.loads(re.sub(r"\b\d+ s\b", "<window>", text))
