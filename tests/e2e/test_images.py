"""Images without a registry: buildah's storage, our OCI layout, and the way back."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.images import Builder, Image
from dev.cluster.oci import REGISTRY


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    """With a home whose path could not be an image's name, as ``~/.cache`` could not."""
    builder = Builder(tmp_path / ".Cache")
    yield builder
    builder.empty()


def build(builder: Builder, folder: Path, name: str, *, base: str = "scratch") -> str:
    """An image ``name`` of one file of that name on ``base``; its name in the storage."""
    folder.mkdir()
    (folder / name).write_text(name)
    (folder / "Dockerfile").write_text(f"ARG BASE\nFROM {base}\nCOPY {name} /{name}\n")
    built = f"localhost/recast-{name}:1"
    builder.build(Image(name, ""), folder / "Dockerfile", folder, built, {"BASE": base})
    builder.layout.add(builder.storage, built, f"{REGISTRY}/{name}:1")
    return built


def files(builder: Builder, ref: str) -> list[list[str]]:
    """The files of each layer of a finished image, the lowest first."""
    blobs = builder.layout.root / "blobs" / "sha256"
    index = json.loads((builder.layout.root / "index.json").read_text())
    found = next(m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == ref)
    manifest = json.loads((blobs / found["digest"].removeprefix("sha256:")).read_text())
    layers = []
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
            layers.append([member.name for member in archive if member.isfile()])
    return layers


def test_an_image_is_built_upon_again_after_the_build_storage_was_emptied(builder: Builder, tmp_path: Path) -> None:
    below = build(builder, tmp_path / "first", "below")
    builder.empty()
    assert not builder.has(below)

    builder.take_back(f"{REGISTRY}/below:1", below)
    middle = build(builder, tmp_path / "second", "middle", base=below)
    build(builder, tmp_path / "third", "above", base=middle)

    assert files(builder, f"{REGISTRY}/above:1") == [["below"], ["middle"], ["above"]]
