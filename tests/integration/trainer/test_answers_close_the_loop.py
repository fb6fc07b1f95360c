"""What a pair serves is what the next expert learns from: real servers log, the trainer reads, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from server_processes import Process, Start, starter, stop, until
from trainer_support import expert_order, order, reference

from recast_api.answer_log import request_number
from recast_api.manifest import Manifest
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin
from recast_api.run import DataRef
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedAnswerLog, ServedArtifact
from recast_model.artifact import load_foundation
from recast_trainer.cli import main
from recast_trainer.data.histories import events_of
from recast_trainer.data.schema import Rows
from recast_trainer.data.synthetic import SyntheticConfig, SyntheticStream
from recast_trainer.data.writing import write_dataset
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.run import execute
from recast_trainer.tae import log as tae_log
from recast_trainer.tae.from_answers import match
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import open_stream

SURFACE, LEARNED, HOURS, LIMIT, SHARE = 0, 10, 16, 2, "0.5"
HOUR = 3_600_000
ALONE = ProcessGroup()


class Loop:
    """A pair that landed before its traffic; the traffic, with a crash of the expert's server in its middle."""

    def __init__(self, root: Path, running: list[Process]) -> None:
        self.root, self.log = root, root / "log"
        config = SyntheticConfig(users=40, items=120, hours=HOURS, requests_per_hour=150, slate=4, seed=3)
        made = SyntheticStream(config)
        parts = list(made.segments())
        write_dataset(root / "data" / "set", made.dataset, made.items, parts[:LEARNED])
        write_dataset(root / "data" / "later", made.dataset, made.items, parts)
        self.foundation = self.land(order(root, optimization={"batchSize": 32, "learningRate": "0.01"}))
        self.expert = self.land(expert_order(root, reference(self.foundation)))
        self.stream = open_stream(root / "data" / "later", DataRef(path="later"))
        self.rows = Rows.concatenate([self.stream.read(segment) for segment in self.stream.segments])
        self.live_from = self.stream.segments[LEARNED].start
        self._serve(starter(root, running))

    def land(self, run: Any) -> Manifest:
        manifest = execute(run, ALONE, None)
        assert manifest is not None
        return manifest

    def _serve(self, start: Start) -> None:
        tower = start(
            FoundationServerConfig(namespace="test", model="home-fm", artifact=self._served(self.foundation))
        ).wait_serving()
        config = ExpertServerConfig(
            namespace="test", model="reels", surface="reels", revision="abcdef0123",
            tasks=[Task(name="click"), Task(name="long_view")], artifact=self._served(self.expert),
            foundation=FoundationPin(name="home-fm", version=1, lineage=1, digest=self.foundation.digest),
            foundation_address=f"127.0.0.1:{tower.port}", slo_milliseconds=5000, foundation_deadline_milliseconds=5000,
            max_connection_age_seconds=3600,
            answer_log=ServedAnswerLog(path=str(self.log), share=SHARE, window_milliseconds=50),
        )  # fmt: skip
        live = self.rows.take((self.rows.event_times >= self.live_from) & (self.rows.surfaces == SURFACE))
        requests = np.unique(live.request_ids)
        before = self.rows.take((self.rows.event_times < self.live_from - 5 * HOUR) & (self.rows.surfaces == SURFACE))
        self.answers: dict[int, list[int]] = {}
        server = start(config).wait_serving()
        self._ask(server, live, requests[: len(requests) // 2])
        half = len(self.answers)
        until(lambda: server.metric("recast_answers_logged_total", table="answers") == half)
        os.kill(server.popen.pid, signal.SIGKILL)
        server.popen.wait(30)
        self.after_crash = sorted(path.name for path in self.log.rglob("*") if path.is_file())
        self.server = server = start(config).wait_serving()
        self._ask(server, live, requests[len(requests) // 2 :])
        self.past = np.unique(before.request_ids)[-5:].tolist()
        self._ask(server, before, np.array(self.past))
        self.shown = int(requests[-1])
        report = {"requestId": str(self.shown), "items": [{"item": self.answers[self.shown][0], "position": 0}]}
        self.report = httpx.post(f"{server.url}/v1/impressions", json=report)
        self.ended = server.terminate()

    def _served(self, manifest: Manifest) -> ServedArtifact:
        return ServedArtifact(
            root=str(self.root / "models"), path=reference(manifest)["path"], version=1, lineage=1,
            digest=manifest.digest,
        )  # fmt: skip

    def folder(self, manifest: Manifest) -> Path:
        return self.root / "models" / reference(manifest)["path"]

    def _ask(self, server: Process, live: Rows, requests: np.ndarray) -> None:
        """Each request as its client would send it, at its time, with all that the user did until then and after."""
        names, tasks, bits = self.stream.dataset.surface_names, np.array(self.stream.dataset.tasks), np.arange(3)
        events = events_of(self.rows, None, engagements_only=True)
        with httpx.Client(base_url=server.url) as client:
            for request in requests.tolist():
                own = live.take(live.request_ids == request)
                mine = events.history.take(np.flatnonzero(events.users == own.users[0]))
                history = [
                    {
                        "item": item, "surface": names[surface], "time": time, "availableAt": available,
                        "actions": tasks[actions >> bits[: len(tasks)] & 1 > 0].tolist(),
                    }
                    for item, surface, actions, time, available in zip(
                        *map(np.ndarray.tolist, astuple(mine)), strict=True
                    )
                ]  # fmt: skip
                body = {
                    "user": int(own.users[0]), "candidates": own.items.tolist(), "time": int(own.event_times[0]),
                    "limit": LIMIT, "history": history,
                }  # fmt: skip
                answer = client.post("/v1/rank", json=body, headers={"x-request-id": str(request)})
                assert (answer.status_code, answer.json()["tae"]) == (200, "fresh")
                self.answers[request] = [entry["item"] for entry in answer.json()["items"]]

    def logged(self) -> list[dict[str, Any]]:
        """Every row of every segment."""
        return [row for path in sorted(self.log.rglob("answers-*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    running: list[Process] = []
    try:
        yield Loop(tmp_path_factory.mktemp("loop"), running)
    finally:
        stop(running)


def test_a_killed_server_and_one_that_drains_lose_no_answer_and_leave_segments(loop: Loop) -> None:
    assert any(name.endswith(".arrows") for name in loop.after_crash)
    assert not any(name.endswith(".parquet") for name in loop.after_crash)
    assert loop.ended == 0
    assert not list(loop.log.rglob(".*"))
    presented: dict[int, dict[int, int]] = {}
    for row in loop.logged():
        if row["position"] >= 0:
            presented.setdefault(request_number(row["request_id"]), {})[row["position"]] = row["item_id"]
    assert {request: [items[place] for place in sorted(items)] for request, items in presented.items()} == loop.answers


def test_the_rest_is_sampled_with_its_propensity(loop: Loop) -> None:
    rest = [row for row in loop.logged() if row["position"] < 0]
    assert {row["propensity"] for row in rest} == {float(SHARE)}
    possible = sum(row["candidates"] - LIMIT for row in loop.logged() if row["position"] == 0)
    assert abs(len(rest) / possible - float(SHARE)) < 4.5 * 0.5 / possible**0.5


def test_what_is_logged_is_what_the_trainers_log_pass_gives_but_for_the_last_bit(loop: Loop) -> None:
    """For the same version and history. A server computes histories in parts, which rounds the sums of floats another
    way; where that falls upon a border between two numbers of 16 bits they differ, by one such step.
    """
    foundation = load_foundation(loop.folder(loop.foundation), loop.foundation)
    rows = loop.logged()
    keys = np.array([[request_number(row["request_id"]), row["item_id"]] for row in rows])
    logged = np.array([row["tae"] for row in rows], np.float16)
    passed, vectors = [], []
    walk = loop.stream.walk(
        foundation.config.history_length,
        choose=lambda index, slates: np.isin(slates.rows.request_ids[slates.starts], list(loop.answers)),
    )
    for _, requests in walk:
        if len(requests):
            vectors.append(score_foundation(foundation.model, requests, foundation.items, ALONE)[1])
            passed.append(np.stack([requests.rows.request_ids, requests.rows.items], 1))
    place = match(keys, np.concatenate(passed))
    assert (place >= 0).all()
    found = np.concatenate(vectors)[place]
    assert len(np.unique(found, axis=0)) > len(found) / 2  # or it would say nothing
    apart = np.abs(found.astype(np.float64) - logged.astype(np.float64))
    step = np.spacing(np.maximum(np.abs(found), np.abs(logged))).astype(np.float64)
    print(f"{found.size} numbers, {(found != logged).sum()} differ, by {(apart / step).max()} steps at most")
    assert (found == logged).mean() > 0.995
    # Near 0 a step is smaller than what 32 bits leave of sums of larger numbers.
    assert (apart <= np.maximum(step, 1e-5)).all()


@pytest.fixture(scope="module")
def converted(loop: Loop) -> Path:
    out = loop.root / "answers"
    arguments = ["data", "from-answers", str(loop.log), "--data", str(loop.root / "data" / "later")]
    assert main([*arguments, "--foundation", str(loop.folder(loop.foundation)), "--out", str(out)]) == 0
    return out


def test_the_answers_become_a_log_of_the_datas_rows(loop: Loop, converted: Path) -> None:
    phases: list[tae_log.Phase] = ["prequential", "tail"]
    files = [file for phase in phases for file in tae_log.files(converted, phase)]
    assert [file.segment for file in files] == [segment.name for segment in loop.stream.segments[LEARNED:]]
    found = [file.read("reels") for file in files]
    count = len([row for row in loop.logged() if request_number(row["request_id"]) not in loop.past])
    unshown = len([row for row in loop.logged() if row["request_id"] == str(loop.shown)]) - 1
    assert sum(map(len, found)) == count - unshown
    assert {float(each) for rows in found for each in rows.propensity} == {1.0, float(SHARE)}
    assert loop.report.status_code == 202


def test_an_expert_trains_on_what_was_served_and_lands(loop: Loop, converted: Path) -> None:
    run = expert_order(
        loop.root, reference(loop.foundation), 2, data={"path": "later"}, expert={"taeLog": str(converted)}
    )
    manifest = loop.land(run)
    assert manifest.foundation is not None
    assert manifest.foundation.digest == loop.foundation.digest
    assert manifest.watermark > loop.expert.watermark
    assert all(np.isfinite(float(each.ne)) for each in manifest.measurements if each.ne is not None)


def test_requests_of_the_past_that_are_asked_again_teach_nobody_their_answers(loop: Loop, converted: Path) -> None:
    """What serves has learned the labels of the data that it was trained on."""
    logged = {request_number(row["request_id"]) for row in loop.logged()}
    assert set(loop.past) <= logged
    names: list[tae_log.Phase] = ["prequential", "tail"]
    ids = np.concatenate([file.read("reels").row_ids for phase in names for file in tae_log.files(converted, phase)])
    assert not np.isin(loop.rows.row_ids[np.isin(loop.rows.request_ids, loop.past)], ids).any()
    about = json.loads((converted / "answers.json").read_text())
    learned = about["leftOut"]["whose label the foundation had learned"]
    assert learned == len([row for row in loop.logged() if request_number(row["request_id"]) in loop.past])
