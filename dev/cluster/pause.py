"""The sandbox image that holds a pod's namespaces: one static binary, packed without any image builder."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile

from dev.cluster import assets
from dev.cluster.layout import ClusterLayout
from dev.cluster.oci import REGISTRY

REFERENCE = f"{REGISTRY}/pause:1"


def _entry(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def load(layout: ClusterLayout) -> None:
    """The sandbox image, made of one static binary, without any image builder."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _entry(archive, "pause", (assets.binaries() / "pause").read_bytes(), 0o755)
    data = layer.getvalue()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]).encode()
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w") as archive:
        for name, content in (("manifest.json", manifest), ("config.json", config), ("layer.tar", data)):
            _entry(archive, name, content)
    subprocess.run(
        [str(layout.state / "bin" / "ctr"), "images", "import", "-"],
        input=bundle.getvalue(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
