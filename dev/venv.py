"""Makes ``.venv`` from ``pyproject.toml`` and ``constraints.txt``, with uv, which pip fetches where it is missing.

Plain Python 3.11 or newer, standard library only: it runs before anything is installed. A stamp in the environment
holds the hash of what it was made from, so that a second call costs nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
VENV = REPOSITORY / ".venv"
STAMP = VENV / ".recast-stamp"
EXTRAS = "operator,trainer,server,cli,dev"
OLDEST = (3, 11)


def wanted() -> str:
    """The hash of everything that decides the environment's content."""
    inputs = [REPOSITORY / "pyproject.toml", REPOSITORY / "constraints.txt"]
    parts = [sys.version.encode(), EXTRAS.encode(), str(VENV).encode(), *(path.read_bytes() for path in inputs)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def commands(uv: str | None) -> list[list[str]]:
    """What to run, in order; ``uv`` is its path or None. Without one it is fetched first: pip takes minutes longer."""
    python = VENV / "bin" / "python"
    wanted_here = ["-c", "constraints.txt", "pip", "-e", f".[{EXTRAS}]"]
    install = ["pip", "install", "--quiet", "--python", str(python), *wanted_here]
    if uv:
        make = [] if python.exists() else [[uv, "venv", "--python", sys.executable, str(VENV)]]
        return [*make, [uv, *install]]
    own = str(VENV / "bin" / "uv")
    return [
        [sys.executable, "-m", "venv", str(VENV)],
        [str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off", "uv"],
        [own, *install],
    ]


def main() -> int:
    """Bring the environment up to date."""
    if sys.version_info < OLDEST:
        print(
            f"Recast needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}", file=sys.stderr
        )
        return 1
    hash_now = wanted()
    if STAMP.exists() and STAMP.read_text() == hash_now:
        return 0
    STAMP.unlink(missing_ok=True)
    for command in commands(uv_command()):
        done = subprocess.run(command, cwd=REPOSITORY, check=False)
        if done.returncode:
            print(f"venv: {' '.join(command[:4])} … failed with {done.returncode}", file=sys.stderr)
            return done.returncode
    STAMP.write_text(hash_now)
    return 0


def uv_command() -> str | None:
    """A uv that runs: a shim without a version behind it does not count."""
    found = shutil.which("uv")
    if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
        return found
    return None


if __name__ == "__main__":
    sys.exit(main())
