"""Runs tests on copies of the tree: once as it is, then once for each mutant.

The working tree is never touched. Each of the jobs has a copy of its own, in which one file at a time is changed.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dev.mutants.catalogue import Mutant

PYTEST = ("-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "--hypothesis-profile=ci")
"""Hypothesis's own profile ``ci`` derandomises: a mutant is not killed in one run and alive in the next."""
PATIENCE = 5
"""A mutant's tests may take this many times as long as without it, and GRACE_SECONDS; then they hang."""
GRACE_SECONDS = 60.0

State = Literal["passed", "failed", "timeout"]


@dataclass(frozen=True)
class Result:
    """How one run of tests ended."""

    state: State
    seconds: float
    by: str
    """The first test that failed, or pytest's last words."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    line: int
    result: Result

    @property
    def killed(self) -> bool:
        """Whether a test noticed; tests that hang count as noticing."""
        return self.result.state != "passed"


def copy_tree(root: Path, to: Path) -> None:
    """Copy what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


def run_tests(tree: Path, packages: Sequence[str], tests: Sequence[str], limit: float | None = None) -> Result:
    """Run pytest in ``tree``. Raises :class:`RuntimeError` where it could not run any of these tests."""
    path = os.pathsep.join(str(tree / package) for package in (*packages, "."))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, the other files need not be again
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *PYTEST, *tests], cwd=tree, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        return Result("timeout", time.monotonic() - began, f"no end after {limit:.0f} s")
    finally:
        if process.poll() is None:  # with all that the tests started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    seconds, lines = time.monotonic() - began, output.strip().splitlines()
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.MULTILINE)
    by = found[1] if found else (lines or ["no output"])[-1]
    if process.returncode not in (0, 1, 2):  # 2: collecting failed, as where an import fails
        raise RuntimeError(f"pytest ended with {process.returncode} for {' '.join(tests)}: {by}")
    return Result("passed" if process.returncode == 0 else "failed", seconds, by)


class Runner:
    """Some copies of the tree, as many as jobs, and what the unmutated tests took."""

    def __init__(self, root: Path, scratch: Path, packages: Sequence[str], jobs: int) -> None:
        self._packages = packages
        self._jobs = jobs
        self._trees: queue.Queue[Path] = queue.Queue()
        self._usual: dict[frozenset[str], float] = {}
        for job in range(jobs):
            copy_tree(root, scratch / str(job))
            self._trees.put(scratch / str(job))

    def baseline(self, selections: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], Result]]:
        """Run each selection of tests once without a mutant. They must pass, or killing means nothing."""
        distinct = {frozenset(tests): tests for tests in selections}
        with ThreadPoolExecutor(self._jobs) as pool:
            work = {pool.submit(self._in_a_tree, tests): key for key, tests in distinct.items()}
            for done in as_completed(work):
                self._usual[work[done]] = done.result().seconds
                yield distinct[work[done]], done.result()

    def mutants(self, chosen: Sequence[tuple[Mutant, Sequence[str]]]) -> Iterator[Verdict]:
        """Run each mutant's tests, as they end."""
        with ThreadPoolExecutor(self._jobs) as pool:
            for done in as_completed([pool.submit(self._mutate, mutant, tests) for mutant, tests in chosen]):
                yield done.result()

    def _in_a_tree(self, tests: Sequence[str]) -> Result:
        tree = self._trees.get()
        try:
            return run_tests(tree, self._packages, tests)
        finally:
            self._trees.put(tree)

    def _mutate(self, mutant: Mutant, tests: Sequence[str]) -> Verdict:
        tree = self._trees.get()
        path = tree / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            _write(path, mutant.applied(text))
            limit = GRACE_SECONDS + PATIENCE * self._usual[frozenset(tests)]
            return Verdict(mutant, mutant.line(text), run_tests(tree, self._packages, tests, limit))
        finally:
            _write(path, text)
            self._trees.put(tree)


def _write(path: Path, text: str) -> None:
    """Write a source file, and forget its bytecode: Python tells two texts of one second and one length not apart."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()
