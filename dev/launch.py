"""``make demo`` and ``make test``: doctor, then everything that has to be there, side by side, then the main job.

Standard library only: it runs before the Python environment exists. Each preparation is a command of its own; what
depends on nothing runs at once, and each says what it does and how long that usually takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = str(REPOSITORY / ".venv" / "bin" / "python")
TIERS = ("unit", "integration", "e2e")


@dataclass(frozen=True)
class Task:
    """One preparation. It starts when those that it needs are done."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


VENV = Task("python", ("dev.venv",))
TOOLS = Task("tools", ("dev.cluster", "tools"))
NODE = Task("node", ("dev.cluster", "up"), needs=("tools",))
IMAGES = Task("images", ("dev.cluster", "images", "--no-load"))  # the node is sent them when it runs


class PreparationError(Exception):
    """A preparation failed; what it printed is above."""


@dataclass
class Preparation:
    """Runs tasks side by side and prints their lines under their names."""

    failures: dict[str, int] = field(default_factory=dict)
    _print: threading.Lock = field(default_factory=threading.Lock)

    def run(self, tasks: Sequence[Task]) -> None:
        """All of them. Raises :class:`PreparationError` once all that could run have run."""
        done: dict[str, Future[bool]] = {}
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            for task in tasks:  # a task comes after those that it needs
                done[task.name] = pool.submit(self._one, task, [done[name] for name in task.needs if name in done])
        if self.failures:
            raise PreparationError(f"{', '.join(self.failures)} failed: see above")

    def _one(self, task: Task, needs: Sequence[Future[bool]]) -> bool:
        if not all(need.result() for need in needs):
            return False
        began = time.monotonic()
        command = [sys.executable, "-u", "-m", *task.command]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            self._say(task.name, line.rstrip())
        if code := process.wait():
            self.failures[task.name] = code
            self._say(task.name, f"FAILED with exit code {code}")
            return False
        self._say(task.name, f"ready after {time.monotonic() - began:.0f} s")
        return True

    def _say(self, name: str, line: str) -> None:
        if line:
            with self._print:
                print(f"{name:<8}{line}", flush=True)


def demo(environment: Mapping[str, str]) -> int:
    """Prepare, then hand over to the demo."""
    mine = not environment.get("CONTEXT")
    if mine and _doctor():
        return 1
    Preparation().run([VENV, TOOLS, NODE, IMAGES] if mine else [VENV, TOOLS])
    data = environment.get("DATA") or "synthetic"
    code = subprocess.run([PYTHON, "-m", "dev.demo", "run", "--data", data], cwd=REPOSITORY, check=False).returncode
    if mine:
        _empty_build_storage()
    return code


def demo_down(environment: Mapping[str, str]) -> int:
    """Remove what the demo made: our whole cluster, or our namespaces from the cluster of CONTEXT."""
    if environment.get("CONTEXT"):
        return subprocess.run([PYTHON, "-m", "dev.demo", "down"], cwd=REPOSITORY, check=False).returncode
    return subprocess.run([sys.executable, "-m", "dev.cluster", "down"], cwd=REPOSITORY, check=False).returncode


def test(environment: Mapping[str, str], extra: Sequence[str]) -> int:
    """Prepare what the tiers need, then one run of pytest over all of them; its closing line is the last."""
    strict = environment.get("CI", "").lower() in ("1", "true", "yes")
    left_out: dict[str, str] = {}
    if _doctor():
        if strict:
            return 1
        left_out["e2e"] = "this machine cannot carry a cluster: see the doctor's list above"
    elif os.geteuid() != 0:
        left_out["e2e"] = "no root: run as root, or with sudo"
        if strict:
            print(f"e2e cannot run: {left_out['e2e']}", file=sys.stderr)
            return 1
    preparation = Preparation()
    try:
        preparation.run([VENV, TOOLS] if left_out else [VENV, TOOLS, NODE, IMAGES])
    except PreparationError as error:
        if strict or "python" in preparation.failures:
            raise
        left_out["e2e"] = str(error)
        if "tools" in preparation.failures:
            left_out["integration"] = str(error)
    for tier, why in left_out.items():
        print(f"{tier} does not run: {why}", flush=True)
    folders = [f"tests/{tier}" for tier in TIERS if tier not in left_out]
    code = subprocess.run([PYTHON, "-m", "pytest", *folders, *extra], cwd=REPOSITORY, check=False).returncode
    if not left_out:
        _empty_build_storage()
    for tier, why in left_out.items():
        print(f"NOT RUN: tests/{tier}: {why}", file=sys.stderr)
    return code


def _empty_build_storage() -> None:
    """Everything built is in the node and in the cache by now; a third copy would only take space."""
    command = [sys.executable, "-m", "dev.cluster", "images", "--prune"]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)  # pytest's closing line stays the last


def _doctor() -> int:
    return subprocess.run([sys.executable, "-m", "dev.doctor"], cwd=REPOSITORY, check=False).returncode


def main() -> int:
    """One verb of the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m dev.launch", description=__doc__)
    parser.add_argument("verb", choices=("demo", "demo-down", "test"))
    parser.add_argument("extra", nargs="*", help="further arguments of pytest")
    options = parser.parse_args()
    try:
        match options.verb:
            case "demo":
                return demo(os.environ)
            case "demo-down":
                return demo_down(os.environ)
            case _:
                return test(os.environ, options.extra)
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
