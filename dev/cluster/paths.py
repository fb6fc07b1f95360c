"""Where things live: heavy ones in a cache outside the repository, a cluster's state in ``.cluster/`` of a checkout."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STATE = REPO / ".cluster"


def user_cache() -> Path:
    """Where programs of this user keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache() -> Path:
    """The cache folder: ``$RECAST_CACHE``, or ``recast`` in the user's cache folder."""
    base = os.environ.get("RECAST_CACHE")
    root = Path(base) if base else user_cache() / "recast"
    root.mkdir(parents=True, exist_ok=True)
    return root


def direct_environment() -> dict[str, str]:
    """This program's environment without proxies and kubeconfig: the parts of a cluster talk to each other directly."""
    ours = {"all_proxy", "http_proxy", "https_proxy", "kubeconfig"}
    return {name: value for name, value in os.environ.items() if name.lower() not in ours}


def content_hash(*parts: bytes | str | Path) -> str:
    """Twelve hexadecimal digits over the content of files and strings: the name of whatever is built from them."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a machine-wide lock, so that two checkouts never build the same thing into the cache at once."""
    with (cache() / f".{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
