"""Health, the CPU count, the configuration and the generated protocol."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from prometheus_client import CollectorRegistry
from server_builders import LandedPair, a_scheduler, land_pair

from recast_api.run import RecastError
from recast_api.server import ExpertServerConfig
from recast_server.main import main, read_config, verify
from recast_server.proto import foundation_pb2, open_inference_pb2
from recast_server.proto.generate import OPEN_INFERENCE, PROTO, SERVER
from recast_server.runtime.cpu import model_threads
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.process import allow_files
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import Scheduler


def test_only_a_serving_pod_is_ready_and_only_a_started_one_can_be_stuck() -> None:
    scheduler = a_scheduler()
    health = Health(scheduler)
    seen = {}
    for phase in Phase:
        health.phase = phase
        seen[phase] = (health.started, health.ready, health.draining, health.live)
    assert seen == {
        Phase.STARTING: (False, False, False, True),
        Phase.SERVING: (True, True, False, True),
        Phase.DRAINING: (True, False, True, True),
    }
    scheduler.close()


def test_a_pod_whose_model_thread_is_not_there_is_neither_ready_nor_live_once_it_serves() -> None:
    health = Health(Scheduler(1, QueueMetrics(CollectorRegistry())))  # its thread never runs
    assert (health.ready, health.live) == (False, True)
    health.phase = Phase.SERVING
    assert (health.ready, health.live) == (False, False)


async def test_liveness_fails_for_a_thread_that_is_stuck_after_start_up() -> None:
    scheduler = a_scheduler()
    health = Health(scheduler)
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(30)

    held = asyncio.create_task(scheduler.run_exclusively(hold))
    await asyncio.to_thread(begun.wait, 30)
    assert scheduler.alive(60)
    assert not scheduler.alive(0)
    release.set()
    await held
    health.phase = Phase.SERVING
    assert health.live
    scheduler.close()
    assert not health.live


@pytest.mark.parametrize(
    ("quota", "cpus", "threads"),
    [
        ("400000 100000", 8, 3),
        ("400000 100000", 2, 1),
        ("290000 100000", 8, 1),
        ("50000 100000", 8, 1),
        ("max 100000", 64, 1),
    ],
)
def test_the_model_has_the_cpu_limit_less_one_and_one_thread_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: int, threads: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    assert model_threads(tmp_path, {}) == threads
    assert model_threads(tmp_path, {"OMP_NUM_THREADS": "6"}) == 6


@pytest.mark.parametrize("asked", ["", "0", "-1", "4,2", "many", "1.5"])
def test_a_count_of_threads_that_is_none_is_refused(tmp_path: Path, asked: str) -> None:
    with pytest.raises(RecastError, match="OMP_NUM_THREADS") as raised:
        model_threads(tmp_path, {"OMP_NUM_THREADS": asked})
    assert raised.value.termination.reason == "InvalidConfig"


@pytest.mark.parametrize(
    ("limits", "raised"),
    [((1024, 524_288), (8192, 524_288)), ((1024, 4096), (4096, 4096)), ((100_000, 524_288), (100_000, 524_288)),
     ((1024, -1), (8192, -1)), ((-1, -1), None)],
)  # fmt: skip
def test_a_server_may_open_as_many_files_as_it_allows_connections(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, values: seen.append(values))
    allow_files(8192)
    assert seen == ([] if raised is None else [raised])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LandedPair:
    return land_pair(tmp_path_factory.mktemp("pair"))


def changed(pair: LandedPair, **changes: Any) -> ExpertServerConfig:
    return pair.served(artifact=pair.served().artifact.model_copy(update=changes))


def test_the_configured_artefact_is_verified_as_a_pair(pair: LandedPair) -> None:
    assert verify(pair.served()) == pair.expert_manifest


@pytest.mark.parametrize("change", [{"version": 8}, {"lineage": 8}], ids=["version", "lineage"])
def test_an_artefact_that_is_another_than_configured_is_refused(pair: LandedPair, change: dict[str, int]) -> None:
    with pytest.raises(RecastError, match="holds ExpertModel reels v7") as raised:
        verify(changed(pair, **change))
    assert raised.value.termination.reason == "ArtifactMismatch"


def test_an_expert_serves_only_with_the_foundation_it_was_trained_with(pair: LandedPair) -> None:
    other = pair.served().foundation.model_copy(update={"digest": "sha256:" + "cd" * 32})
    with pytest.raises(RecastError, match=r"was trained with home-fm v3 .* but is configured to read") as raised:
        verify(pair.served(foundation=other))
    assert raised.value.termination.reason == "PairMismatch"


@pytest.mark.parametrize("there", [True, False], ids=["in a pod", "outside"])
def test_a_server_that_must_not_start_says_why_where_the_kubelet_made_a_place_for_it(
    pair: LandedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    log = tmp_path / "termination-log"
    if there:
        log.touch()
    config = changed(pair, digest="sha256:" + "cd" * 32)
    monkeypatch.setenv("RECAST_SERVER", config.model_dump_json(by_alias=True, exclude_none=True))
    assert main(["--check"], termination_log=log) == 1
    assert log.exists() is there
    if there:
        assert json.loads(log.read_text())["reason"] == "DigestMismatch"


@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "RECAST_SERVER"), ("{", "JSON"), ('{"kind": "Other"}', "kind"), ('{"kind": "ExpertModel"}', "revision")],
)
def test_a_wrong_configuration_is_told_by_field(text: str | None, named: str) -> None:
    with pytest.raises(RecastError) as raised:
        read_config(text)
    assert raised.value.termination.reason == "InvalidConfig"
    assert named in str(raised.value)


def test_a_server_without_configuration_ends_with_a_termination_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RECAST_SERVER", raising=False)
    assert main([]) == 1
    assert json.loads(capfd.readouterr().err.splitlines()[-1])["reason"] == "InvalidConfig"


@pytest.mark.parametrize(
    ("proto", "generated"), [(PROTO, foundation_pb2), (OPEN_INFERENCE, open_inference_pb2)], ids=["own", "open"]
)
def test_the_generated_protocol_is_that_of_the_proto_file(tmp_path: Path, proto: str, generated: Any) -> None:
    out = tmp_path / "set.pb"
    assert protoc.main(["protoc", f"-I{SERVER}", f"--descriptor_set_out={out}", proto]) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    checked_in = descriptor_pb2.FileDescriptorProto()
    generated.DESCRIPTOR.CopyToProto(checked_in)
    messages = list(fresh.message_type)
    for message in messages:
        messages.extend(message.nested_type)
        for entry in message.field:
            entry.ClearField("json_name")  # protoc writes it, the generated module leaves it out
    assert checked_in == fresh, "run python -m recast_server.proto.generate"
