"""Finished images in one OCI layout, read straight from buildah's storage and streamed to the node's containerd.

`buildah push` would compress gigabytes that are unpacked again a moment later, and read the PyTorch layer anew for each
image upon it. Here a layer becomes a plain tar once, is known from then on by the digest that the storage gave it, and
is sent only to a node that does not hold it yet.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dev.cluster.assets import SetupError

_REF = "org.opencontainers.image.ref.name"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"

Json = dict[str, Any]

REGISTRY = "recast.invalid"
"""The host in the names of images that this machine alone holds, and of the images in ``examples/``.

``.invalid`` is reserved and never resolves (RFC 6761): what is not loaded already cannot be pulled from anywhere.
"""
KEPT = 2
"""Images of one name that stay in the layout."""


class _Hashing(io.RawIOBase):
    """A file that knows the digest and size of what passed through it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    @property
    def digest(self) -> str:
        return "sha256:" + self._digest.hexdigest()


class Storage:
    """What buildah's overlay storage holds, read without buildah."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _read(self, name: str) -> list[Json]:
        file = self._root / name
        loaded: list[Json] = json.loads(file.read_text()) if file.exists() else []
        return loaded

    def image(self, name: str) -> Json | None:
        """The record of the image with that name."""
        images = self._read("overlay-images/images.json")
        return next((image for image in images if name in image.get("names", [])), None)

    def config(self, image: Json) -> Json:
        """The image's OCI configuration."""
        # It is kept under its digest; names that are no plain file names are written in base64 there.
        name = base64.b64encode(f"sha256:{image['id']}".encode()).decode()
        loaded: Json = json.loads((self._root / "overlay-images" / image["id"] / f"={name}").read_text())
        return loaded

    def layers(self, image: Json) -> list[Json]:
        """The image's layers, the lowest first."""
        known = {layer["id"]: layer for layer in self._read("overlay-layers/layers.json")}
        chain, next_ = [], image["layer"]
        while next_:
            chain.append(known[next_])
            next_ = known[next_].get("parent", "")
        return chain[::-1]

    def diff(self, layer: Json) -> Path:
        """The folder with what a layer changes."""
        return self._root / "overlay" / str(layer["id"]) / "diff"


def pack(folder: Path, stream: io.RawIOBase) -> None:
    """Write an overlay folder as a layer's tar: sorted, and overlay's marks of deletion in OCI's form."""
    with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20, format=tarfile.PAX_FORMAT) as archive:
        for path in _walk(folder):
            name = str(path.relative_to(folder))
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                archive.addfile(tarfile.TarInfo(str(Path(name).with_name(".wh." + path.name))))
                continue
            info = archive.gettarinfo(str(path), arcname=name)
            info.uname = info.gname = ""
            if info.isreg():
                with path.open("rb") as content:
                    archive.addfile(info, content)
            else:
                archive.addfile(info)
            if info.isdir() and _opaque(path):
                archive.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def _newest(entries: list[Json]) -> list[Json]:
    """The images to keep: the newest few of each name. Two checkouts share them; more would only fill the disk."""
    kept: list[Json] = []
    for entry in reversed(entries):
        if sum(_name(other) == _name(entry) for other in kept) < KEPT:
            kept.append(entry)
    return kept[::-1]


def _name(entry: Json) -> str:
    """The image's name without registry and tag."""
    reference: str = entry["annotations"][_REF]
    return reference.rpartition(":")[0].rpartition("/")[2]


class ImageLayout:
    """An OCI image layout in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)

    def _load(self, name: str, default: Json) -> Json:
        file = self.root / name
        loaded: Json = json.loads(file.read_text()) if file.exists() else default
        return loaded

    def _save(self, name: str, content: Json) -> None:
        scratch = self.root / f"{name}.new"
        scratch.write_text(json.dumps(content, indent=1))
        os.replace(scratch, self.root / name)

    def _index(self) -> list[Json]:
        entries: list[Json] = self._load("index.json", {"manifests": []})["manifests"]
        return entries

    def has(self, ref: str) -> bool:
        """Whether an image is here, whole."""
        return any(entry["annotations"][_REF] == ref for entry in self._index())

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "/")

    def _put(self, content: Json) -> Json:
        data = json.dumps(content, sort_keys=True).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._blob(digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def _layer(self, storage: Storage, layer: Json) -> Json:
        known = self._load("layers.json", {})
        key = layer["diff-digest"]
        if (taken := self._blob(key)).exists():  # it was pulled from here: its tar is the one that we made
            return {"mediaType": _LAYER, "digest": key, "size": taken.stat().st_size}
        if key not in known or not self._blob(known[key]["digest"]).exists():
            scratch = self.root / "layer.incomplete"
            with _Hashing(scratch) as stream:
                pack(storage.diff(layer), stream)
            os.replace(scratch, self._blob(stream.digest))
            known[key] = {"mediaType": _LAYER, "digest": stream.digest, "size": stream.size}
            self._save("layers.json", known)
        entry: Json = known[key]
        return entry

    def add(self, storage: Storage, name: str, ref: str) -> None:
        """Take an image over from the storage."""
        image = storage.image(name)
        if image is None:
            raise SetupError(f"{name} is not in the build storage; remove the cache's buildah folder and build again")
        layers = [self._layer(storage, layer) for layer in storage.layers(image)]
        config = storage.config(image)
        config["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        # One entry per layer: buildah refuses a base image whose history has another number of layers than the image.
        config["history"] = [{"created_by": name} for _ in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **self._put(config)},
            "layers": layers,
        }
        entry = {"mediaType": _MANIFEST, **self._put(manifest), "annotations": {_REF: ref}}
        others = [other for other in self._index() if other["annotations"][_REF] != ref]
        self._save("index.json", {"schemaVersion": 2, "manifests": _newest([*others, entry])})
        self._collect()

    def _collect(self) -> None:
        """Delete the blobs that no image here is made of."""
        needed = {self._blob(digest) for digest in self._closure(self._index())}
        for blob in (self.root / "blobs" / "sha256").iterdir():
            if blob not in needed:
                blob.unlink()

    def send(self, refs: list[str], ctr: str) -> None:
        """Stream images to a containerd, without the blobs that it has."""
        listed = subprocess.run([ctr, "content", "ls", "-q"], capture_output=True, text=True, check=True)
        known = set(listed.stdout.split())
        entries = [entry for entry in self._index() if entry["annotations"][_REF] in refs]
        named = [
            {**entry, "annotations": {"io.containerd.image.name": entry["annotations"][_REF]}} for entry in entries
        ]
        process = subprocess.Popen([ctr, "images", "import", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=process.stdin, mode="w|") as stream:
            for digest in self._closure(entries):
                if digest not in known:
                    stream.add(self._blob(digest), arcname=f"blobs/{digest.replace(':', '/')}")
            for file, content in (
                ("index.json", {"schemaVersion": 2, "manifests": named}),
                ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ):
                (Path(folder) / file).write_text(json.dumps(content))
                stream.add(Path(folder) / file, arcname=file)
        process.stdin.close()
        if process.wait():
            raise SetupError(f"containerd refused {', '.join(refs)}: see `python -m dev.cluster logs`")

    def _closure(self, entries: list[Json]) -> list[str]:
        """The digests of everything that the images are made of."""
        found: dict[str, None] = {}
        for entry in entries:
            manifest = json.loads(self._blob(entry["digest"]).read_text())
            for part in (entry, manifest["config"], *manifest["layers"]):
                found[part["digest"]] = None
        return list(found)
