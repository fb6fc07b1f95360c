"""A controller with its memory, on a fake apiserver: passes are run by hand, watches speak when a test lets them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from recast_api import names
from recast_operator.adapters.errors import OutsideError
from recast_operator.adapters.kube import JOBS, Kube, Request
from recast_operator.controller import Controller
from recast_operator.events import EventQueue
from recast_operator.fleet import Fleet
from recast_operator.keys import Key
from recast_operator.metrics import Metrics
from recast_operator.observe import Observer
from recast_operator.parsing import Parser
from recast_operator.planning.plan import SubmitRun
from recast_operator.planning.rollout.questions import BAD, Answer, Question
from recast_operator.store import Doubts, Store
from recast_operator.wakeups import Wakeups
from recast_operator.writes import Outside
from tests.unit.operator.documents import expert, foundation, foundation_version, pin
from tests.unit.operator.fake_apiserver import FakeApiserver

Object = dict[str, Any]
REELS, HOME = Key("ExpertModel", "n", "reels"), Key("FoundationModel", "n", "home-fm")


class FakeLauncher:
    """Posts a bare Job."""

    def __init__(self, api: FakeApiserver) -> None:
        self._api = api

    async def submit(self, namespace: str, request: SubmitRun) -> str:
        run = request.run
        marks = {
            names.LABEL_KIND: "foundation-trainer" if run.kind == "FoundationModel" else "expert-trainer",
            names.LABEL_MODEL: run.model,
            names.LABEL_RUN: str(run.number),
            names.LABEL_ATTEMPT: str(run.attempt),
        }
        body = {"metadata": {"name": run.job_name, "labels": marks, "ownerReferences": [request.owner]}}
        await self._api.send(Request("POST", JOBS.path(namespace), body=body))
        return run.job_name


class FakePrometheus:
    """Prometheus: answers nothing bad, after ``during`` has been awaited."""

    def __init__(self) -> None:
        self.during: Callable[[], Awaitable[None]] | None = None
        self.asked = 0

    async def answers(self, questions: tuple[Question, ...], now: datetime) -> Mapping[Question, Answer]:
        self.asked += 1
        if self.during is not None:
            await self.during()
        return {question: Answer(0.0 if question.count in BAD.values() else 1000.0) for question in questions}


class Harness:
    """One namespace ``n``."""

    def __init__(self) -> None:
        self.api = FakeApiserver()
        self.now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
        self.woken: set[Key] = set()
        self.prometheus = FakePrometheus()
        self.metrics = Metrics()
        self.start()

    def start(self) -> None:
        """An operator that knows nothing yet."""
        parser, fleet, kube = Parser(), Fleet(), Kube(self.api)
        self.store = Store(Wakeups(parser, fleet, self.woken.add).changed)
        self.doubts = Doubts()
        self.events = EventQueue(kube, self.metrics, lambda: self.now, retry_seconds=0.0)
        self.controller = Controller(
            Observer(self.store, parser, fleet),
            Outside(self.store, self.doubts, kube, FakeLauncher(self.api), self.metrics),
            self.prometheus,
            self.events,
            lambda: self.now,
        )

    def seed(self, raw: Object) -> Object:
        """Somebody makes an object, and the watch says so."""
        metadata = {key: value for key, value in raw["metadata"].items() if key not in ("resourceVersion", "uid")}
        parts = {key: value for key, value in raw.items() if key in ("spec", "status")}
        made = self.api.seed(raw["kind"], "n", metadata.pop("name"), metadata=metadata, **parts)
        self.store.put(raw["kind"], made)
        return made

    def watch(self) -> None:
        """The watches say all there is to say."""
        listed: dict[str, list[str]] = {}
        for (kind, _, _), raw in list(self.api.objects.items()):
            if kind != "Event" and (raw["metadata"].get("labels") or {}).get("unwatched") is None:
                self.store.put(kind, raw)
                listed.setdefault(kind, []).append(raw["metadata"]["uid"])
        for kind in {kind for kind, _, _ in self.api.objects} | {"Deployment", "Service", "Job"}:
            self.store.complete(kind, listed.get(kind, []), "999999999")

    async def until_quiet(self, *keys: Key, passes: int = 30) -> list[str]:
        """Passes over the keys, with watches between them, until a round writes nothing; the errors on the way."""
        errors = []
        for _ in range(passes):
            before = len(self.api.writes())
            for key in keys:
                self.watch()
                try:
                    await self.controller.reconcile(key)
                except OutsideError as error:
                    errors.append(error.kind)
            self.now += timedelta(seconds=1)
            if len(self.api.writes()) == before and not (errors and errors[-1] in ("Conflict", "Transient")):
                return errors
            if len(self.api.writes()) == before:
                errors.append("quiet")
        raise AssertionError(f"never quiet: {self.api.log[-20:]}")

    def raw(self, key: Key) -> Object:
        """A model as the apiserver has it."""
        return self.api.objects[tuple(key)]

    def condition(self, key: Key, type_: str) -> Object:
        """One condition of a model; empty where it has none."""
        conditions = (self.raw(key).get("status") or {}).get("conditions") or []
        return next((item for item in conditions if item["type"] == type_), {})

    async def posted(self) -> list[str]:
        """Reasons of all events that reached the apiserver, in order."""
        await self.events.drain()
        found = [raw for (kind, _, _), raw in self.api.objects.items() if kind == "Event"]
        return [raw["reason"] for raw in sorted(found, key=lambda raw: int(raw["metadata"]["resourceVersion"]))]


def serving_pair() -> Harness:
    """A foundation whose v1 serves, and an expert whose v1 has just landed."""
    harness = Harness()
    home = harness.seed(foundation(suspend=True))
    lineage = {"lineage": 1, "version": 1, "replicas": 1, "readyReplicas": 1}
    ref = pin("home-fm", 1) | {"since": "2026-01-03T00:00:00Z"}
    ref.pop("name")

    def lead(raw: Object) -> None:
        raw["status"] = {"current": ref, "lineages": [lineage]}

    harness.api.change("FoundationModel", "n", "home-fm", lead)
    version = foundation_version(accepted=True)
    version["spec"]["model"]["uid"] = home["metadata"]["uid"]
    harness.seed(version)
    reels = harness.seed(expert(refresh={"triggers": ["FoundationMajor"]}, suspend=True))
    harness.seed(expert_version(reels, 1))
    harness.watch()
    return harness


def expert_version(model: Object, number: int) -> Object:
    """A version of an expert that reads the foundation's v1, landed by somebody else."""
    version = foundation_version(number=number)
    name = model["metadata"]["name"]
    measured = {"surface": "feed", "task": "click", "rows": 5000, "positives": 800, "ne": "0.73", "calibration": "1"}
    version["metadata"] |= {"name": f"em-{name}-v{number}", "uid": f"em-{name}-v{number}"}
    version["spec"] |= {
        "model": {"kind": "ExpertModel", "name": name, "uid": model["metadata"]["uid"]},
        "foundation": pin("home-fm", 1),
        "measurements": [measured],
    }
    return version
