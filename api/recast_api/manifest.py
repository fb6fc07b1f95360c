"""The artefact manifest: ``manifest.json`` beside the weights, and the digest that names a version by its content.

A version is a folder. The manifest lists every file with its SHA-256; the version's digest is the SHA-256 of the
manifest's canonical JSON, so that one string in a ModelVersion stands for every byte that a server loads.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from recast_api.base import Name, RelativePath, Timestamp, Wire
from recast_api.resources.version import Aggregate, Baseline, FoundationPin, Measurement, Tail
from recast_api.run import RecastError

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
MEASURED = "measured.safetensors"
"""The weights that were measured, where what serves has learned more since. No server loads them."""


class ArtifactFile(Wire):
    """One file of an artefact."""

    path: RelativePath
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UsableRows(Wire):
    """TAE rows that an expert may learn from, for one surface: after burn-in, and the frozen tail."""

    surface: str
    prequential: Annotated[int, Field(ge=0)]
    tail: Annotated[int, Field(ge=0)]


class Manifest(Wire):
    """What a version is made of, how it was made, and its measured quality."""

    format: Literal[1] = 1
    kind: Literal["FoundationModel", "ExpertModel"]
    model: Name
    uid: str
    number: Annotated[int, Field(ge=1)]
    lineage: Annotated[int, Field(ge=1)]
    created: Timestamp
    watermark: Timestamp
    files: list[ArtifactFile]
    config: dict[str, Any]
    """Everything the network's constructor needs, with ``attn_norm_len``; read by ``recast_model`` alone."""
    surfaces: list[str]
    tasks: list[str]
    job_name: str
    attempt: int = 1
    inputs_hash: str
    foundation: FoundationPin | None = None
    baseline: Baseline | None = None
    usable_rows: list[UsableRows] = Field(default_factory=list)
    finite: bool = True
    measurements: list[Measurement] = Field(default_factory=list)
    aggregate: Aggregate | None = None
    """Absent in what older trainers made; and what is absent is not part of :meth:`canonical`."""
    tail: Tail | None = None
    """Of a foundation's version alone."""

    @property
    def measured_weights(self) -> str:
        """The file with the weights that the measurements and the TAE log are of."""
        return MEASURED if self.tail is not None and self.tail.learned else WEIGHTS

    @property
    def measured_watermark(self) -> str:
        """Availability time up to which those weights have learned labels."""
        return self.tail.watermark if self.tail is not None and self.tail.learned else self.watermark

    def canonical(self) -> bytes:
        """The bytes that the digest is taken of: sorted keys, no white space."""
        return json.dumps(self.wire(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of :meth:`canonical`."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_files(folder: Path, names: list[str]) -> list[ArtifactFile]:
    """The manifest's entries for files already written to ``folder``."""
    return [
        ArtifactFile(path=name, bytes=(folder / name).stat().st_size, sha256=sha256_file(folder / name))
        for name in sorted(names)
    ]


def load_verified(folder: Path, digest: str | None, *, check_files: bool = True) -> Manifest:
    """The manifest of a version whose bytes are all as its digest says; None takes whichever version is there.

    Raises :class:`RecastError` with reason ``ArtifactMissing``, ``ArtifactTruncated`` or ``DigestMismatch``.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise RecastError(
            "ArtifactMissing", f"no {MANIFEST} in {folder}: the files were moved or deleted; land a new version"
        ) from error
    except ValidationError as error:
        raise RecastError(
            "ArtifactTruncated", f"{folder / MANIFEST} is not a manifest: {error.error_count()} errors"
        ) from error
    if digest is not None and manifest.digest != digest:
        raise RecastError(
            "DigestMismatch", f"{folder} holds {manifest.digest}, expected {digest}: the files are another version's"
        )
    for entry in manifest.files if check_files else []:
        path = folder / entry.path
        size = path.stat().st_size if path.exists() else -1
        if size != entry.bytes:
            raise RecastError(
                "ArtifactTruncated",
                f"{path} has {max(size, 0)} of {entry.bytes} bytes: restore the file or land a new version",
            )
        if sha256_file(path) != entry.sha256:
            raise RecastError("DigestMismatch", f"{path} is not what was published: restore it or land a new version")
    return manifest
