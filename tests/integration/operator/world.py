"""A namespace on a real apiserver in which a test plays everyone but the operator.

Everybody else is played by :mod:`cast`, and time is a number that the test moves. The operator's own parts are the real
ones, without kopf: what it writes goes to the apiserver through :mod:`recorder`, which can cut the operator down at any
write; everybody else sees the cluster through a :mod:`mirror`. After a crash everything of the operator is made anew,
and it lists the cluster as it does at a start.
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
from recast_operator.adapters.kube import APPLY, BY_KIND, Kube, Request, Requester
from recast_operator.adapters.torchx import Launcher
from recast_operator.controller import Answers, Controller
from recast_operator.events import EventQueue
from recast_operator.fleet import Fleet
from recast_operator.keys import Key
from recast_operator.listing import Listing
from recast_operator.metrics import Metrics
from recast_operator.observe import Observer
from recast_operator.parsing import Parser
from recast_operator.store import Doubts, Store
from recast_operator.wakeups import Wakeups
from recast_operator.writes import Outside
from tests.integration.operator.cast import Cast, Traffic
from tests.integration.operator.mirror import Mirror
from tests.integration.operator.recorder import Crash, Point, Recorder

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Object = dict[str, Any]
MAX_PASSES = 200


class World:
    """One namespace, its operator, and everybody else."""

    def __init__(self, requester: Requester, namespace: str, cuts: frozenset[Point] = frozenset()) -> None:
        self.namespace = namespace
        self.mirror = Mirror()
        self.kube = Kube(requester)  # everybody else's line: never cut
        self.recorder = Recorder(requester, namespace, cuts, self.mirror)
        self.now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
        self.crashes = 0
        self.traffic = Traffic(self._image_of)
        self.traffic.set_share("bad-server", MetricName.ERROR_RATE, 0.2)
        self.prometheus: Answers = self.traffic
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
        parser, fleet, metrics = Parser(), Fleet(), Metrics()
        self.store = Store(Wakeups(parser, fleet, self._wake).changed)
        self.mirror.put_there, self.mirror.remove_there = self.store.put, self.store.remove
        self._cast = Cast(self.kube, self.namespace, self.mirror, lambda: self.now, self.worse)
        operator = Kube(self.recorder)
        self._launcher = Launcher(self.recorder)
        self._events = EventQueue(operator, metrics, lambda: self.now)
        self._observer = Observer(self.store, parser, fleet)
        self._outside = Outside(self.store, Doubts(), operator, self._launcher, metrics)
        self._controller = self._make_controller()
        await Listing(operator, self.store, (self.namespace,)).everything()

    def _make_controller(self) -> Controller:
        return Controller(self._observer, self._outside, self.prometheus, self._events, clock=lambda: self.now)

    def close(self) -> None:
        if self._launcher is not None:
            self._launcher.close()

    def interrupt(self, prometheus: Answers) -> None:
        """Let another Prometheus answer from now on."""
        self.prometheus = prometheus
        self._controller = self._make_controller()

    def handled(self, expert: str) -> list[str]:
        """Ids of the requests that an expert has acted on."""
        found: list[str] = (self.model("ExpertModel", expert).get("status") or {}).get("handledRequests") or []
        return found

    def _wake(self, key: Key) -> None:
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
                self.mirror.put(resource.kind, made)

    def model(self, kind: str, name: str) -> Object:
        """A model as last known."""
        raw = self.mirror.get(kind, name)
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
            await self._events.drain()
            self._watch_weights()
            if requeue is not None:
                time = self.now + timedelta(seconds=max(requeue, 0.1))
                self._due[key] = min(self._due.get(key, time), time)
            passes += 1
            assert passes < MAX_PASSES, f"a hot loop over {key}"
        return passes

    def _image_of(self, revision: str) -> str:
        """The image that a revision on trial or in service was made with."""
        for expert in self.mirror.of("ExpertModel"):
            status = expert.get("status") or {}
            for entry in (status.get("canary"), status.get("stable")):
                if entry and entry["revision"] == revision:
                    return str(entry["serving"]["image"])
        return ""

    def _watch_weights(self) -> None:
        """Write down how many pods each revision of each expert shall have, whenever that changes."""
        for expert in self.mirror.of("ExpertModel"):
            name = expert["metadata"]["name"]
            pods: dict[str, int] = {}
            ready = 0
            for raw in self.mirror.of("Deployment"):
                marks = raw["metadata"]["labels"]
                if marks.get(names.LABEL_MODEL) == name and names.LABEL_REVISION in marks:
                    pods[marks[names.LABEL_REVISION]] = raw["spec"]["replicas"]
                    ready += min(raw["spec"]["replicas"], (raw.get("status") or {}).get("readyReplicas", 0))
            seen = self.weights.setdefault(name, [])
            state = tuple(sorted(item for item in pods.items() if item[1]))
            if state and (not seen or seen[-1] != state):
                seen.append(state)
            if ready < _pods_needed(expert):
                self.dip.append(f"{name}: {ready} ready of {pods}")

    def end_state(self) -> Object:
        """Everything that should not depend on when the operator ran: names, numbers, verdicts, replicas."""
        state: Object = {"jobs": sorted(raw["metadata"]["name"] for raw in self.mirror.of("Job"))}
        for kind in ("FoundationModel", "ExpertModel", "ModelVersion"):
            for raw in self.mirror.of(kind):
                state[f"{kind}/{raw['metadata']['name']}"] = timeless(raw.get("status") or {})
        for raw in self.mirror.of("Deployment"):
            state[f"Deployment/{raw['metadata']['name']}"] = raw["spec"]["replicas"]
        servers = [
            raw["metadata"]["name"]
            for raw in self.mirror.of("Service")
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


def _pods_needed(expert: Object) -> int:
    """Ready pods that the operator may not go below: all, and half of them while a revision leaves that has failed."""
    status, replicas = expert.get("status") or {}, int(expert["spec"]["serving"]["replicas"])
    if not status.get("stable"):
        return 0
    failed = any(entry.get("failed") for entry in status.get("retiring") or [])
    return -(-replicas // 2) if failed else replicas
