"""Whole runs in a second or two: what lands, what is counted in it, and what a later measurement may use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_builders import DATASET, HOUR, ITEMS, START, hand_rows, requests_of

from recast_api.manifest import MANIFEST, MEASURED, WEIGHTS, Manifest
from recast_api.run import ArtifactRef, RecastError, TrainingRun
from recast_model.artifact import load_expert, load_foundation
from recast_model.items import ItemTable
from recast_trainer import run as runs
from recast_trainer.clock import from_rfc3339, to_rfc3339
from recast_trainer.data.pinning import PinnedData
from recast_trainer.data.requests import Slates
from recast_trainer.data.writing import DatasetWriter
from recast_trainer.evaluation import report
from recast_trainer.evaluation.compare import comparison
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.run import execute, expert_config, fingerprint, foundation_config
from recast_trainer.tae import log as tae_log
from recast_trainer.training import expert as expert_loop
from recast_trainer.training import loop
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import open_stream, require_same_vocabulary

HOURS, PER_HOUR, LEARN, FIRST = 8, 8, 6, 2  # two of eight segments are the tail; two are taken for burn-in


def write(folder: Path, hours: int = HOURS, content: int = 2) -> None:
    rows = hand_rows(hours, PER_HOUR)
    writer = DatasetWriter(folder, DATASET.model_copy(update={"content_dim": content}))
    writer.items(ItemTable(ITEMS.ids, ITEMS.content[:, :content]))
    for start in range(START, START + hours * HOUR, HOUR):
        writer.segment(start, rows.take((rows.event_times >= start) & (rows.event_times < start + HOUR)))
    writer.finish()


def order(root: Path, number: int = 1, **changes: Any) -> TrainingRun:
    return TrainingRun.model_validate(
        {
            "kind": "FoundationModel", "namespace": "demo", "model": "home-fm", "uid": "u1", "number": number,
            "attempt": 2, "jobName": f"fm-home-fm-r{number}-a2", "inputsHash": "h1",
            "modelsRoot": str(root / "models"), "dataRoot": str(root), "data": {"path": "set"},
            "optimization": {"batchSize": 8, "learningRate": "0.003"},
            "architecture": {"layers": 1, "dim": 8, "heads": 2, "historyLength": 6, "taeDim": 4},
        }
        | changes
    )  # fmt: skip


def pin(manifest: Manifest) -> dict[str, Any]:
    prefix = "fm" if manifest.kind == "FoundationModel" else "em"
    return {
        "model": manifest.model, "version": manifest.number, "lineage": manifest.lineage, "digest": manifest.digest,
        "path": f"{prefix}/{manifest.model}/{manifest.uid}/v{manifest.number}",
    }  # fmt: skip


def expert_order(root: Path, foundation: Manifest, number: int = 1, **changes: Any) -> TrainingRun:
    expert = {
        "surface": "reels", "tasks": [{"name": "like", "weight": "0.5"}, {"name": "click"}],
        "architecture": {"layers": 2, "dim": 16, "heads": 4, "historyLength": 5}, "foundation": pin(foundation),
    }  # fmt: skip
    return order(root, number, kind="ExpertModel", model="reels", uid="u2", architecture=None, expert=expert, **changes)


@dataclass(frozen=True)
class World:
    root: Path
    foundation: Manifest
    expert: Manifest

    def folder(self, manifest: Manifest) -> Path:
        path: str = pin(manifest)["path"]
        return self.root / "models" / path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    write(root / "set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)
        patch.setattr(runs, "first_usable", lambda _: FIRST)
        foundation = execute(order(root), ProcessGroup(), None)
        assert foundation is not None
        expert = execute(expert_order(root, foundation), ProcessGroup(), None)
        assert expert is not None
        yield World(root, foundation, expert)


def test_a_pair_is_trained_on_items_without_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)
    write(tmp_path / "set", content=0)
    foundation = execute(order(tmp_path), ProcessGroup(), None)
    assert foundation is not None
    expert = execute(expert_order(tmp_path, foundation), ProcessGroup(), None)
    assert expert is not None
    made = World(tmp_path, foundation, expert)
    assert load_foundation(made.folder(foundation), foundation).items.content.shape == (len(ITEMS), 0)
    assert report.evaluate(made.folder(expert), made.folder(foundation), tmp_path / "set")


def test_the_landed_log_begins_at_the_first_burned_in_segment_and_ends_with_the_tail(world: World) -> None:
    log = world.folder(world.foundation) / "tae"
    names = sorted(path.name for path in log.glob("*.parquet"))
    assert names == [f"{index:05d}-prequential.parquet" for index in (2, 3, 4, 5)] + [
        "00006-tail.parquet", "00007-tail.parquet",
    ]  # fmt: skip
    about = json.loads((log / "burn-in.json").read_text())
    assert about["firstUsableSegment"] == FIRST
    assert len(about["similarityToFinal"]) == LEARN


def test_usable_rows_are_those_of_the_landed_log_by_surface_and_phase(world: World) -> None:
    for entry in world.foundation.usable_rows:
        for phase, count in (("prequential", entry.prequential), ("tail", entry.tail)):
            parts = tae_log.files(world.folder(world.foundation) / "tae", phase)  # type: ignore[arg-type]
            assert sum(len(file.read(entry.surface)) for file in parts) == count
    # Each hour begins with a request at its first instant, so that a bound off by one would show.
    assert [(e.surface, e.prequential, e.tail) for e in world.foundation.usable_rows] == [
        ("feed", 4 * PER_HOUR, 2 * PER_HOUR), ("reels", 4 * PER_HOUR, 2 * PER_HOUR),
    ]  # fmt: skip


def test_a_foundations_manifest_says_what_was_ordered_and_up_to_when_it_learned(world: World) -> None:
    made = world.foundation
    assert made.watermark == to_rfc3339(START + HOURS * HOUR - 1)
    assert made.tail is not None
    assert made.tail.watermark == to_rfc3339(START + LEARN * HOUR - 1)
    assert (made.tail.segments, made.tail.learned, made.tail.refused) == (HOURS - LEARN, True, "")
    assert 0.9 < float(made.tail.similarity) < 1
    assert made.tail.gap is not None
    assert made.tail.gap.ne_increase_low is not None
    assert world.expert.tail is None
    assert (made.number, made.lineage, made.attempt, made.job_name) == (1, 1, 2, "fm-home-fm-r1-a2")
    assert (made.surfaces, made.tasks, made.foundation, made.baseline) == (
        ["feed", "reels"],
        ["click", "like"],
        None,
        None,
    )
    assert made.finite
    assert {(item.surface, item.task) for item in made.measurements} == {
        ("feed", "click"), ("reels", "click"), ("reels", "like"),
    }  # fmt: skip
    assert made.aggregate is not None
    assert made.aggregate.rows == sum(item.rows for item in made.measurements)
    assert made.config["attn_norm_len"] == made.config["history_length"] == 6


def test_an_expert_ships_the_histories_that_it_reads(world: World) -> None:
    bundle = load_expert(world.folder(world.expert), world.expert)
    lengths = np.diff(bundle.history.offsets)
    assert lengths.max() == bundle.config.history_length
    assert set(bundle.history.events.surfaces.tolist()) == {bundle.config.surface_index}


def test_an_experts_manifest_names_its_foundation_its_tasks_and_its_watermark(world: World) -> None:
    made = world.expert
    assert made.foundation is not None
    assert (made.foundation.digest, made.foundation.version) == (world.foundation.digest, 1)
    assert (made.surfaces, made.tasks) == (["reels"], ["like", "click"])
    held_out = START + 7 * HOUR + HOUR // PER_HOUR  # the first request on reels in the tail's newer half
    assert from_rfc3339(made.watermark) == held_out - 1
    assert {(item.surface, item.task) for item in made.measurements} == {("reels", "like"), ("reels", "click")}
    assert all(item.rows == PER_HOUR for item in made.measurements)
    config = load_expert(world.folder(made), made).config
    assert (config.layers, config.dim, config.heads, config.history_length, config.attn_norm_len) == (2, 16, 4, 5, 5)
    assert [task.weight for task in config.tasks] == [0.5, 1.0]
    assert (config.tae_dim, config.item_count, config.content_dim) == (4, len(ITEMS), 2)


def test_the_measurement_of_a_foundation_is_that_of_its_tail_by_the_weights_from_before_it(world: World) -> None:
    stream = open_stream(world.root / "set", order(world.root).data)
    bundle = load_foundation(world.folder(world.foundation), world.foundation, weights=MEASURED)
    tail = requests_of(stream, *range(LEARN, HOURS))
    scored, _ = score_foundation(bundle.model, tail, bundle.items, ProcessGroup())
    found = runs.measurements(scored, bundle.config.surfaces, bundle.config.tasks)
    assert found == world.foundation.measurements


def test_an_expert_begins_as_heads_that_have_not_learned_the_labels_it_is_measured_on(
    world: World,
) -> None:
    folder, reader = world.folder(world.foundation), load_expert(world.folder(world.expert), world.expert).model
    measured, serving = (load_foundation(folder, world.foundation, weights=name).model for name in (MEASURED, WEIGHTS))
    columns = list(reader.config.task_columns)
    assert torch.equal(reader.foundation_heads.weight, measured.heads.weight[columns])
    assert not torch.equal(reader.foundation_heads.weight, serving.heads.weight[columns])


def test_a_comparison_reads_a_foundation_by_the_weights_that_were_measured(world: World) -> None:
    folder = world.folder(world.foundation)
    _, source = comparison._open(folder, open_stream(world.root / "set", order(world.root).data))
    measured = load_foundation(folder, world.foundation, weights=MEASURED).model
    assert torch.equal(source.bundle.model.heads.weight, measured.heads.weight)


def test_a_version_is_compared_with_one_that_had_not_learned_the_rows_and_with_no_other(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world.root / "models", tmp_path / "models")
    write(tmp_path / "set", hours=11)  # eleven hours, a tail of two: it begins after the first version's watermark
    later = execute(order(tmp_path, 2, baseline=pin(world.foundation)), ProcessGroup(), None)
    assert later is not None
    assert later.baseline is not None
    assert later.baseline.version == 1
    for item in later.measurements:
        assert item.ne_increase is not None
        assert item.baseline_ne is not None
        assert float(item.ne_increase) == pytest.approx(float(item.ne) / float(item.baseline_ne) - 1, abs=1e-5)
    # The other way round: v2 learned hours 6 to 8, which are the tail of a run over the first eight.
    write(tmp_path / "set", hours=8)
    capsys.readouterr()
    alone = execute(order(tmp_path, 3, baseline=pin(later)), ProcessGroup(), None)
    assert alone is not None
    assert alone.baseline is None
    assert all(item.ne_increase is None for item in alone.measurements)
    assert "no comparison with v2" in capsys.readouterr().out


@pytest.mark.parametrize("learned", [True, False])
def test_a_version_of_the_same_data_is_compared_with_the_weights_that_were_measured(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves has learned the rows that are held out here; what it was before its tail has not."""
    before = world.foundation
    run = order(tmp_path, 2, optimization={"batchSize": 8, "learningRate": "0.003", "seed": 1})
    shutil.copytree(world.root / "set", tmp_path / "set")
    if learned:
        shutil.copytree(world.root / "models", tmp_path / "models")
    else:
        monkeypatch.setattr(loop, "refusal", lambda *_: "the reason")
        made = execute(order(tmp_path), ProcessGroup(), None)
        assert made is not None
        before = made
        assert before.tail is not None
        assert (before.tail.learned, before.tail.refused) == (False, "the reason")
        assert before.watermark == before.tail.watermark
        assert MEASURED not in {file.path for file in before.files}  # it would be the same file twice
        assert "what serves is what was measured, and has not learned the tail of 2 segments: the reason" in (
            capsys.readouterr().out
        )
        assert before.measurements == world.foundation.measurements
    later = execute(run.model_copy(update={"baseline": ArtifactRef(**pin(before))}), ProcessGroup(), None)
    assert later is not None
    assert later.baseline is not None
    assert [item.baseline_ne for item in later.measurements] == [item.ne for item in before.measurements]
    assert ("its weights from before its tail are compared with" in capsys.readouterr().out) is learned


def test_a_pair_of_the_same_data_is_compared_by_the_foundations_measured_weights(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)
    for name in ("set", "models"):
        shutil.copytree(world.root / name, tmp_path / name)
    baseline = {"baseline": pin(world.expert), "baselineFoundation": pin(world.foundation)}
    later = execute(expert_order(tmp_path, world.foundation, 2, **baseline), ProcessGroup(), None)
    assert later is not None
    assert later.baseline is not None
    for item in later.measurements:  # the same training twice; the log's float16 are made again from the weights
        assert float(item.baseline_ne or "nan") == pytest.approx(float(item.ne), abs=2e-3)


def test_newer_data_are_scored_by_what_serves_and_from_its_watermark_on(world: World, tmp_path: Path) -> None:
    write(tmp_path / "set", hours=HOURS + 1)
    stream = open_stream(tmp_path / "set", order(world.root).data)
    bundle = load_foundation(world.folder(world.foundation), world.foundation)
    scored, _ = score_foundation(bundle.model, requests_of(stream, HOURS), bundle.items, ProcessGroup())
    found = report.predictions(world.folder(world.foundation), None, tmp_path / "set")
    assert found.rows.row_ids.tolist() == scored.row_ids.tolist()
    assert np.array_equal(found.rows.logits, scored.logits)


def test_the_leading_process_alone_publishes_what_an_earlier_attempt_completed(world: World) -> None:
    published: list[dict[str, Any]] = []

    class Apiserver:
        def create(self, namespace: str, body: dict[str, Any]) -> None:
            published.append(body)

        def get(self, namespace: str, name: str) -> dict[str, Any]:
            raise AssertionError(name)

    assert execute(order(world.root), ProcessGroup(rank=1), Apiserver) is None
    assert published == []
    assert execute(order(world.root), ProcessGroup(rank=0), Apiserver) == world.foundation
    assert [body["spec"]["digest"] for body in published] == [world.foundation.digest]


def test_data_that_change_under_a_comparison_end_the_attempt_and_not_the_comparison(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = order(world.root, 9, baseline=pin(world.foundation))

    def fails(*, retryable: bool) -> None:
        raise RecastError("AnyReason", "the reason", retryable=retryable)

    assert runs._baseline(run, ProcessGroup(), lambda: fails(retryable=False)) is None  # type: ignore[arg-type]
    assert "no comparison with v1: the reason" in capsys.readouterr().out
    with pytest.raises(RecastError, match="the reason"):
        runs._baseline(run, ProcessGroup(), lambda: fails(retryable=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(("later", "seen"), [(0, True), (1, False)], ids=["at the watermark", "a millisecond later"])
def test_a_label_known_at_the_baselines_watermark_was_learned_by_it(world: World, later: int, seen: bool) -> None:
    stream = open_stream(world.root / "set", order(world.root).data)
    bundle = load_foundation(world.folder(world.foundation), world.foundation)
    tail = requests_of(stream, *range(LEARN, HOURS))
    scored, _ = score_foundation(bundle.model, tail, bundle.items, ProcessGroup())
    watermark = START + LEARN * HOUR - 1
    edge = replace(scored, available_at=np.where(scored.row_ids == scored.row_ids[3], watermark + later, 2**60))
    if seen:
        with pytest.raises(RecastError, match="has learned labels up to") as caught:
            runs._require_unseen(edge, world.foundation, to_rfc3339(watermark))
        assert caught.value.termination.reason == "BaselineSawLabels"
    else:
        runs._require_unseen(edge, world.foundation, to_rfc3339(watermark))


def test_a_landed_version_is_measured_on_requests_none_of_whose_labels_it_may_have_learned(world: World) -> None:
    watermark = from_rfc3339(world.foundation.watermark)
    rows = hand_rows(HOURS, PER_HOUR)
    rows = rows.take(rows.event_times >= START + (LEARN - 1) * HOUR)
    available = np.full((len(rows), 2), watermark + 1)
    available[-6, 0] = watermark  # one label of one row of the last but two: the version may have learned it
    slates = Slates.of(replace(rows, available_at=available))
    wanted = report._after(watermark)(0, slates)
    assert wanted.tolist() == [place != len(slates) - 3 for place in range(len(slates))]


def test_a_landed_pair_is_measured_by_hand_as_it_was_at_landing(world: World) -> None:
    data = world.root / "set"
    foundation = report.evaluate(world.folder(world.foundation), None, data)
    assert foundation == world.foundation.measurements  # of the weights that had not learned the tail
    expert = report.evaluate(world.folder(world.expert), world.folder(world.foundation), data)
    assert {(item.surface, item.task, item.rows) for item in expert} == {("reels", "like", 8), ("reels", "click", 8)}
    ours = {(item.task): float(item.ne) for item in world.expert.measurements}
    assert {item.task: pytest.approx(float(item.ne), abs=2e-3) for item in expert} == ours  # float16 of the same TAE


def test_a_measurement_needs_the_pairs_own_foundation_and_newer_data(world: World, tmp_path: Path) -> None:
    data = world.root / "set"
    with pytest.raises(RecastError, match="give --foundation"):
        report.evaluate(world.folder(world.expert), None, data)
    other = tmp_path / "v1"
    shutil.copytree(world.folder(world.foundation), other)
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"inputsHash": "another"}))
    with pytest.raises(RecastError, match="trained with another foundation") as caught:
        report.evaluate(world.folder(world.expert), other, data)
    assert caught.value.termination.reason == "PairMismatch"
    write(tmp_path / "old", hours=LEARN)
    with pytest.raises(RecastError, match="has learned all of this data") as caught:
        report.evaluate(world.folder(world.foundation), None, tmp_path / "old")
    assert caught.value.termination.reason == "NothingToMeasure"
    with pytest.raises(RecastError, match=r"no manifest\.json in"):
        report.evaluate(tmp_path, None, data)


def test_a_checkpoint_is_of_the_configuration_and_the_segments_but_not_of_the_attempt(world: World) -> None:
    run = order(world.root)
    folder = world.root / "set"
    segments = open_stream(folder, run.data).segments
    pinned = PinnedData.of(folder, run.data, segments)
    same = fingerprint(run, pinned)
    later = {"attempt": 3, "job_name": "fm-home-fm-r1-a3", "baseline": None}
    assert fingerprint(run.model_copy(update=later), pinned) == same
    for change in (
        {"inputs_hash": "h2"},
        {"number": 2},
        {"optimization": run.optimization.model_copy(update={"seed": 1})},
    ):
        assert fingerprint(run.model_copy(update=change), pinned) != same, change
    assert fingerprint(run, PinnedData.of(folder, run.data, segments[1:])) != same


def test_an_order_of_the_other_kind_is_refused(world: World) -> None:
    stream = open_stream(world.root / "set", order(world.root).data)
    config = foundation_config(order(world.root), stream)
    assert (config.tasks, config.surfaces) == (("click", "like"), ("feed", "reels"))
    with pytest.raises(RecastError, match="needs architecture"):
        foundation_config(expert_order(world.root, world.foundation), stream)
    with pytest.raises(RecastError, match="needs expert"):
        expert_config(order(world.root), config)


def test_data_with_other_surfaces_or_tasks_than_the_foundations_are_refused(world: World) -> None:
    stream = open_stream(world.root / "set", order(world.root).data)
    config = load_foundation(world.folder(world.foundation), world.foundation).config
    require_same_vocabulary(stream, config)
    for changed in (replace(config, surfaces=("reels", "feed")), replace(config, tasks=("like", "click"))):
        with pytest.raises(RecastError, match="the data now have") as caught:
            require_same_vocabulary(stream, changed)
        assert caught.value.termination.reason == "DataChanged"


def test_weights_in_a_landed_folder_are_those_that_were_measured(world: World) -> None:
    bundle = load_foundation(world.folder(world.foundation), world.foundation)
    assert all(torch.isfinite(value).all() for value in bundle.model.state_dict().values())
    assert bundle.history.until == START + HOURS * HOUR


def test_processes_meet_once_more_before_the_leader_lands_and_never_wait_for_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.root / "set", tmp_path / "set")
    events: list[str] = []
    land, train = runs.land, runs._foundation
    monkeypatch.setattr(runs, "_foundation", lambda *given: (train(*given), events.append("trained"))[0])
    monkeypatch.setattr(ProcessGroup, "barrier", lambda _: events.append("barrier"))
    monkeypatch.setattr(runs, "land", lambda *given: (events.append("land"), land(*given))[1])
    assert execute(order(tmp_path), ProcessGroup(), None) is not None
    assert events[-3:] == ["trained", "barrier", "land"]
