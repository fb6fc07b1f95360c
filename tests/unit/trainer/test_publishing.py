"""TrainingResult: a crash leaves nothing or a whole version, and the apiserver's answers lead where they should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import client, config

from recast_api.manifest import MANIFEST, Manifest, describe_files, load_verified
from recast_api.resources.version import Measurement, ModelVersion
from recast_api.run import RecastError, TrainingRun
from recast_trainer.publishing.artifact import land, landed
from recast_trainer.publishing.version import ATTEMPTS, ApiError, ClusterVersionApi, model_version, publish


class CrashError(Exception):
    """Stands for the process dying at this point."""


def manifest(names: list[str], folder: Path, number: int = 2) -> Manifest:
    return Manifest(
        kind="FoundationModel", model="home-fm", uid="u1", number=number, lineage=number,
        created="2026-11-21T00:00:00Z", watermark="2026-11-20T23:59:59.999Z", files=describe_files(folder, names),
        config={"dim": 8}, surfaces=["feed"], tasks=["click"], job_name="fm-home-fm-r2-a1", inputs_hash="h",
        measurements=[Measurement(surface="feed", task="click", rows=9, positives=3, ne="0.9", calibration="1.0")],
    )  # fmt: skip


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "tae").mkdir()
    (folder / "tae" / "00000-tail.parquet").write_bytes(b"rows" * 50)


def run(number: int = 2, attempt: int = 1) -> TrainingRun:
    return TrainingRun.model_validate(
        {
            "kind": "FoundationModel", "namespace": "demo", "model": "home-fm", "uid": "u1", "number": number,
            "attempt": attempt, "jobName": f"fm-home-fm-r{number}-a{attempt}", "inputsHash": "h", "modelsRoot": "/m",
            "dataRoot": "/d", "data": {"path": "x"}, "optimization": {"batchSize": 4, "learningRate": "0.01"},
        }
    )  # fmt: skip


def crash_at(point: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the ``point``-th touch of the disk by the landing code raise; counts the touches."""
    count = [0]

    def dying(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if count[0] == point:
                raise CrashError
            count[0] += 1
            return call(*args, **kwargs)

        return wrapped

    for owner, name in (
        (os, "fsync"), (os, "replace"), (Path, "write_text"), (Path, "write_bytes"), (Path, "mkdir"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    return count


def test_a_crash_at_any_point_leaves_nothing_or_a_complete_version_and_the_next_attempt_lands(tmp_path: Path) -> None:
    points, complete = 0, 0
    while True:
        final = tmp_path / str(points) / "v2"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(points, patch)
            try:
                land(final, write, manifest)
                break
            except CrashError:
                pass
        if final.exists():
            complete += 1
            assert landed(final) is not None
        else:
            assert landed(final) is None
            load_verified(final, land(final, write, manifest).digest)
        points += 1
    assert points >= 10
    assert complete >= 1  # the point between rename and the folder's fsync


def test_a_landed_version_vouches_for_every_file_it_holds(tmp_path: Path) -> None:
    made = land(tmp_path / "v2", write, manifest)
    assert [entry.path for entry in made.files] == ["model.safetensors", "tae/00000-tail.parquet"]
    found = landed(tmp_path / "v2")
    assert found is not None
    assert found.digest == made.digest
    (tmp_path / "v2" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RecastError) as caught:
        landed(tmp_path / "v2")
    assert caught.value.termination.reason == "ArtifactTruncated"


def test_a_folder_without_its_manifest_is_no_landed_version(tmp_path: Path) -> None:
    land(tmp_path / "v2", write, manifest)
    (tmp_path / "v2" / MANIFEST).unlink()
    assert landed(tmp_path / "v2") is None


class Apiserver:
    """A ModelVersion store that answers as told before it answers truly."""

    def __init__(self, *answers: int) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.answers = list(answers)
        self.creates = 0

    def create(self, namespace: str, body: dict[str, Any]) -> None:
        self.creates += 1
        if self.answers and (status := self.answers.pop(0)) != 201:
            raise ApiError(status, f"answer {status}")
        name = body["metadata"]["name"]
        if name in self.objects:
            raise ApiError(409, "already exists")
        self.objects[name] = body

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        if name not in self.objects:
            raise ApiError(404, "not found")
        return self.objects[name]


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    return land(tmp_path / "v2", write, manifest)


def no_sleep(_: float) -> None:
    """Time is injected: nothing waits."""


def test_the_object_names_path_digest_run_and_measurements(made: Manifest) -> None:
    api = Apiserver()
    publish(api, run(attempt=3), made, sleep=no_sleep)
    version = ModelVersion.model_validate(api.objects["fm-home-fm-v2"])
    assert version.spec.digest == made.digest
    assert version.spec.path == "fm/home-fm/u1/v2"
    assert (version.spec.number, version.spec.lineage) == (2, 2)
    assert (version.metadata.namespace, version.spec.model.uid) == ("demo", "u1")
    assert version.spec.run is not None
    assert version.spec.run.job_name == "fm-home-fm-r2-a3"  # the pod that publishes, not the one that trained
    owner = {"apiVersion": "recast.dev/v1alpha1", "kind": "FoundationModel", "name": "home-fm", "uid": "u1"}
    assert api.objects["fm-home-fm-v2"]["metadata"]["ownerReferences"] == [{**owner, "controller": True}]
    assert version.spec.measurements == made.measurements
    assert version.spec.watermark == "2026-11-20T23:59:59.999Z"


def test_publishing_the_same_artefact_again_is_success(made: Manifest) -> None:
    api = Apiserver()
    publish(api, run(), made, sleep=no_sleep)
    publish(api, run(attempt=2), made, sleep=no_sleep)
    assert len(api.objects) == 1


def test_another_digest_under_the_same_name_is_a_conflict_that_no_retry_solves(made: Manifest) -> None:
    api = Apiserver()
    publish(api, run(), made.model_copy(update={"inputs_hash": "other"}), sleep=no_sleep)
    with pytest.raises(RecastError) as caught:
        publish(api, run(), made, sleep=no_sleep)
    assert caught.value.termination.reason == "VersionConflict"
    assert not caught.value.termination.retryable


@pytest.mark.parametrize(
    ("answers", "reason", "creates"),
    [
        ((503, 0, 429), None, 4),
        ((503,) * ATTEMPTS, "ApiUnavailable", ATTEMPTS),
        ((403,), "VersionRefused", 1),
        ((422,), "VersionRefused", 1),
        ((409,), "ApiUnavailable", 1),  # exists, but cannot be read
    ],
)
def test_the_apiservers_answer_decides_between_retry_refusal_and_success(
    made: Manifest, answers: tuple[int, ...], reason: str | None, creates: int
) -> None:
    api = Apiserver(*answers)
    if reason is None:
        publish(api, run(), made, sleep=no_sleep)
        assert "fm-home-fm-v2" in api.objects
    else:
        with pytest.raises(RecastError) as caught:
            publish(api, run(), made, sleep=no_sleep)
        assert caught.value.termination.reason == reason
        assert caught.value.termination.retryable == (reason == "ApiUnavailable")
    assert api.creates == creates


def test_an_experts_version_says_what_it_was_trained_for_and_a_foundations_says_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    told = manifest(["model.safetensors"], tmp_path)
    assert model_version(run(), told).spec.tasks == []
    pin = {"name": "home-fm", "version": 1, "lineage": 1, "digest": told.digest}
    trained = Manifest.model_validate(
        told.wire() | {"kind": "ExpertModel", "tasks": ["click", "like"], "foundation": pin}
    )
    expert = run().model_copy(update={"kind": "ExpertModel"})
    assert model_version(expert, trained).spec.tasks == ["click", "like"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (client.ApiException(status=409, reason="Conflict"), 409, "Conflict"),
        (client.ApiException(status=503, reason="Unavailable"), 503, "Unavailable"),
        (client.ApiException(status=None, reason="handshake failed"), 0, "handshake failed"),
        (urllib3.exceptions.ProtocolError("cut off"), 0, "ProtocolError: cut off"),
        (ConnectionRefusedError("refused"), 0, "ConnectionRefusedError: refused"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_goes_wrong_on_the_way_to_the_apiserver_has_a_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fails(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(client.CustomObjectsApi, "create_namespaced_custom_object", fails)
    with pytest.raises(ApiError, match=words) as caught:
        ClusterVersionApi().create("demo", {})
    assert caught.value.status == status


def test_outside_a_cluster_there_is_nothing_to_publish_to() -> None:
    with pytest.raises(RecastError, match=r"not inside a pod .*use --no-publish") as caught:
        ClusterVersionApi()
    assert caught.value.termination.reason == "NoCluster"
