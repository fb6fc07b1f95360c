"""Runs without a cluster: what a YAML file and a folder of models make of a run, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recast_api.manifest import MANIFEST, Manifest
from recast_api.resources import ExpertModel, FoundationModel
from recast_api.resources.version import FoundationPin
from recast_api.run import RecastError, TrainingRun
from recast_trainer import cli
from recast_trainer.local import Models, local_run, read_models

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
DATA = Path("/data/sets/stream")


def example(name: str) -> Any:
    (model,) = read_models(EXAMPLES / name)
    return model


def run_of(name: str, root: Path) -> TrainingRun:
    return local_run(example(name), DATA, Models(root))


def land(models: Models, kind: Any, model: str, number: int, pin: FoundationPin | None = None) -> Manifest:
    folder = models.folder(kind, model, number)
    folder.mkdir(parents=True)
    manifest = Manifest(
        kind=kind, model=model, uid="local", number=number, lineage=number, created="2026-01-01T00:00:00Z",
        watermark="2026-01-01T00:00:00Z", files=[], config={}, surfaces=[], tasks=[], job_name="local",
        inputs_hash="h", foundation=pin,
    )  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest.wire()))
    return manifest


def test_a_foundations_file_is_its_run_with_the_data_that_were_given(tmp_path: Path) -> None:
    model, run = example("home-fm.yaml"), run_of("home-fm.yaml", tmp_path)
    assert isinstance(model, FoundationModel)
    assert (run.kind, run.model, run.number, run.baseline) == ("FoundationModel", "home-fm", 1, None)
    assert (run.data_root, run.data.path, run.models_root) == ("/data/sets", "stream", str(tmp_path))
    assert run.architecture == model.spec.architecture
    training = model.spec.training
    assert run.optimization.wire() == {
        "batchSize": training.batch_size, "learningRate": training.learning_rate, "epochs": training.epochs,
        "seed": training.seed, "optimizer": training.optimizer.wire(),
    }  # fmt: skip


def test_until_window_and_tail_hold_as_in_a_cluster(tmp_path: Path) -> None:
    model = example("home-fm.yaml")
    assert run_of("home-fm.yaml", tmp_path).data.tail is None
    data = model.spec.data.model_copy(update={"until": "2026-01-02T00:00:00Z", "window": "20h", "tail": "2h"})
    changed = model.model_copy(update={"spec": model.spec.model_copy(update={"data": data})})
    run = local_run(changed, DATA, Models(tmp_path))
    assert (run.data.until, run.data.window, run.data.tail) == ("2026-01-02T00:00:00Z", "20h", "2h")


def test_what_landed_is_what_the_next_run_is_measured_against(tmp_path: Path) -> None:
    models = Models(tmp_path)
    for number in (1, 2, 10):  # as numbers, not as names
        landed = land(models, "FoundationModel", "home-fm", number)
    run = run_of("home-fm.yaml", tmp_path)
    assert run.number == 11
    assert run.baseline is not None
    assert (run.baseline.version, run.baseline.digest, run.baseline.lineage) == (10, landed.digest, 10)
    assert run.baseline.path == "fm/home-fm/local/v10"


def test_what_did_not_land_whole_is_the_same_run_again(tmp_path: Path) -> None:
    models = Models(tmp_path)
    land(models, "FoundationModel", "home-fm", 1)
    models.folder("FoundationModel", "home-fm", 2).with_name("v2.incomplete").mkdir()
    models.folder("FoundationModel", "home-fm", 3).mkdir()
    assert run_of("home-fm.yaml", tmp_path).number == 2


def test_an_expert_reads_the_newest_foundation_and_is_measured_with_the_one_its_baseline_reads(tmp_path: Path) -> None:
    models = Models(tmp_path)
    older, newer = (land(models, "FoundationModel", "home-fm", number) for number in (1, 2))
    pin = FoundationPin(name="home-fm", version=1, lineage=1, digest=older.digest)
    land(models, "ExpertModel", "reels", 1, pin)
    model, run = example("reels.yaml"), run_of("reels.yaml", tmp_path)
    assert isinstance(model, ExpertModel)
    assert run.expert is not None
    assert (run.expert.surface, run.expert.tasks) == (model.spec.surface, model.spec.tasks)
    assert (run.expert.foundation.version, run.expert.foundation.digest) == (2, newer.digest)
    assert run.number == 2
    assert run.baseline is not None
    assert run.baseline_foundation is not None
    assert (run.baseline.version, run.baseline_foundation.version) == (1, 1)


def test_an_expert_without_a_landed_foundation_says_what_to_train(tmp_path: Path) -> None:
    with pytest.raises(RecastError, match=r"reels reads home-fm, .* train the foundation first") as caught:
        run_of("reels.yaml", tmp_path)
    assert caught.value.termination.reason == "FoundationNotFound"


@pytest.mark.parametrize(("damage", "reason"), [(b"{", "ArtifactTruncated"), (None, "ArtifactMissing")])
def test_a_foundation_that_an_expert_read_and_that_is_damaged_is_named(
    tmp_path: Path, damage: bytes | None, reason: str
) -> None:
    models = Models(tmp_path)
    for number in (1, 2):
        land(models, "FoundationModel", "home-fm", number)
    land(
        models,
        "ExpertModel",
        "reels",
        1,
        FoundationPin(name="home-fm", version=1, lineage=1, digest="sha256:" + "0" * 64),
    )
    manifest = models.folder("FoundationModel", "home-fm", 1) / MANIFEST
    manifest.write_bytes(damage) if damage else manifest.unlink()
    with pytest.raises(RecastError, match=r"home-fm/local/v1/manifest\.json.*train home-fm again") as caught:
        run_of("reels.yaml", tmp_path)
    assert caught.value.termination.reason == reason


def test_foundations_come_first_and_other_objects_are_passed_over(tmp_path: Path) -> None:
    names = ("reels.yaml", "00-volumes.yaml", "home-fm.yaml", "ads.yaml")
    file = tmp_path / "all.yaml"
    file.write_text("\n---\n".join((EXAMPLES / name).read_text() for name in names) + "\n---\n- a list\n---\n")
    assert [model.metadata.name for model in read_models(file)] == ["home-fm", "reels", "ads"]


EXAMPLE = (EXAMPLES / "reels.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no FoundationModel and no ExpertModel"),
        ("kind: Job", "holds no FoundationModel and no ExpertModel"),
        ("kind: [", "cannot be read as YAML"),
        ("kind: ExpertModel\nmetadata: {name: reels}\nspec: {surfaces: reels}", "ExpertModel reels: "),
        ("kind: ExpertModel\nmetadata: reels", "ExpertModel: metadata"),
        (EXAMPLE.replace("kind: ExpertModel", "kind: ExpertModle"), "recast.dev has no kind ExpertModle"),
        (EXAMPLE.replace('"0.01"', "0.01"), "learningRate: Input should be a valid string; write it in quotes"),
        (EXAMPLE.replace("epochs", "epoch"), "training.epoch: Extra inputs are not permitted; it is misspelt"),
    ],
)
def test_a_file_that_no_apiserver_would_take_says_what_is_wrong(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert cli.main(["train", str(file), "--data", "nowhere"], termination_log=tmp_path / "none") == 1
    said = capsys.readouterr().err
    assert said.startswith("FAILED BadSpec")
    assert says in said


def test_a_model_that_the_file_does_not_hold_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(EXAMPLES / "reels.yaml"), "--data", "nowhere", "--only", "feed"]
    assert cli.main(arguments, termination_log=tmp_path / "none") == 1
    assert "holds no model feed" in capsys.readouterr().err
