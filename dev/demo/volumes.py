"""Volumes of the cluster of ``make cluster`` whose claims are gone: emptied, and made available again.

They are folders of the host that nothing provisions, so without this every run of the demo would use up two.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dev.demo.target import OUR_KUBECONFIG, Cluster

FOLDERS = OUR_KUBECONFIG.parent / "volumes"


def recycle(cluster: Cluster) -> None:
    """Empty and release every volume whose claim is gone; only where the folders are ours."""
    if not cluster.ours:
        return
    for volume in cluster.get("persistentvolumes")["items"]:
        folder = abandoned(volume)
        if folder is None:
            continue
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        cluster.run("patch", "pv", volume["metadata"]["name"], "--type=merge", "-p", '{"spec": {"claimRef": null}}')


def abandoned(volume: Mapping[str, Any]) -> Path | None:
    """The folder of a volume that was released, if it is one of ours; else None."""
    path = Path(volume["spec"].get("hostPath", {}).get("path", "/"))
    released = volume.get("status", {}).get("phase") == "Released"
    return path if released and path.parent == FOLDERS and path.is_dir() else None
