"""A fleet of N experts on a real apiserver, under the real operator process: what one new foundation version costs.

All experts serve v1 of their foundation. Then a new major lands: all of them go stale, and refresh 32 at a time, each
with a training run and a canary. Everybody but the operator is played by :mod:`fleet_simulator`, on the same CPUs.

Run ``make bench``, or ``python tests/benchmarks/bench_fleet.py --experts 1000 --json out.json``. ``--operator-root``
measures another checkout's operator with the same fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("api", "operator"))]

from dev.cluster.controlplane import ControlPlane  # noqa: E402
from tests.benchmarks.fleet_simulator import Apiserver, FakePrometheus, Simulator  # noqa: E402

Object = dict[str, Any]
NAMESPACE = "fleet"
FOUNDATION = "home-fm"
SLOTS = 32
QUIET_SECONDS = 20
IDLE_SECONDS = 60
MODELS = f"/apis/recast.dev/v1alpha1/namespaces/{NAMESPACE}"
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
TASK = {"name": "click"}
TRAINING = {"image": "trainer:1", "resources": {}}


def foundation(rate: str) -> Object:
    """The FoundationModel; another learning rate makes a new major."""
    return {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "FoundationModel",
        "metadata": {"name": FOUNDATION},
        "spec": {
            "architecture": {"layers": 2, "dim": 32, "heads": 2, "historyLength": 64, "taeDim": 16},
            "storage": {"persistentVolumeClaim": {"claimName": "models"}},
            "data": {"persistentVolumeClaim": {"claimName": "data"}, "path": "stream"},
            "training": {**TRAINING, "learningRate": rate},
            "serving": {"image": "server:1", "replicas": 1},
            "fleet": {"pilots": [], "maxConcurrentRefreshes": SLOTS},
        },
    }


def expert(name: str) -> Object:
    """One ExpertModel: two pods, one step at half of the traffic, the three metrics."""
    return {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "ExpertModel",
        "metadata": {"name": name},
        "spec": {
            "foundationRef": {"name": FOUNDATION},
            "surface": "feed",
            "tasks": [TASK],
            "refresh": {"triggers": ["FoundationMajor"]},
            "training": TRAINING,
            "serving": {"image": "server:1", "replicas": 2},
            "rollout": {
                "steps": [{"setWeight": 50, "pause": "10s"}],
                "analysis": [
                    {"metric": "error-rate", "max": "0.05"},
                    {"metric": "slow-share", "maxOverStable": "0.25"},
                    {"metric": "fresh-tae-share", "min": "0.9"},
                ],
            },
        },
    }


def first_version(model: Object, pin: Object) -> Object:
    """The version that every expert serves at the beginning, landed by somebody else."""
    name, uid = model["metadata"]["name"], model["metadata"]["uid"]
    measured = {"surface": "feed", "task": "click", "rows": 5000, "positives": 800, "ne": "0.73", "calibration": "1.01"}
    return {
        "apiVersion": "recast.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"em-{name}-v1"},
        "spec": {
            "model": {"kind": "ExpertModel", "name": name, "uid": uid},
            "number": 1,
            "lineage": 1,
            "digest": "sha256:" + hashlib.sha256(name.encode()).hexdigest(),
            "path": f"em/{name}/v1",
            "watermark": "2026-01-03T00:00:00Z",
            "foundation": pin,
            "measurements": [measured],
        },
    }


@dataclass(frozen=True)
class Scrape:
    """The operator's metrics at one moment."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, match: Callable[[dict[str, str]], bool] = lambda labels: True) -> float:
        """The sum over all series of a name that match."""
        return sum(value for series, labels, value in self.samples if series == name and match(labels))

    def writes(self) -> float:
        """Requests that were to change something, events included."""
        return self.total("recast_operator_api_calls_total", lambda labels: labels["verb"] != "GET")

    def by_resource(self) -> dict[str, float]:
        """The same, by verb and resource; an operator that does not say which counts as one."""
        found: dict[str, float] = {}
        for series, labels, value in self.samples:
            if series == "recast_operator_api_calls_total" and labels["verb"] != "GET":
                key = f"{labels['verb']} {labels.get('resource', '')}"
                found[key] = found.get(key, 0.0) + value
        return found

    def status_writes(self) -> float:
        """Statuses of experts that were written."""
        return self.total("recast_operator_status_writes_total", lambda labels: labels["kind"] == "ExpertModel")

    def passes(self) -> float:
        """Passes that succeeded."""
        return self.total("recast_operator_reconcile_seconds_count", lambda labels: labels["result"] == "Success")


def quantile(before: Scrape, after: Scrape, kind: str, share: float) -> float:
    """A quantile of the passes between two scrapes, interpolated inside its bucket, in seconds."""
    counts: dict[float, float] = {}
    for sign, scrape in ((-1, before), (1, after)):
        for series, labels, value in scrape.samples:
            if series == "recast_operator_reconcile_seconds_bucket" and labels["kind"] == kind:
                edge = float(labels["le"].replace("+Inf", "inf"))
                counts[edge] = counts.get(edge, 0.0) + sign * value
    edges = sorted(counts)
    rank = share * (counts[edges[-1]] if edges else 0.0)
    low, below = 0.0, 0.0
    for edge in edges:
        if counts[edge] >= rank and counts[edge] > below:
            return low if edge == float("inf") else low + (edge - low) * (rank - below) / (counts[edge] - below)
        low, below = edge, counts[edge]
    return 0.0


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Operator:
    """The real process."""

    def __init__(self, root: Path, kubeconfig: Path, prometheus: str, log: Path) -> None:
        self._port = free_port()
        self._log = log
        command = [
            sys.executable, "-m", "recast_operator.entry", f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}",
            f"--metrics-port={self._port}", f"--prometheus-url={prometheus}",
        ]  # fmt: skip
        paths = os.pathsep.join(str(root / part) for part in ("api", "operator"))
        self.started = time.monotonic()
        self.peak_mb = 0.0
        with log.open("a") as stream:
            self._process = subprocess.Popen(command, stderr=stream, env={**os.environ, "PYTHONPATH": paths}, cwd="/")

    async def scrape(self) -> Scrape:
        """The metrics; empty while it does not answer yet."""
        assert self._process.poll() is None, f"the operator ended:\n{self._log.read_text()[-3000:]}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session,
                session.get(f"http://127.0.0.1:{self._port}/metrics") as response,
            ):
                text = await response.text()
        except aiohttp.ClientConnectionError:
            return Scrape(())
        return Scrape(
            tuple(
                (name, dict(LABEL.findall(labels)), float(value))
                for name, labels, value in SAMPLE.findall(text)
                if not name.startswith("python_")
            )
        )

    def memory_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Fleet:
    """What a watcher of the experts and the foundation sees."""

    def __init__(self, api: Apiserver) -> None:
        self._api = api
        self.reads: dict[str, int] = {}
        self.stale: set[str] = set()
        self.ever_stale: set[str] = set()
        self.changed = asyncio.Event()

    async def watch(self) -> None:
        async for _, raw in self._api.follow(f"{MODELS}/expertmodels"):
            name, status = raw["metadata"]["name"], raw.get("status") or {}
            stable = status.get("stable") or {}
            self.reads[name] = (stable.get("foundation") or {}).get("version", 0)
            conditions = {item["type"]: item["status"] for item in status.get("conditions") or []}
            if conditions.get("Stale") == "True":
                self.stale.add(name)
                self.ever_stale.add(name)
            else:
                self.stale.discard(name)
            self.changed.set()

    def on(self, version: int) -> int:
        """How many experts serve with this version of the foundation and are not stale."""
        return sum(1 for name, read in self.reads.items() if read == version and name not in self.stale)

    async def until(
        self, what: str, condition: Callable[[], bool], seconds: float, progress: Callable[[], str]
    ) -> float:
        """Wait; when the condition came true. Raises :class:`TimeoutError`."""
        end, told = time.monotonic() + seconds, time.monotonic()
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"never came true: {what} ({progress()})")
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"  {what}: {progress()}", flush=True)
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), 0.5)
            except TimeoutError:
                continue
        return time.monotonic()


class Bench:
    """One run. ``figures`` fills up as it goes."""

    def __init__(self, options: argparse.Namespace, plane: ControlPlane) -> None:
        self._options = options
        self._count: int = options.experts
        self._plane = plane
        self._api = Apiserver(plane.server, plane.path / "pki")
        self._fleet = Fleet(self._api)
        self._prometheus = FakePrometheus()
        self._landed: dict[str, float] = {}
        self._simulator = Simulator(self._api, NAMESPACE, self._note_landed)
        self.figures: dict[str, float | None] = {"experts": self._count}
        self.others: dict[str, float] = {}

    def _note_landed(self, version: Object) -> None:
        self._landed[version["metadata"]["name"]] = time.monotonic()

    async def run(self) -> None:
        await self._install()
        await self._prometheus.start()
        self._simulator.start()
        watching = asyncio.create_task(self._fleet.watch())
        operator = self._operator()
        memory = asyncio.create_task(self._sample_memory(operator))
        try:
            await self._fill(operator)
            await self._new_major(operator)
            await self._idle(operator)
            memory.cancel()
            operator.stop()
            operator = self._operator()
            await self._restart(operator)
        finally:
            memory.cancel()
            watching.cancel()
            operator.stop()
            await asyncio.gather(memory, watching, return_exceptions=True)
            await self._simulator.close()
            await self._prometheus.close()
            await self._api.close()

    def _operator(self) -> Operator:
        log = Path(self._options.log or self._plane.path / "operator.log")
        return Operator(self._options.operator_root, self._plane.kubeconfig, self._prometheus.url, log)

    async def _sample_memory(self, operator: Operator) -> None:
        while True:
            operator.peak_mb = max(operator.peak_mb, operator.memory_mb())
            await asyncio.sleep(0.5)

    async def _install(self) -> None:
        for path in sorted((self._options.operator_root / "crds").glob("*.yaml")):
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
            await self._api.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
            plural = body["spec"]["names"]["plural"]
            served: dict[str, Any] = {}
            while not served:
                await asyncio.sleep(0.1)
                served = await self._api.send("GET", f"/apis/recast.dev/v1alpha1/{plural}")
        await self._api.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    async def _fill(self, operator: Operator) -> None:
        """The foundation trains its first version; the experts' first ones come from elsewhere."""
        await self._api.send("POST", f"{MODELS}/foundationmodels", foundation("0.01"))
        current: Object = {}
        while not current:
            raw = await self._api.send("GET", f"{MODELS}/foundationmodels/{FOUNDATION}")
            current = (raw.get("status") or {}).get("current") or {}
            await asyncio.sleep(0.1)
        pin = {"name": FOUNDATION, **{key: current[key] for key in ("version", "lineage", "digest")}}
        limit = asyncio.Semaphore(16)

        async def make(number: int) -> None:
            async with limit:
                made = await self._api.send("POST", f"{MODELS}/expertmodels", expert(f"expert-{number:04}"))
                await self._api.send("POST", f"{MODELS}/modelversions", first_version(made, pin))

        began = time.monotonic()
        await asyncio.gather(*(make(number) for number in range(self._count)))
        await self._fleet.until(
            "all serve v1",
            lambda: self._fleet.on(1) == self._count,
            self._options.patience,
            lambda: f"{self._fleet.on(1)} of {self._count}",
        )
        self.others["fill_s"] = time.monotonic() - began
        await self._quiet(operator)

    async def _quiet(self, operator: Operator) -> None:
        """Wait until nothing is written for longer than the grace of a lineage that nobody reads."""
        end, before = time.monotonic() + 240, -1.0
        while (after := (await operator.scrape()).writes()) != before and time.monotonic() < end:
            before = after
            await asyncio.sleep(QUIET_SECONDS)

    async def _new_major(self, operator: Operator) -> None:
        before, cpu, events = await operator.scrape(), operator.cpu_seconds(), await self._events()
        self._fleet.ever_stale.clear()
        patch = {"spec": {"training": {"learningRate": "0.02"}}}
        await self._api.send("PATCH", f"{MODELS}/foundationmodels/{FOUNDATION}", patch, "application/merge-patch+json")
        all_stale = await self._fleet.until(
            "all stale",
            lambda: len(self._fleet.ever_stale) == self._count,
            self._options.patience,
            lambda: f"{len(self._fleet.ever_stale)} of {self._count}",
        )
        landed = self._landed[f"fm-{FOUNDATION}-v2"]
        self.figures["all_stale_s"] = round(all_stale - landed, 2)
        self.others["stale_cpu_s"] = operator.cpu_seconds() - cpu
        try:
            done = await self._fleet.until(
                "all refreshed",
                lambda: self._fleet.on(2) == self._count,
                self._options.patience,
                lambda: f"{self._fleet.on(2)} of {self._count}",
            )
            self.figures["wave_s"] = round(done - landed, 1)
        except TimeoutError as error:
            print(f"  {error}: figures are for those that were refreshed")
            self.figures["wave_s"] = None
        refreshed = max(1, self._fleet.on(2))
        after, posted = await operator.scrape(), await self._events() - events
        self.others["refreshed"] = refreshed
        earlier = before.by_resource()
        for key, count in sorted(after.by_resource().items()):
            self.others[f"per expert: {key}"] = (count - earlier.get(key, 0.0)) / refreshed
        self.others["wave_cpu_s"] = operator.cpu_seconds() - cpu
        self.others["prometheus_queries_per_expert"] = self._prometheus.queries / refreshed
        self.others["foundation_pass_p99_ms"] = 1000 * quantile(before, after, "FoundationModel", 0.99)
        self.others["expert_pass_p50_ms"] = 1000 * quantile(before, after, "ExpertModel", 0.5)
        passes = after.passes() - before.passes()
        self.others["passes_per_expert"] = passes / refreshed
        self.others["cpu_ms_per_pass"] = 1000 * self.others["wave_cpu_s"] / max(1.0, passes)
        self.figures["expert_pass_p99_ms"] = round(1000 * quantile(before, after, "ExpertModel", 0.99), 1)
        self.figures["status_writes_per_expert"] = round(
            (after.status_writes() - before.status_writes()) / refreshed, 2
        )
        self.figures["api_writes_per_expert"] = round((after.writes() - before.writes() - posted) / refreshed, 2)
        self.figures["events_per_expert"] = round(posted / refreshed, 2)

    async def _events(self) -> int:
        path = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
        found = await self._api.send("GET", path, limit="1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    async def _idle(self, operator: Operator) -> None:
        if self.figures["wave_s"] is not None:
            await self._quiet(operator)
            before, cpu = (await operator.scrape()).writes(), operator.cpu_seconds()
            await asyncio.sleep(IDLE_SECONDS)
            self.figures["idle_writes"] = int((await operator.scrape()).writes() - before)
            self.others["idle_cpu_s"] = operator.cpu_seconds() - cpu
        else:
            self.figures["idle_writes"] = None
        self.figures["rss_mb"] = round(operator.peak_mb, 1)
        self.others["rss_idle_mb"] = operator.memory_mb()

    async def _restart(self, operator: Operator) -> None:
        """From the start of the process until every model has had its pass."""
        end = time.monotonic() + self._options.patience
        while (await operator.scrape()).passes() < self._count + 1:
            if time.monotonic() > end:
                self.figures["restart_s"] = None
                return
            await asyncio.sleep(0.1)
        self.figures["restart_s"] = round(time.monotonic() - operator.started, 2)
        self.others["restart_rss_mb"] = operator.memory_mb()


KEYS = (
    "experts", "all_stale_s", "rss_mb", "expert_pass_p99_ms", "status_writes_per_expert", "api_writes_per_expert",
    "events_per_expert", "idle_writes", "restart_s", "wave_s",
)  # fmt: skip
GOALS = {
    "all_stale_s": 5.0, "rss_mb": 150.0, "expert_pass_p99_ms": 50.0, "api_writes_per_expert": 12.0,
    "events_per_expert": 12.0, "idle_writes": 0.0,
}  # fmt: skip


def table(figures: dict[str, float | None], others: dict[str, float]) -> str:
    """All figures; goals are for 1,000 experts on two cores."""
    lines = [f"{'figure':34}{'measured':>12}{'goal at 1,000':>16}"]
    for key in KEYS:
        value, goal = figures.get(key), GOALS.get(key)
        measured = "-" if value is None else f"{value:g}"
        lines.append(f"{key:34}{measured:>12}{'' if goal is None else f'{goal:g}':>16}")
    lines += [f"{key:34}{value:12.2f}" for key, value in others.items()]
    return "\n".join(lines)


async def measure(options: argparse.Namespace, plane: ControlPlane) -> None:
    """Run, and say what was found out, also where the run was cut off."""
    bench = Bench(options, plane)
    try:
        await bench.run()
    finally:
        print(table(bench.figures, bench.others), flush=True)
        if options.json:
            options.json.write_text(json.dumps({key: bench.figures.get(key) for key in KEYS}) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experts", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures as one JSON object")
    parser.add_argument("--operator-root", type=Path, default=ROOT, help="checkout whose operator is measured")
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds after which a phase is given up")
    parser.add_argument("--log", type=Path, help="keep the operator's log here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started goes on
    with ControlPlane() as plane:
        asyncio.run(measure(options, plane))


if __name__ == "__main__":
    main()
