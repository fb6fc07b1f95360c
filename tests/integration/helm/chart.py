"""Runs Helm on the chart, without any cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dev.cluster import assets

CHART = Path(__file__).resolve().parents[3] / "helm" / "recast"
RELEASE, NAMESPACE = "recast", "recast-system"
IMAGE = "registry.example.com/recast/operator:0.1.0"

Objects = list[dict[str, Any]]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm without any cluster."""
    command = [str(assets.binaries() / "helm"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    )


def template(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """``helm template`` with the given values on top of the chart's, and an image where none of them names one."""
    chosen = {"operator.image": IMAGE, **values}
    flags = [flag for key, value in chosen.items() for flag in ("--set-json", f"{key}={json.dumps(value)}")]
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *flags)


def rendered(**values: Any) -> Objects:
    """The rendered objects for the given values (``a__b`` is ``a.b``); fails with Helm's words."""
    answer = template({key.replace("__", "."): value for key, value in values.items()})
    assert answer.returncode == 0, answer.stderr
    return [found for found in yaml.safe_load_all(answer.stdout) if found]
