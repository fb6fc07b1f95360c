"""How much of the bare model's rate the servers keep, and what is left of it when twice as much is asked.

Servers of random weights, of the demo's sizes, are real processes pinned to one core; the client has the other. The
bare loop calls the same engines on the same requests in a process of its own on the servers' core, one at a time and
in batches of eight. The highest rate is that of a closed loop at which 99 % of answers take no longer than 50 ms. Then
requests leave at twice that rate, however long answers take. Pinned, so it needs two cores and nothing beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from recast_api import names
from recast_api.manifest import MANIFEST, Manifest, describe_files
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact

SERVER_CORE, CLIENT_CORE = 0, 1
SLO_MS = 50
CANDIDATES = 32
USERS, ITEMS, CONTENT = 500, 5000, 16
HISTORY, EXPERT_HISTORY = 64, 16
SURFACES, TASKS = ("feed", "reels"), ("click", "like")
NOW = 1_767_225_600_000
INSTANT = "2026-01-01T00:00:00Z"


def land(root: Path) -> tuple[ServedArtifact, ServedArtifact, FoundationPin]:
    """A foundation, an expert trained with it, and its pin: the demo's sizes, random weights."""
    import torch

    from recast_model.artifact import save_model
    from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
    from recast_model.expert import ExpertModel
    from recast_model.foundation import FoundationModel
    from recast_model.history import History
    from recast_model.items import ItemTable
    from recast_model.snapshot import HistorySnapshot

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    items = ItemTable(np.arange(ITEMS), rng.normal(size=(ITEMS, CONTENT)).astype(np.float32))
    count = USERS * HISTORY
    times = np.tile(NOW - 1000 * np.arange(HISTORY, 0, -1), USERS)
    events = History(rng.integers(1, ITEMS, count), rng.integers(0, 2, count), rng.integers(0, 4, count), times, times)
    past = HistorySnapshot(np.arange(USERS), np.arange(USERS + 1) * HISTORY, events, NOW)
    content = torch.from_numpy(items.content_matrix())
    shared: dict[str, Any] = {"tae_dim": 16, "content_dim": CONTENT, "item_count": ITEMS, "surfaces": SURFACES}

    def save(network: Any, **fields: Any) -> Manifest:
        folder = root / fields["kind"]
        folder.mkdir()
        manifest = Manifest(
            uid="u", created=INSTANT, watermark=INSTANT, surfaces=list(SURFACES), tasks=list(TASKS), job_name="job",
            inputs_hash="h", number=1, lineage=1, config=network.config.to_dict(),
            files=describe_files(folder, save_model(folder, network.state_dict(), items, past)), **fields,
        )  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest.wire()))
        return manifest

    foundation = save(
        FoundationModel(
            FoundationConfig(
                block="DLRMv3", layers=2, dim=32, heads=2, history_length=HISTORY, attn_norm_len=HISTORY, tasks=TASKS,
                **shared,
            ),
            content,
        ),
        kind="FoundationModel", model="home-fm",
    )  # fmt: skip
    pin = FoundationPin(name="home-fm", version=1, lineage=1, digest=foundation.digest)
    expert = save(
        ExpertModel(
            ExpertConfig(
                layers=1, dim=16, heads=2, history_length=EXPERT_HISTORY, attn_norm_len=EXPERT_HISTORY,
                surface="reels", event_tasks=TASKS, tasks=(ExpertTask("click"), ExpertTask("like")), **shared,
            ),
            content,
        ),
        kind="ExpertModel", model="reels", foundation=pin,
    )  # fmt: skip
    first, second = (
        ServedArtifact(root=str(root), path=made.kind, version=1, lineage=1, digest=made.digest)
        for made in (foundation, expert)
    )
    return first, second, pin


def expert_config(artifact: ServedArtifact, pin: FoundationPin, port: int) -> ExpertServerConfig:
    """How the expert is served."""
    return ExpertServerConfig(
        namespace="bench", model="reels", surface="reels", revision="r1", artifact=artifact, foundation=pin,
        tasks=[Task(name="click"), Task(name="like")], foundation_address=f"127.0.0.1:{port}",
        slo_milliseconds=SLO_MS, foundation_deadline_milliseconds=SLO_MS, max_connection_age_seconds=3600,
    )  # fmt: skip


def question(number: int) -> dict[str, Any]:
    """The n-th request: every one another user and other candidates."""
    rng = np.random.default_rng(number % 1000)
    return {"user": number % USERS, "candidates": rng.integers(0, ITEMS, CANDIDATES).tolist(), "time": NOW}


def bare(root: Path, kind: str, batch: int, seconds: float) -> float:
    """Requests a second of the engine alone, in this process."""
    from recast_server.expert.engine import ExpertEngine
    from recast_server.expert.model_ranker import Embedded
    from recast_server.foundation.engine import FoundationEngine
    from recast_server.runtime.cpu import limit_threads
    from recast_server.runtime.inputs import Query

    limit_threads(1)
    manifest = Manifest.model_validate_json((root / kind / MANIFEST).read_text())
    asked = [Query(q["user"], "reels", NOW, q["candidates"]) for q in map(question, range(256))]
    engine: Any
    requests: list[Any]
    if kind == "FoundationModel":
        engine, requests = FoundationEngine(root / kind, manifest), list(asked)
    else:
        assert manifest.foundation is not None
        artifact = ServedArtifact(root=str(root), path=kind, version=1, lineage=1, digest=manifest.digest)
        engine = ExpertEngine(root / kind, manifest, expert_config(artifact, manifest.foundation, 1))
        tae = np.random.default_rng(0).normal(size=(CANDIDATES, 16)).astype(np.float16)
        requests = [Embedded(query, tae) for query in asked]
    done, begin = 0, time.monotonic()
    for place in range(0, 10**9, batch):
        engine.run([requests[(place + one) % len(requests)] for one in range(batch)])
        if place == 8 * batch:  # warm
            done, begin = 0, time.monotonic()
        done += batch
        if time.monotonic() - begin > seconds:
            break
    return done / (time.monotonic() - begin)


def bare_elsewhere(root: Path, kind: str, batch: int, seconds: float) -> float:
    """The same on the servers' core."""
    command = [sys.executable, __file__, "--bare", str(root), kind, str(batch), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=on_core(SERVER_CORE))
    return float(done.stdout)


def on_core(core: int) -> Any:
    """For ``preexec_fn``."""
    return lambda: os.sched_setaffinity(0, {core})


@dataclass
class Server:
    """A server's process and its ports."""

    process: subprocess.Popen[str]
    port: int
    admin_port: int

    def metric(self, name: str) -> float:
        """The sum over all series of that name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


@contextlib.contextmanager
def serving(config: FoundationServerConfig | ExpertServerConfig) -> Iterator[Server]:
    """A server that takes requests, on the servers' core."""
    environment = {**os.environ, names.SERVER_ENV: json.dumps(config.wire())}
    process = subprocess.Popen(
        [sys.executable, "-m", "recast_server", "--host", "127.0.0.1", "--port", "0", "--admin-port", "0",
         "--grpc-port", "0"],
        env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=on_core(SERVER_CORE),
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if '"event": "serving"' in line:
            break
    else:
        raise RuntimeError("".join(lines))
    said = json.loads(line)
    drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
    try:
        yield Server(process, said["port"], said["adminPort"])
    finally:
        process.terminate()
        process.wait(30)
        drain.wait(30)


class ExpertClient:
    """Kept-alive connections to an expert."""

    def __init__(self, port: int, fresh: bool = False) -> None:
        """With ``fresh`` answers without the foundation's embeddings are counted apart: an expert alone is quick."""
        self._port, self._fresh = port, fresh
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, number: int) -> bool | None:
        """Whether the n-th question got scores; None where they are without the embeddings that are wanted."""
        body = json.dumps(question(number)).encode()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None
        await reader.readexactly(int(found[1]))
        self._idle.append((reader, writer))
        if not head.startswith(b"HTTP/1.1 200"):
            return False
        return None if self._fresh and b"x-recast-tae: fresh" not in head else True


class FoundationClient:
    """What an expert does, and no more."""

    def __init__(self, port: int) -> None:
        from recast_server.proto import foundation_pb2 as wire
        from recast_server.proto.columns import pack_ids
        from recast_server.proto.foundation_pb2_grpc import FoundationStub

        self._wire, self._pack_ids = wire, pack_ids
        self._stub = FoundationStub(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

    async def ask(self, number: int) -> bool:
        """Whether the n-th question got embeddings."""
        q = question(number)
        request = self._wire.TaeRequest(
            user=q["user"], surface="reels", time_milliseconds=NOW, candidate_ids=self._pack_ids(q["candidates"])
        )
        try:
            reply = await self._stub.Tae(request, timeout=SLO_MS / 1000)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.rows == CANDIDATES)


@dataclass
class Load:
    """What came of some seconds of requests."""

    seconds: float
    good: list[float] = field(default_factory=list)  # seconds that good answers took
    refused: list[float] = field(default_factory=list)
    without: int = 0
    """Answers without embeddings where these are wanted."""

    def count(self, good: bool | None, seconds: float) -> None:
        """One answer that took so long."""
        if good is None:
            self.without += 1
        else:
            (self.good if good else self.refused).append(seconds)

    @property
    def rate(self) -> float:
        """Good answers a second that came in time."""
        return sum(taken <= SLO_MS / 1000 for taken in self.good) / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median of good answers."""
        return float(np.quantile(self.good, 0.5)) * 1000 if self.good else float("nan")

    @property
    def p99_ms(self) -> float:
        """Of good answers."""
        return float(np.quantile(self.good, 0.99)) * 1000 if self.good else float("inf")


async def closed(client: Any, clients: int, seconds: float) -> Load:
    """So many ask one after the other."""
    load, number = Load(seconds), iter(range(10**9))
    end = time.monotonic() + seconds

    async def one() -> None:
        while (begin := time.monotonic()) < end:
            good = await client.ask(next(number))
            load.count(good, time.monotonic() - begin)

    await asyncio.gather(*(one() for _ in range(clients)))
    return load


async def opened(client: Any, rate: float, seconds: float, patience: float | None = None) -> Load:
    """The n-th request leaves at n / rate; with ``patience`` seconds its client then hangs up."""
    load, begin, running = Load(seconds), time.monotonic(), set()

    async def one(number: int) -> None:
        sent = time.monotonic()
        with contextlib.suppress(TimeoutError):
            good = await asyncio.wait_for(client.ask(number), patience)
            load.count(good, time.monotonic() - sent)

    for number in range(int(rate * seconds)):
        delay = begin + number / rate - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*list(running), return_exceptions=True)
    return load


async def highest(client: Any, seconds: float) -> tuple[int, Load]:
    """The number of clients, of 1, 2, 4, ..., that get most good answers with p99 within the SLO, and what they got."""
    best = 1, await closed(client, 1, seconds)
    for clients in (2, 4, 8, 12, 16, 24, 32):
        load = await closed(client, clients, seconds)
        if load.p99_ms <= SLO_MS and load.rate > best[1].rate:
            best = clients, load
    return best


def batch_size(server: Server, before: tuple[float, float]) -> float:
    """Mean size of the batches since ``before``."""
    requests, batches = sizes(server)
    return (requests - before[0]) / max(1.0, batches - before[1])


def sizes(server: Server) -> tuple[float, float]:
    """Requests that ran, and batches."""
    return server.metric("recast_batch_requests_sum"), server.metric("recast_batch_requests_count")


def say(text: str) -> None:
    """To stderr, at once."""
    print(text, file=sys.stderr, flush=True)


async def measure(root: Path, seconds: float) -> dict[str, Any]:
    """All figures."""
    first, second, pin = land(root)
    kinds = ("FoundationModel", "ExpertModel")
    alone = {(kind, batch): bare_elsewhere(root, kind, batch, seconds) for kind in kinds for batch in (1, 8)}
    for (kind, size), rate in alone.items():
        say(f"bare {kind:16} batches of {size}: {rate:8.0f} requests/s")

    def at(kind: str, batch: float) -> float:
        """Of the bare engine at a mean batch size, between the two that were measured."""
        one, eight = 1 / alone[kind, 1], 1 / alone[kind, 8]
        saved = (1 - 1 / batch) / (1 - 1 / 8)
        return 1 / (one + min(1.0, saved) * (eight - one))

    figures: dict[str, Any] = {f"bare_{kind}_{size}_rps": rate for (kind, size), rate in alone.items()}
    with serving(FoundationServerConfig(namespace="bench", model="home-fm", artifact=first)) as foundation:
        client: Any = FoundationClient(foundation.port)
        before = sizes(foundation)
        clients, load = await highest(client, seconds)
        batch = batch_size(foundation, before)
        figures |= {"foundation_rps": load.rate, "foundation_over_bare": load.rate / at(kinds[0], batch)}
        say(f"foundation: {load.rate:.0f} requests/s of {clients} clients, batches of {batch:.1f}")
        lonely = await closed(client, 1, seconds)
        figures["foundation_added_p50_ms"] = lonely.p50_ms - 1000 / alone[kinds[0], 1]
        with serving(expert_config(second, pin, foundation.port)) as expert:
            client = ExpertClient(expert.port, fresh=True)
            before, earlier = sizes(expert), sizes(foundation)
            clients, load = await highest(client, seconds)
            batches = batch_size(foundation, earlier), batch_size(expert, before)
            pair = 1 / sum(1 / at(kind, size) for kind, size in zip(kinds, batches, strict=True))
            figures |= {"pair_rps": load.rate, "pair_over_bare": load.rate / pair}
            say(f"pair: {load.rate:.0f} requests/s of {clients} clients, batches of {batches[0]:.1f}, {batches[1]:.1f}")
            lonely = await closed(client, 1, seconds)
            whole = 1000 / alone[kinds[0], 1] + 1000 / alone[kinds[1], 1]
            figures["hop_added_p50_ms"] = (lonely.p50_ms - whole) / 2
            peak = load.rate
            rss = resident(expert)
            for name, patience in (("goodput_200_over_peak", None), ("goodput_200_impatient_over_peak", 0.1)):
                over = await opened(client, 2 * peak, 3 * seconds, patience)
                figures[name] = over.rate / peak
                figures[name.replace("_over_peak", "_absent_over_peak")] = over.without / over.seconds / peak
                if patience is None:
                    figures["refusal_p99_ms"] = float(np.quantile(over.refused or [0], 0.99)) * 1000
                    figures["refusals_per_second"] = len(over.refused) / over.seconds
                    figures["goodput_200_p99_ms"] = over.p99_ms
                refused, absent = (count / over.seconds for count in (len(over.refused), over.without))
                say(f"at 200 %: {over.rate:.0f} good/s, {absent:.0f} without embeddings/s, {refused:.0f} refused/s")
            figures["rss_200_over_before"] = resident(expert) / rss
    with serving(expert_config(second, pin, 9)) as expert:  # nobody listens there: at once no embeddings
        before = sizes(expert)
        clients, load = await highest(ExpertClient(expert.port), seconds)
        batch = batch_size(expert, before)
        figures |= {"expert_rps": load.rate, "expert_over_bare": load.rate / at(kinds[1], batch)}
        say(f"expert: {load.rate:.0f} requests/s of {clients} clients, batches of {batch:.1f}")
    return figures


def reuse(folder: Path, seconds: float) -> dict[str, float]:
    """``reuse_over_flop_ratio`` by events of history, on the servers' core; see ``bench_reuse.py``."""
    file = folder / "reuse.json"
    script = Path(__file__).with_name("bench_reuse.py")
    command = [sys.executable, str(script), "--threads", "1", "--seconds", str(2 * seconds), "--json", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=on_core(SERVER_CORE))
    found: dict[str, float] = json.loads(file.read_text())["reuse_over_flop_ratio"]
    return found


def resident(server: Server) -> float:
    """Bytes."""
    return server.metric("process_resident_memory_bytes")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures, or write them to ``--json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.bare:
        root, kind, batch, seconds = options.bare
        print(bare(Path(root), kind, int(batch), float(seconds)))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "ERROR"}
    os.sched_setaffinity(0, {CLIENT_CORE})
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), options.seconds))
        figures["reuse_over_flop_ratio"] = reuse(Path(folder), options.seconds)
    for name, value in figures.items():
        for size, one in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"{f'{name} {size}'.strip():34}{one:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
