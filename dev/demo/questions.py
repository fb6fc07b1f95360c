"""What the traffic client asks: requests from the scenario's own data, with users and items that exist.

The generated stream is the same bytes for the same seed, so what is written here equals what the Job writes to the
volume; for MovieLens this folder *is* what is copied to the volume.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dev.demo.scenario import Scenario
from dev.demo.target import REPOSITORY, STATE, TargetError

COUNT = 3000
A_SURFACE = 200

Question = dict[str, Any]


def folder(scenario: Scenario) -> Path:
    """Where the scenario's data set lies on this machine."""
    return STATE / scenario.name / "data" / "stream"


def prepare(scenario: Scenario) -> Mapping[str, list[Question]]:
    """Write the data set and return questions by surface. Raises :class:`TargetError`."""
    data, requests = folder(scenario), folder(scenario).parent / "requests.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    _tool(scenario.name, *scenario.data_arguments, "--out", str(data))
    _tool("export-requests", str(data), "--out", str(requests), "--count", str(COUNT))
    return by_surface(requests.read_text().splitlines())


def by_surface(lines: Iterable[str]) -> dict[str, list[Question]]:
    """The newest questions of each surface, as the body of a ranking request."""
    sorted_out: dict[str, list[Question]] = {}
    for line in lines:
        request = json.loads(line)
        sorted_out.setdefault(request.pop("surface"), []).append(request)
    return {surface: questions[-A_SURFACE:] for surface, questions in sorted_out.items()}


def _tool(*arguments: str) -> None:
    command = [sys.executable, "-m", "recast_trainer.data", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"{' '.join(command[1:])}: {done.stderr.strip()}")
