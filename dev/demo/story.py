"""The steps of the demo, in the order in which a team would meet them, and what must be true after each.

Every step is ``kubectl apply`` on a file of ``examples/`` and a wait on the watched state. A wait that runs out ends
the demo; a check that fails is noted, and the demo goes on, so that one run shows everything that is wrong.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dev.demo import facts, install, pods, reconcile, show
from dev.demo.live import Live
from dev.demo.questions import Question
from dev.demo.scenario import Scenario
from dev.demo.screen import Screen
from dev.demo.target import RELEASE, STATE, SYSTEM_NAMESPACE, Cluster
from dev.demo.traffic import Counts, Traffic
from recast_api import names
from recast_cli.cluster import Cluster as Reader
from recast_cli.timeline import Line
from recast_cli.world import World

FRESH_TAE_MIN = 0.95
TRAFFIC_LINE_SECONDS = 20
SETTLE_SECONDS = 30
FAILURES = STATE / "failures.jsonl"
NOT_RETRIED_SECONDS = 8
_CLIENT = "traffic"

FIRST_VERSION, EXPERT_READY, REFRESHED, ROLLED_BACK, JUDGED, RETIRED = 300, 300, 600, 240, 300, 120


@dataclass(frozen=True)
class Check:
    """Something that the demo must show to be true."""

    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"  {'ok    ' if self.ok else 'FAILED'} {self.name}{': ' + self.detail if self.detail else ''}"


@dataclass
class Story:
    """One run, on one cluster."""

    cluster: Cluster
    scenario: Scenario
    live: Live
    screen: Screen
    questions: Mapping[str, list[Question]]
    watching_since: float = field(default_factory=time.monotonic)
    checks: list[Check] = field(default_factory=list)
    bad_revisions: set[str] = field(default_factory=set)
    _traffic: Traffic | None = None
    _last_traffic_line: float = 0.0

    def run(self) -> None:
        """All six steps. Raises :class:`dev.demo.live.WaitError` where one does not come about."""
        try:
            self.first_versions()
            self.served()
            self.second_foundation()
            self.bad_change()
            self.retired()
        finally:
            counts = self.stop_traffic()
        self.account(counts)

    @property
    def traffic(self) -> Traffic:
        """The client, started when it is first asked for."""
        if self._traffic is None:
            self._traffic = Traffic(client_command(self.cluster), self._on_traffic)
        return self._traffic

    def stop_traffic(self) -> Counts:
        """Send nothing more; the final counts."""
        return self._traffic.stop() if self._traffic else Counts()

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        """Note a check."""
        self.checks.append(Check(name, ok, detail))

    def apply(self, *files: str) -> None:
        """``kubectl apply`` of example files."""
        install.apply(self.cluster, self.scenario, *files)

    def wait(self, what: str, predicate: Callable[[World], bool], seconds: float) -> World:
        """The first watched state in which the predicate holds."""
        return self.live.wait(what, predicate, seconds)

    def first_versions(self) -> None:
        """1 and 2: the resources are applied; the foundation trains as a real Indexed Job of two workers and lands."""
        foundation = self.scenario.foundation
        self.apply(*self.scenario.first_files)
        self.wait(
            f"{foundation} v1 is accepted",
            lambda world: facts.accepted(world, "FoundationModel", foundation, 1),
            FIRST_VERSION,
        )
        found = facts.version(self.live.world, "FoundationModel", foundation, 1)
        assert found is not None
        job = found.spec.run.job_name if found.spec.run else names.job("FoundationModel", foundation, 1, 1)
        spec = self.cluster.get("job", job, "-n", self.cluster.namespace)["spec"]
        indexed = spec.get("completionMode") == "Indexed" and spec.get("completions") == 2
        self.check("the foundation trained as an Indexed Job of two workers", indexed, job)

    def served(self) -> None:
        """3: every expert trains, lands, is served; traffic to it begins the moment it serves."""
        waiting = {expert.name: expert for expert in self.scenario.experts}
        deadline = time.monotonic() + EXPERT_READY
        while waiting:
            world = self.wait(
                f"{', '.join(waiting)} serve a first version",
                lambda world: any(facts.serving(world, name) for name in waiting),
                deadline - time.monotonic(),
            )
            for name in [name for name in waiting if facts.serving(world, name)]:
                expert = waiting.pop(name)
                host = (
                    show.service_address(self.cluster, name)
                    if self.cluster.ours
                    else f"em-{name}.{self.cluster.namespace}.svc"
                )
                target = {"expert": name, "host": host, "port": 80, "rate": expert.rate}
                self.traffic.start({**target, "questions": self.questions[name]})

    def second_foundation(self) -> None:
        """4: a second lineage lands; every expert goes stale, refreshes in waves, and is promoted through a canary."""
        foundation, widest = self.scenario.foundation, 0
        self.apply(f"{foundation}-v2.yaml")

        def refreshed(world: World) -> bool:
            nonlocal widest
            model = world.foundation(foundation)
            widest = max(widest, len(model.status.wave.granted) if model else 0)
            return facts.current(world, foundation) == 2 and all(
                facts.settled(world, expert.name, 2) for expert in self.scenario.experts
            )

        self.wait(f"every expert serves on {foundation} v2", refreshed, REFRESHED)
        self.check("experts refreshed at most two at a time", 1 <= widest <= 2, f"{widest} at once")

    def bad_change(self) -> None:
        """5: an image that fails requests is rolled back and not tried again; a worse version is rejected."""
        pilot, foundation = self.scenario.pilot, self.scenario.foundation
        image = self.cluster.images["bad-server"]
        before = max(v.spec.number for v in self.live.world.versions_of("FoundationModel", foundation))
        self.apply(f"{pilot}-bad-image.yaml", f"{foundation}-worse.yaml")

        def rolled_back(world: World) -> bool:
            expert = world.expert(pilot)
            if expert and expert.status.canary and expert.status.canary.serving.image == image:
                self.bad_revisions.add(expert.status.canary.revision)
            return facts.failed_image(expert, image) is not None

        world = self.wait(f"{pilot}'s bad image is rolled back", rolled_back, ROLLED_BACK)
        failed = facts.failed_image(world.expert(pilot), image)
        assert failed is not None
        self.bad_revisions.add(failed.revision)
        result = next((entry for entry in failed.results if entry.verdict.value == "Failure"), None)
        measured = f"{result.metric.value} {result.value} {result.bound}" if result else failed.message
        self.check(
            "the bad image was rolled back; reason, query and value stand in status",
            result is not None and bool(result.query and result.value),
            f"{failed.reason}: {measured}",
        )
        self._not_retried(pilot, failed.revision)
        world = self.wait(
            f"a worse version of {foundation} is rejected",
            lambda world: facts.rejected(world, foundation, before) is not None,
            JUDGED,
        )
        verdict = facts.rejected(world, foundation, before)
        assert verdict is not None
        said = next(entry.message for entry in verdict.status.conditions if entry.type == "Accepted")
        self.check("the gate rejected the worse version", True, f"{verdict.metadata.name}: {said}")
        self.apply(f"{foundation}-v2.yaml")

    def _not_retried(self, pilot: str, revision: str) -> None:
        """The same YAML again, and once more after the good one in between: the revision stays remembered."""

        def retried(world: World) -> bool:
            expert = world.expert(pilot)
            return bool(expert and expert.status.canary and expert.status.canary.revision == revision)

        for file in (f"{pilot}-bad-image.yaml", f"{pilot}.yaml", f"{pilot}-bad-image.yaml"):
            self.apply(file)
            self.wait(
                f"the operator has seen {file}", lambda world: facts.observed(world.expert(pilot)), SETTLE_SECONDS
            )
        tried = self.live.becomes(retried, NOT_RETRIED_SECONDS)
        self.check("applying the same YAML again did not try it again", not tried, revision)
        self.apply(f"{pilot}.yaml")

    def retired(self) -> None:
        """6: no expert reads version 1 of the foundation any more, and its servers are gone."""
        foundation = self.scenario.foundation
        self.wait(f"{foundation} v1 is retired", lambda world: facts.retired(world, foundation, 1), RETIRED)
        self.check(f"{foundation} v1 is retired", True)
        self.wait(
            "every expert is at rest",
            lambda world: all(facts.settled(world, expert.name, 2) for expert in self.scenario.experts),
            SETTLE_SECONDS * 2,
        )

    def account(self, counts: Counts) -> None:
        """What the client saw, and whether the servers saw the same."""
        others = counts.failed() - counts.failed(self.bad_revisions)
        ids = [f"{f['id']} {f['outcome']}" for f in counts.failures if f["revision"] not in self.bad_revisions][:5]
        self.check(
            "no failed request outside of the bad revision", others == 0, f"{others} failed {'; '.join(ids)}".strip()
        )
        failed = counts.failed(self.bad_revisions)
        self.check("the bad revision failed requests, and the client saw its name", failed > 0, f"{failed} requests")
        self.check("every request of the schedule was sent", counts.not_sent == 0, f"{counts.not_sent} not sent")
        share = counts.fresh_share(self.bad_revisions)
        self.check(f"fresh TAE in at least {FRESH_TAE_MIN:.0%} of answers", share >= FRESH_TAE_MIN, f"{share:.2%}")
        differences = self._differences(counts)
        detail = f"{counts.ok() + counts.failed():,} requests" if not differences else "; ".join(map(str, differences))
        self.check("client and servers count the same requests", not differences, detail)
        self.screen.line(Line("traffic", counts.sentence(self.bad_revisions).removeprefix("traffic").strip(), "good"))

    def _differences(self, counts: Counts) -> list[reconcile.Difference]:
        """Compare until the last scrape is in, or the deadline is over."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            seconds = int(time.monotonic() - self.watching_since)  # no pod of an earlier run lived then
            answer = prometheus(self.cluster, reconcile.query(self.cluster.namespace, seconds))
            differences = reconcile.compare(counts, reconcile.server_totals(answer))
            if not differences or time.monotonic() > deadline:
                return differences
            time.sleep(1)

    def _on_traffic(self, counts: Counts) -> None:
        now = time.monotonic()
        if now - self._last_traffic_line >= TRAFFIC_LINE_SECONDS and counts.by:
            self._last_traffic_line = now
            text = counts.sentence(self.bad_revisions).removeprefix("traffic").strip()
            self.screen.line(Line("traffic", text))
            FAILURES.write_text("".join(json.dumps(failure) + "\n" for failure in counts.failures))


def client_command(cluster: Cluster) -> list[str]:
    """How to start the traffic client: here, where Services can be reached; else in a pod, with the same source."""
    path = Path(__file__).with_name("client.py")
    if cluster.ours:
        return [sys.executable, "-u", str(path)]
    kubectl = [cluster.kubectl, "--kubeconfig", str(cluster.kubeconfig), "run", _CLIENT, "-n", cluster.namespace]
    confined = ["--override-type=strategic", f"--overrides={json.dumps(pods.overrides(_CLIENT))}"]
    attached = [f"--image={cluster.images['server']}", "-i", "--rm", "--quiet", "--restart=Never", *confined]
    return [*kubectl, *attached, "--command", "--", "python", "-u", "-c", path.read_text()]


def prometheus(cluster: Cluster, query: str) -> dict[str, object]:
    """The JSON answer to an instant query, asked from the operator's pod: the URL is one that pods reach."""
    url = f"{cluster.prometheus_url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
    operator = ("exec", "-n", SYSTEM_NAMESPACE, f"deploy/{RELEASE}-operator")
    answer: dict[str, object] = json.loads(cluster.run(*operator, "--", "python", "-c", ask, url))
    return answer


def begin(cluster: Cluster, scenario: Scenario, questions: Mapping[str, list[Question]], screen: Screen) -> Story:
    """A run whose watch has begun."""
    live = Live(Reader.connect(str(cluster.kubeconfig), None, cluster.namespace), screen).start()
    return Story(cluster=cluster, scenario=scenario, live=live, screen=screen, questions=questions)
