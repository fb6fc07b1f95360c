"""Files that are either absent or whole, after any crash: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Force a written file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file below ``folder``, and the folders that name them, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(root) / name)
        sync_file(Path(root))


def replace(temporary: Path, final: Path) -> None:
    """Give a synced file or folder its final name. ``final`` must not be a folder that holds anything."""
    os.replace(temporary, final)
    sync_file(final.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    sync_file(temporary)
    replace(temporary, path)
