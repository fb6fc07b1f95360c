"""An expert serves what it learned: trained pairs, asked over the wire, answer as the trainer's own path does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from server_processes import Process, starter, stop
from trainer_support import expert_order, order, reference, some_context, write_synthetic

from recast_api.manifest import Manifest
from recast_api.resources.expert import Task
from recast_api.resources.version import FoundationPin
from recast_api.server import ExpertServerConfig, FoundationServerConfig, ServedArtifact
from recast_model.artifact import load_expert, load_foundation
from recast_model.inference import embed, score
from recast_trainer.data.histories import events_of
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Rows
from recast_trainer.data.segments import Segment
from recast_trainer.run import execute
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import on_device, open_stream

SURFACE, LIMIT, CANDIDATES = 2, 8, 5
HOUR = 3_600_000
ALONE = ProcessGroup()


class ServedPair:
    """A foundation and the expert of the smallest surface, landed from one stream, and both of their servers."""

    def __init__(self, root: Path, running: list[Process]) -> None:
        self.root = root
        write_synthetic(root / "data" / "set", hours=12, requests=200, in_context=True)
        foundation = order(root, optimization={"batchSize": 32, "learningRate": "0.01"})
        self.foundation = self._land(foundation)
        tasks = {"surface": "ads", "tasks": [{"name": "click"}, {"name": "purchase"}]}
        expert = expert_order(root, reference(self.foundation), expert=tasks)
        self.expert = self._land(expert)
        self.stream = open_stream(root / "data" / "set", foundation.data)
        start = starter(root, running)
        tower = start(
            FoundationServerConfig(namespace="test", model="home-fm", artifact=self._served(self.foundation))
        ).wait_serving()
        pin = FoundationPin(name="home-fm", version=1, lineage=1, digest=self.foundation.digest)
        self.server = start(
            ExpertServerConfig(
                namespace="test", model="reels", surface="ads", revision="abcdef0123",
                tasks=[Task(name="click"), Task(name="purchase")], artifact=self._served(self.expert), foundation=pin,
                foundation_address=f"127.0.0.1:{tower.port}", slo_milliseconds=500,
                foundation_deadline_milliseconds=5000, max_connection_age_seconds=3600,
            )
        ).wait_serving()  # fmt: skip

    def _land(self, run: Any) -> Manifest:
        manifest = execute(run, ALONE, None)
        assert manifest is not None
        return manifest

    def _served(self, manifest: Manifest) -> ServedArtifact:
        return ServedArtifact(
            root=str(self.root / "models"), path=reference(manifest)["path"], version=1, lineage=1,
            digest=manifest.digest,
        )  # fmt: skip

    def folder(self, manifest: Manifest) -> Path:
        return self.root / "models" / reference(manifest)["path"]

    def asked_at(self, time: int) -> Rows:
        """One request of every user on the surface at an instant, as rows of the data set would have it."""
        users = np.repeat(np.unique(self.rows.users), CANDIDATES)
        count = len(users)
        items = np.random.default_rng(1).choice(self.stream.items.ids, count)
        context = some_context(users)
        return Rows(
            row_ids=np.arange(count) - count, request_ids=users - 10**9, users=users, items=items,
            surfaces=np.full(count, SURFACE), event_times=np.full(count, time),
            available_at=np.full((count, 3), time), positions=np.zeros(count, np.int64),
            labels=np.zeros((count, 3), np.float32),
            label_mask=np.zeros((count, 3), bool), oracle=np.full((count, 3), np.nan, np.float32),
            context_values=context.values, context_numbers=context.numbers,
        )  # fmt: skip

    def as_trained(self, asked: Rows) -> np.ndarray:
        """(R, T) probabilities by the path that training and evaluation take."""
        foundation = load_foundation(self.folder(self.foundation), self.foundation)
        expert = load_expert(self.folder(self.expert), self.expert)

        seen = self.requests(asked, foundation.config.history_length)
        tae = embed(foundation.model, on_device(seen, foundation.items, ALONE))
        own = on_device(self.requests(asked, LIMIT, SURFACE), expert.items, ALONE)
        logits = score(expert.model, own, tae, torch.ones(len(tae), dtype=torch.bool))
        found: np.ndarray = torch.sigmoid(logits).numpy().reshape(-1, 2)
        return found

    def requests(self, asked: Rows, limit: int, surface: int | None = None) -> Requests:
        """The requests as a stream gives them that had them among its others."""
        after = Segment((), "after", self.stream.end, self.stream.end + HOUR)

        def read(segment: Segment) -> Rows:
            here = (asked.event_times >= segment.start) & (asked.event_times < segment.end)
            there = asked.take(slice(0)) if segment is after else self.stream.read(segment)
            return Rows.concatenate([there, asked.take(here)])

        longer = replace(self.stream, segments=[*self.stream.segments, after], read=read)
        walk = longer.walk(limit, surface=surface, choose=lambda _, slates: slates.rows.row_ids[slates.starts] < 0)
        return Requests.concatenate([requests for _, requests in walk])

    @cached_property
    def rows(self) -> Rows:
        """All rows of the stream."""
        return Rows.concatenate([self.stream.read(segment) for segment in self.stream.segments])

    def over_the_wire(self, asked: Rows, unknown: Sequence[str] = (), **more: Any) -> np.ndarray:
        """(R, T) probabilities as the expert's server answers."""
        found = []
        for first in range(0, len(asked), CANDIDATES):
            candidates = asked.items[first : first + CANDIDATES].tolist()
            body = {"user": int(asked.users[first]), "candidates": candidates, "time": int(asked.event_times[first])}
            body["context"] = self.context(asked, first)
            answer = httpx.post(f"{self.server.url}/v1/rank", json=body | more).json()
            assert answer["tae"] == "fresh"
            assert answer["unknownContext"] == list(unknown)
            scores = {entry["item"]: entry["scores"] for entry in answer["items"]}
            found += [[scores[item]["click"], scores[item]["purchase"]] for item in candidates]
        return np.array(found)

    def context(self, asked: Rows, row: int) -> dict[str, Any]:
        """What a client says of a row's request; nothing of what is unknown."""
        features = self.stream.dataset.context_features
        given = {each.name: each.decode(asked.context.of_feature(features, each)[row]) for each in features}
        return {name: value for name, value in given.items() if value is not None}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPair]:
    running: list[Process] = []
    try:
        yield ServedPair(tmp_path_factory.mktemp("served"), running)
    finally:
        stop(running)


def test_a_landed_pair_answers_as_it_was_trained(served: ServedPair) -> None:
    asked = served.asked_at(served.stream.end)
    expected = served.as_trained(asked)
    assert expected.std() > 1e-3  # or the comparison would say nothing
    np.testing.assert_allclose(served.over_the_wire(asked), expected, atol=1e-5)


def test_both_networks_learned_context_and_answer_by_it(served: ServedPair) -> None:
    asked = served.asked_at(served.stream.end).take(slice(0, 4 * CANDIDATES))
    for manifest, load in ((served.foundation, load_foundation), (served.expert, load_expert)):
        encoder = load(served.folder(manifest), manifest).model.tokens.request_context
        assert encoder is not None
        assert (encoder.values.abs().amax(1) > 1e-4).all()
        assert 30 < float(encoder.mean[0]) < 37  # of 20 to 47
        assert 6 < float(encoder.scale[0]) < 9
    other = served.over_the_wire(asked, context={"battery": 47.0, "device": "tv"})
    assert (np.abs(served.over_the_wire(asked) - other) > 1e-5).any(1).mean() > 0.5
    unlisted = {"device": "watch", "battery": None}
    np.testing.assert_array_equal(
        served.over_the_wire(asked, context=unlisted, unknown=["device"]), served.over_the_wire(asked, context={})
    )


def test_the_artefact_ships_what_an_expert_reads_and_nothing_else(served: ServedPair) -> None:
    shipped = load_expert(served.folder(served.expert), served.expert).history
    assert set(shipped.events.surfaces.tolist()) == {SURFACE}
    rows = served.rows
    events = events_of(rows.take(rows.surfaces == SURFACE), None, engagements_only=True)
    own = events.history.available < served.stream.end
    users, counts = np.unique(events.users[own], return_counts=True)
    assert shipped.users.tolist() == users.tolist()
    assert (counts > LIMIT).any()  # or the window is never cut
    assert (np.diff(shipped.offsets) > LIMIT - LIMIT // 4).tolist() == (counts > LIMIT - LIMIT // 4).tolist()


def test_an_inline_history_with_the_labels_delays_answers_as_training_would_at_any_time(served: ServedPair) -> None:
    """A replay sends all that a user ever did; which of it a request at an earlier time sees is the server's to say."""
    rows, names = served.rows, served.stream.dataset.surface_names
    tasks, bits = np.array(served.stream.dataset.tasks), np.arange(3)
    moment = served.stream.segments[-3].start + 1_234_567
    asked = served.asked_at(moment)
    expected = served.as_trained(asked)
    events = events_of(rows, None, engagements_only=True)
    for place, user in enumerate(np.unique(rows.users)[:12]):
        mine = events.history.take(np.flatnonzero(events.users == user))
        history = [
            {
                "item": item, "surface": names[surface], "time": time, "availableAt": available,
                "actions": tasks[actions >> bits & 1 > 0].tolist(),
            }
            for item, surface, actions, time, available in zip(*map(np.ndarray.tolist, astuple(mine)), strict=True)
        ]  # fmt: skip
        part = slice(place * CANDIDATES, (place + 1) * CANDIDATES)
        found = served.over_the_wire(asked.take(part), history=history)
        np.testing.assert_allclose(found, expected[part], atol=1e-5)
