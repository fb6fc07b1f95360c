"""``python -m dev.mutants``: run the committed mutants, print a table by file, fail where too many survive."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from dev.mutants import catalogue
from dev.mutants.catalogue import Mutant
from dev.mutants.nearest import nearest
from dev.mutants.run import Runner, Verdict

ROOT = Path(__file__).resolve().parents[2]
NEEDED = 0.9


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """0: at least 90 % were killed, and no mutant that is listed as equivalent was."""
    options = _parser().parse_args(arguments)
    try:
        verdicts = _run(options, root)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(_as_json(verdicts), indent=1) + "\n", encoding="utf-8")
    print("\n" + report(verdicts))
    return 0 if good(verdicts) else 1


def _run(options: argparse.Namespace, root: Path) -> list[Verdict]:
    """The verdicts on the mutants that were asked for. Raises :class:`ValueError` where none can be given."""
    mutants = choose(root, options.only, options.since)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packages: list[str] = project["tool"]["hatch"]["build"]["dev-mode-dirs"]
    near = {file: nearest(root, packages, file) for file in {mutant.file for mutant in mutants if not mutant.tests}}
    chosen = [(mutant, mutant.tests or near[mutant.file]) for mutant in mutants]
    with tempfile.TemporaryDirectory(prefix="recast-mutants-") as scratch:
        runner = Runner(root, Path(scratch), packages, options.jobs)
        for tests, result in runner.baseline([tests for _, tests in chosen]):
            print(f"unmutated: {len(tests)} files of tests {result.state} in {result.seconds:.0f} s", flush=True)
            if result.state != "passed":
                raise ValueError(f"{result.by} fails without a mutant, so it can kill none")
        verdicts: list[Verdict] = []
        for verdict in runner.mutants(chosen):
            verdicts.append(verdict)
            print(f"{len(verdicts):>4}/{len(chosen)} {_said(verdict)}", flush=True)
    return verdicts


def choose(root: Path, only: str = "*", since: str | None = None) -> list[Mutant]:
    """The mutants of files that match ``only`` and differ from revision ``since``. Raises :class:`ValueError`."""
    mutants = catalogue.load(root)
    if wrong := list(catalogue.problems(root, mutants)):
        raise ValueError("\n".join(wrong))
    changed = _changed(root, since) if since else {mutant.file for mutant in mutants}
    chosen = [mutant for mutant in mutants if fnmatch(mutant.file, only) and mutant.file in changed]
    if not chosen:
        raise ValueError("no mutant is of such a file")
    return chosen


def report(verdicts: Sequence[Verdict]) -> str:
    """Killed and total by file, the survivors with what they mean, and the total."""
    lines = [f"{killed:>4}/{total:<4} {file}" for file, (killed, total) in _by_file(verdicts).items()]
    for verdict in sorted(verdicts, key=lambda verdict: (verdict.mutant.file, verdict.line)):
        mutant = verdict.mutant
        if not verdict.killed and not mutant.equivalent:
            lines += ["", f"survived: {_place(verdict)} ({mutant.listed}): {mutant.why}"]
            lines += [f"  - {line}" for line in mutant.old.splitlines()]
            lines += [f"  + {line}" for line in mutant.new.splitlines()]
        elif verdict.killed and mutant.equivalent:
            lines += ["", f"not equivalent: {_place(verdict)} ({mutant.listed}) was killed by {verdict.result.by}"]
    killed, total = _total(verdicts)
    equivalent = sum(bool(verdict.mutant.equivalent) for verdict in verdicts)
    return "\n".join(
        [*lines, "", f"killed {killed} of {total} ({killed / max(total, 1):.1%}), {equivalent} equivalent"]
    )


def good(verdicts: Sequence[Verdict]) -> bool:
    """Whether enough were killed, and none of those that are listed as equivalent."""
    killed, total = _total(verdicts)
    return killed >= NEEDED * total and not any(v.killed and v.mutant.equivalent for v in verdicts)


def _total(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    counted = [verdict for verdict in verdicts if not verdict.mutant.equivalent]
    return sum(verdict.killed for verdict in counted), len(counted)


def _by_file(verdicts: Sequence[Verdict]) -> dict[str, tuple[int, int]]:
    files = sorted({verdict.mutant.file for verdict in verdicts})
    return {file: _total([verdict for verdict in verdicts if verdict.mutant.file == file]) for file in files}


def _place(verdict: Verdict) -> str:
    return f"{verdict.mutant.file}:{verdict.line}"


def _said(verdict: Verdict) -> str:
    if verdict.mutant.equivalent:
        return f"{'KILLED, equivalent?' if verdict.killed else 'equivalent'} {_place(verdict)}"
    if verdict.killed:
        return f"killed {_place(verdict)} by {verdict.result.by} in {verdict.result.seconds:.1f} s"
    return f"SURVIVED {_place(verdict)}: {verdict.mutant.why}"


def _as_json(verdicts: Sequence[Verdict]) -> dict[str, object]:
    killed, total = _total(verdicts)
    return {
        "killed": killed,
        "total": total,
        "equivalent": [{"at": _place(v), "reason": v.mutant.equivalent} for v in verdicts if v.mutant.equivalent],
        "files": {file: {"killed": k, "total": n} for file, (k, n) in _by_file(verdicts).items()},
        "survivors": [
            {"at": _place(v), "listed": v.mutant.listed, "why": v.mutant.why}
            for v in verdicts
            if not v.killed and not v.mutant.equivalent
        ],
        "killers": {f"{_place(v)} {v.mutant.listed}": v.result.by for v in verdicts if v.killed},
    }


def _changed(root: Path, revision: str) -> set[str]:
    command = ["git", "diff", "--name-only", "--relative", revision]
    return set(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.mutants", description=__doc__)
    parser.add_argument("--only", default="*", metavar="GLOB", help="mutants of matching files, such as 'operator/*'")
    parser.add_argument("--since", metavar="REV", help="mutants of files that differ from this git revision")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs of pytest at once (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
