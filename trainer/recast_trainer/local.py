"""Runs without a cluster: the YAML that one would apply, a folder of data and a folder of models.

What lands in the folder counts as what serves: the next run of a model is measured against it, and experts read the
newest foundation there. Nobody judges gates here; the measurements are printed, and stand in the manifest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recast_api import names
from recast_api.manifest import MANIFEST, Manifest
from recast_api.resources import ExpertModel, FoundationModel
from recast_api.resources.common import GROUP
from recast_api.run import ArtifactRef, DataRef, ExpertRun, Optimization, RecastError, TrainingRun

UID = "local"
JOB = "local"
_KINDS: dict[str, type[FoundationModel | ExpertModel]] = {
    "FoundationModel": FoundationModel,
    "ExpertModel": ExpertModel,
}


def read_models(path: Path) -> list[FoundationModel | ExpertModel]:
    """The models in a YAML file, foundations first; other objects in it are passed over.

    Raises ``BadSpec`` for a file without any, or with one that the apiserver would refuse.
    """
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if isinstance(document, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecastError("BadSpec", f"{path} cannot be read as YAML: {error}") from error
    for document in documents:
        kind, group = document.get("kind"), str(document.get("apiVersion", "")).partition("/")[0]
        if group == GROUP and kind not in (*_KINDS, "ModelVersion"):
            raise RecastError(
                "BadSpec", f"{path}: {group} has no kind {kind}; correct it to one of {', '.join(_KINDS)}"
            )
    found = [_parse(path, document) for document in documents if document.get("kind") in _KINDS]
    if not found:
        raise RecastError(
            "BadSpec", f"{path} holds no {' and no '.join(_KINDS)}; give the YAML that you would apply to a cluster"
        )
    return sorted(found, key=lambda model: model.kind != "FoundationModel")


def _parse(path: Path, document: dict[str, Any]) -> FoundationModel | ExpertModel:
    try:
        return _KINDS[document["kind"]].model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        model = f"{document['kind']} {name}" if name else document["kind"]
        remedy = {
            "string_type": "write it in quotes",
            "extra_forbidden": "it is misspelt, or belongs elsewhere: docs/reference.md has every field",
        }
        raise RecastError(
            "BadSpec", f"{path}: {model}: {where}: {first['msg']}; {remedy.get(first['type'], 'correct it')}"
        ) from error


@dataclass(frozen=True)
class Models:
    """A folder of models, laid out as on the volume of a cluster."""

    root: Path

    def folder(self, kind: names.Kind, model: str, number: int) -> Path:
        """Where a version lies or will lie."""
        return self.root / names.artifact_path(kind, model, UID, number)

    def newest(self, kind: names.Kind, model: str) -> ArtifactRef | None:
        """The newest landed version of a model."""
        versions = self.folder(kind, model, 0).parent.glob(f"v*/{MANIFEST}")
        numbers = [int(path.parent.name[1:]) for path in versions if path.parent.name[1:].isdigit()]
        return self.version(kind, model, max(numbers)) if numbers else None

    def version(self, kind: names.Kind, model: str, number: int) -> ArtifactRef:
        """A landed version. Raises ``ArtifactMissing`` or ``ArtifactTruncated``."""
        manifest = self.manifest(kind, model, number)
        return ArtifactRef(
            model=model,
            version=number,
            lineage=manifest.lineage,
            digest=manifest.digest,
            path=names.artifact_path(kind, model, UID, number),
        )

    def manifest(self, kind: names.Kind, model: str, number: int) -> Manifest:
        """Its manifest. Raises ``ArtifactMissing`` or ``ArtifactTruncated``."""
        path = self.folder(kind, model, number) / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RecastError("ArtifactMissing", f"no {path}: train {model} again") from error
        except ValidationError as error:
            raise RecastError("ArtifactTruncated", f"{path} is no manifest: train {model} again") from error


def local_run(
    model: FoundationModel | ExpertModel, data: Path, models: Models, answers: Path | None = None
) -> TrainingRun:
    """The run that trains a model's next version from the data set in ``data``.

    ``answers`` is a TAE log that experts read in the place of their foundation's own.

    A run that was cut off is the same run again, and goes on from its checkpoint. Raises ``FoundationNotFound`` for an
    expert whose foundation has not landed in ``models``.
    """
    kind, name, wanted = model.kind, model.metadata.name, model.spec.data
    until, window = (wanted.until, wanted.window) if wanted else (None, None)
    tail = model.spec.data.tail if isinstance(model, FoundationModel) else None
    baseline = models.newest(kind, name)
    inputs = hashlib.sha256(model.spec.model_dump_json().encode()).hexdigest()
    return TrainingRun(
        kind=kind,
        namespace=model.metadata.namespace or JOB,
        model=name,
        uid=UID,
        number=baseline.version + 1 if baseline else 1,
        attempt=1,
        job_name=JOB,
        inputs_hash=inputs,
        models_root=str(models.root),
        data_root=str(data.parent),
        data=DataRef(path=data.name, until=until, window=window, tail=tail),
        optimization=Optimization.of(model.spec.training),
        architecture=model.spec.architecture if isinstance(model, FoundationModel) else None,
        expert=_expert(model, models, answers) if isinstance(model, ExpertModel) else None,
        baseline=baseline,
        baseline_foundation=_read_by(name, baseline, models) if baseline and kind == "ExpertModel" else None,
    )


def _expert(model: ExpertModel, models: Models, answers: Path | None) -> ExpertRun:
    foundation = models.newest("FoundationModel", model.spec.foundation_ref.name)
    if foundation is None:
        raise RecastError(
            "FoundationNotFound",
            f"{model.metadata.name} reads {model.spec.foundation_ref.name}, of which no version is in {models.root}: "
            "train the foundation first",
        )
    return ExpertRun(
        surface=model.spec.surface,
        tasks=model.spec.tasks,
        architecture=model.spec.architecture,
        foundation=foundation,
        tae_log=None if answers is None else str(answers),
    )


def _read_by(expert: str, version: ArtifactRef, models: Models) -> ArtifactRef | None:
    """The foundation version that an expert's version reads."""
    pin = models.manifest("ExpertModel", expert, version.version).foundation
    return models.version("FoundationModel", pin.name, pin.version) if pin else None
