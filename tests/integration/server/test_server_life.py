"""Starting, refusing to start, losing the foundation, ageing connections and leaving without a failed request."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.cluster.ports import held
from recast_api import names

REPOSITORY = Path(__file__).resolve().parents[3]
REQUEST = {"user": 3, "candidates": [1000, 1007, 1014, 5]}


def ask(url: str, client: httpx.Client | None = None) -> httpx.Response:
    return (client or httpx).post(f"{url}/v1/rank", json=REQUEST, timeout=30)


def refusal(process: Any) -> dict[str, Any]:
    """The termination message of a process that refused to start."""
    assert process.popen.wait(60) == 1
    last: dict[str, Any] = json.loads(process.text.splitlines()[-1])
    return last


def test_an_expert_refuses_a_foundation_that_is_not_its_pair_and_names_both(world: Any) -> None:
    other = world.start(world.foundation_config(world.other)).wait_serving()
    message = refusal(world.start(world.expert_config(other.port)))
    assert message["reason"] == "PairMismatch"
    for landed in (world.foundation, world.other):
        assert f"home-fm v{landed.manifest.number}" in message["message"]
        assert landed.manifest.digest in message["message"]


def test_an_expert_refuses_a_pin_that_it_was_not_trained_with(world: Any) -> None:
    message = refusal(world.start(world.expert_config(1, foundation=world.other.pin)))
    assert message["reason"] == "PairMismatch"
    assert "home-fm v1" in message["message"]
    assert "home-fm v2" in message["message"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_artefact_is_refused_by_file(world: Any, damage: str) -> None:
    copy = world.root / f"damaged-{damage}"
    shutil.copytree(world.foundation.folder, copy)
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(data[:-10] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    config = world.foundation_config(world.foundation)
    artifact = config.artifact.model_copy(update={"path": copy.name})
    message = refusal(world.start(config.model_copy(update={"artifact": artifact})))
    assert message["reason"] == ("DigestMismatch" if damage == "flipped" else "ArtifactTruncated")
    assert "model.safetensors" in message["message"]


def test_check_verifies_and_prints_the_pair(world: Any) -> None:
    process = world.start(world.expert_config(1), "--check")
    assert process.popen.wait(60) == 0
    assert world.foundation.manifest.digest in process.text
    assert world.expert.manifest.digest in process.text


def test_help_names_the_environment_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recast_server", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert names.SERVER_ENV in done.stdout


def test_a_foundation_killed_under_traffic_costs_no_request_and_is_counted(world: Any) -> None:
    foundation = world.start(world.foundation_config(world.foundation)).wait_serving()
    expert = world.start(world.expert_config(foundation.port)).wait_serving()
    with httpx.Client() as client:
        before = [ask(expert.url, client) for _ in range(10)]
        foundation.popen.kill()
        foundation.popen.wait(30)
        after = [ask(expert.url, client) for _ in range(10)]
        assert httpx.get(f"{expert.admin}/healthz/ready").status_code == 200
        again = world.start(
            world.foundation_config(world.foundation), "--port", str(foundation.port), "--admin-port", "0"
        ).wait_serving()
        back: list[httpx.Response] = []

        def fresh_again() -> bool:
            back.append(ask(expert.url, client))
            return bool(back[-1].json()["tae"] == "fresh")

        world.until(fresh_again)
    answers = [*before, *after, *back]
    assert {response.status_code for response in answers} == {200}
    assert {response.json()["tae"] for response in before} == {"fresh"}
    assert {response.headers["x-recast-tae"] for response in after} == {"cached"}  # the same user's of a moment ago
    assert again.popen.poll() is None
    cached = sum(response.json()["tae"] == "cached" for response in answers)
    assert expert.metric("recast_tae_total", state="cached") == cached >= 10
    assert expert.metric("recast_tae_total", state="fresh") == len(answers) - cached
    assert expert.metric("recast_requests_total", code="200") == len(answers)


async def test_under_load_a_server_leaves_without_a_failed_request(world: Any, pair: Any) -> None:
    expert = world.start(world.expert_config(pair.foundation.port)).wait_serving()
    enough, statuses, told = asyncio.Event(), [], 0

    async def kept_alive() -> None:
        """Asks on one connection until the server has said that it closes."""
        nonlocal told
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1), timeout=30) as client:
            while True:
                response = await client.post(f"{expert.url}/v1/rank", json=REQUEST)
                statuses.append(response.status_code)
                if len(statuses) >= 40:
                    enough.set()
                if response.headers.get("connection") == "close":
                    told += 1
                    return

    clients = [asyncio.create_task(kept_alive()) for _ in range(4)]
    await asyncio.wait_for(enough.wait(), 60)
    code = await asyncio.to_thread(expert.terminate)
    await asyncio.gather(*clients)
    assert set(statuses) == {200}
    assert told == 4
    assert code == 0
    assert expert.lines("draining")
    assert expert.lines("stopped")


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody listens, until the test starts a foundation there."""
    with held() as number:
        yield number


def test_an_expert_whose_foundation_is_out_of_reach_starts_degraded_and_recovers(
    world: Any, port: int, tmp_path: Path
) -> None:
    hasty = tmp_path / "hasty.py"  # the same server with a second of patience instead of thirty
    hasty.write_text(
        "import sys\n"
        "from recast_server.expert import handshake\n"
        "from recast_server.main import main\n"
        "handshake.PATIENCE_SECONDS = 1.0\n"
        "sys.exit(main())\n"
    )
    expert = world.start(world.expert_config(port), program=(str(hasty),))
    world.until(lambda: bool(expert.lines("starting")))
    admin = f"http://127.0.0.1:{expert.lines('starting')[0]['adminPort']}"
    assert httpx.get(f"{admin}/healthz/startup").status_code == 503
    expert.wait_serving()
    assert httpx.get(f"{admin}/healthz/startup").status_code == 200
    first = ask(expert.url)
    assert (first.status_code, first.json()["tae"]) == (200, "absent")
    world.start(world.foundation_config(world.foundation), "--port", str(port), "--admin-port", "0").wait_serving()
    world.until(lambda: bool(ask(expert.url).json()["tae"] == "fresh"))


def test_a_connection_is_closed_when_it_is_old(world: Any, pair: Any) -> None:
    expert = world.start(world.expert_config(pair.foundation.port, max_connection_age_seconds=1)).wait_serving()
    with httpx.Client() as client:
        answers = [ask(expert.url, client)]
        while answers[-1].headers.get("connection") != "close":
            assert len(answers) < 5000
            answers.append(ask(expert.url, client))
    assert len(answers) > 1
    assert {response.status_code for response in answers} == {200}


def test_a_signal_during_start_up_ends_the_process(world: Any) -> None:
    expert = world.start(world.expert_config(1))  # nobody listens there: it waits for its foundation
    world.until(lambda: bool(expert.lines("starting")))
    port = expert.lines("starting")[0]["adminPort"]
    assert httpx.get(f"http://127.0.0.1:{port}/healthz/startup").status_code == 503
    assert expert.terminate() == 0


def test_the_bad_example_fails_a_share_of_requests_and_says_which_revision_it_is(world: Any, pair: Any) -> None:
    program = (str(REPOSITORY / "examples" / "bad-server" / "main.py"),)
    expert = world.start(world.expert_config(pair.foundation.port), program=program).wait_serving()
    with httpx.Client() as client:
        answers = [
            client.post(f"{expert.url}/v1/rank", json=REQUEST, headers={"x-request-id": f"r{n}"}) for n in range(100)
        ]
    failed = [response for response in answers if response.status_code == 500]
    assert 10 <= len(failed) <= 30
    assert {response.headers["x-recast-revision"] for response in failed} == {"abcdef0123"}
    assert len(failed) == expert.metric("recast_requests_total", code="500")
