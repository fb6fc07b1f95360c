"""What two parts of Recast must agree on: names, termination messages, and the manifest that vouches for every byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recast_api import names
from recast_api.manifest import MANIFEST, Manifest, describe_files, load_verified
from recast_api.resources import KINDS, Aggregate
from recast_api.resources.common import Optimizer, Training
from recast_api.run import TERMINATION_LIMIT, Optimization, RecastError, TerminationMessage

MODEL = "m" * 40
"""A model's name may be so long; the rules on names in the API say it."""


def test_names_of_children_are_what_every_part_expects() -> None:
    assert names.job("FoundationModel", "home-fm", 3, 2) == "fm-home-fm-r3-a2"
    assert names.version("ExpertModel", "reels", 7) == "em-reels-v7"
    assert names.lineage_server("home-fm", 2) == "fm-home-fm-l2"
    assert names.expert_service("reels") == "em-reels"
    assert names.revision_deployment("reels", "0a1b2c") == "em-reels-0a1b2c"
    assert names.artifact_path("FoundationModel", "home-fm", "uid", 3) == "fm/home-fm/uid/v3"
    assert names.checkpoint_path("ExpertModel", "reels", "uid", 3) == "em/reels/uid/runs/r3"


def test_a_run_is_optimised_as_its_resource_says() -> None:
    said = {
        "batchSize": 8, "learningRate": "0.5", "epochs": 3, "seed": 4,
        "optimizer": Optimizer(table_learning_rate="0.25", decay="InverseSquareRoot").wire(),
    }  # fmt: skip
    assert Optimization.of(Training.model_validate({"image": "trainer:1", "nodes": 2} | said)).wire() == said


def test_no_name_is_longer_than_kubernetes_allows_even_for_the_longest_model() -> None:
    made = (
        names.job("FoundationModel", MODEL, 999999, 10),
        names.version("ExpertModel", MODEL, 999999),
        names.lineage_server(MODEL, 999999),
        names.expert_service(MODEL),
        names.revision_deployment(MODEL, "r" * 10),
    )
    assert max(len(name) for name in made) <= 59  # a Job's pods have four more


def test_a_termination_message_is_read_back_as_it_was_written() -> None:
    said = TerminationMessage(reason="CorruptSegment", retryable=True, message="segment 3: no footer; restore it ☃")
    assert TerminationMessage.decode(said.encode()) == said
    assert json.loads(said.encode()) == {"reason": "CorruptSegment", "retryable": True, "message": said.message}


@pytest.mark.parametrize(
    "text",
    ["", "Traceback (most recent call last):", "{", "[]", '{"message": "no reason"}', '{"reason": "lower case"}'],
)
def test_what_is_no_termination_message_is_none(text: str) -> None:
    assert TerminationMessage.decode(text) is None


def test_a_newer_trainers_message_is_read_without_the_fields_that_we_do_not_know() -> None:
    read = TerminationMessage.decode('{"reason": "X", "since": 3}')
    assert read == TerminationMessage(reason="X", retryable=False, message="")


@given(st.text(max_size=1024))
@example("☃" * 1024)
@example("\U0001f600" * 1024)
@example('"' * 1024)
def test_a_message_in_any_script_is_read_back_and_cut_only_where_the_kubelet_would_cut_it(message: str) -> None:
    text = TerminationMessage(reason="X", retryable=True, message=message).encode()
    assert len(text.encode()) <= TERMINATION_LIMIT
    assert text.isascii()
    read = TerminationMessage.decode(text)
    assert read is not None
    assert (read.reason, read.retryable) == ("X", True)
    assert message.startswith(read.message)
    assert read.message == message or len(text) > TERMINATION_LIMIT - 24


def test_an_error_carries_its_message_for_the_log_and_no_more_than_a_condition_takes() -> None:
    error = RecastError("DataTooShort", "x" * 2000, retryable=True)
    assert str(error) == "x" * 2000
    assert error.termination == TerminationMessage(reason="DataTooShort", retryable=True, message="x" * 1024)
    assert not RecastError("X", "y").termination.retryable


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, Manifest]:
    (tmp_path / "weights").write_bytes(b"12345")
    (tmp_path / "config").write_bytes(b"{}")
    manifest = Manifest(
        kind="FoundationModel",
        model="home-fm",
        uid="u",
        number=1,
        lineage=1,
        created="2026-01-01T00:00:00Z",
        watermark="2026-01-01T00:00:00Z",
        files=describe_files(tmp_path, ["weights", "config"]),
        config={"b": 1, "a": 2},
        surfaces=["feed"],
        tasks=["click"],
        job_name="j",
        inputs_hash="h",
    )
    (tmp_path / MANIFEST).write_bytes(manifest.canonical())
    return tmp_path, manifest


def reason(call: Any) -> str:
    with pytest.raises(RecastError) as caught:
        call()
    return caught.value.termination.reason


def test_a_manifest_lists_every_file_in_order_with_its_size_and_hash(artifact: tuple[Path, Manifest]) -> None:
    files = artifact[1].files
    assert [(entry.path, entry.bytes) for entry in files] == [("config", 2), ("weights", 5)]
    assert files[1].sha256 == hashlib.sha256(b"12345").hexdigest()


def test_the_digest_is_the_hash_of_canonical_json(artifact: tuple[Path, Manifest]) -> None:
    manifest = artifact[1]
    text = manifest.canonical().decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert manifest.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert manifest.model_copy(update={"number": 2}).digest != manifest.digest


def test_a_manifest_without_an_aggregate_has_the_digest_that_it_had_before_there_were_any() -> None:
    old = (
        b'{"attempt":1,"config":{},"created":"2026-01-01T00:00:00Z","files":[],"finite":true,"format":1,'
        b'"inputsHash":"h","jobName":"j","kind":"FoundationModel","lineage":1,"measurements":[],"model":"home-fm",'
        b'"number":1,"surfaces":["feed"],"tasks":["click"],"uid":"u","usableRows":[],"watermark":"2026-01-01T00:00:00Z"}'
    )
    manifest = Manifest.model_validate_json(old)
    assert manifest.canonical() == old
    measured = manifest.model_copy(update={"aggregate": Aggregate(rows=9, positives=3, ne="0.9")})
    assert measured.digest != manifest.digest
    assert Manifest.model_validate_json(measured.canonical()) == measured


def test_an_artefact_is_loaded_only_if_all_of_its_bytes_are_those_of_the_digest(
    artifact: tuple[Path, Manifest],
) -> None:
    folder, manifest = artifact
    assert load_verified(folder, manifest.digest) == manifest
    assert reason(lambda: load_verified(folder, "sha256:" + "0" * 64)) == "DigestMismatch"
    (folder / "weights").write_bytes(b"12346")
    assert reason(lambda: load_verified(folder, manifest.digest)) == "DigestMismatch"
    assert load_verified(folder, manifest.digest, check_files=False) == manifest
    (folder / "weights").write_bytes(b"1234")
    with pytest.raises(RecastError, match="weights has 4 of 5 bytes"):
        load_verified(folder, manifest.digest)
    (folder / "weights").unlink()
    assert reason(lambda: load_verified(folder, manifest.digest)) == "ArtifactTruncated"
    (folder / MANIFEST).write_text("{}")
    assert reason(lambda: load_verified(folder, manifest.digest)) == "ArtifactTruncated"
    (folder / MANIFEST).unlink()
    assert reason(lambda: load_verified(folder, manifest.digest)) == "ArtifactMissing"


def test_the_three_kinds_are_the_api() -> None:
    assert [kind.__name__ for kind in KINDS] == ["FoundationModel", "ExpertModel", "ModelVersion"]
