"""What can be said of the chart without Helm: its versions, its values and its templates as text."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from recast_api import names

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "recast"
TEMPLATES = sorted((CHART / "templates").iterdir())


def _leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        nested = isinstance(value, dict) and key not in ("nodeSelector", "resources", "labels")
        found |= _leaves(value, f"{prefix}{key}.") if nested else {prefix + key}
    return found


def test_chart_and_distribution_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


FOR_USERS = [
    path
    for place in ("examples", "helm", "docs", "README.md", "CONTRIBUTING.md")
    for path in ([ROOT / place] if (ROOT / place).is_file() else sorted((ROOT / place).rglob("*")))
    if path.is_file() and path.suffix in (".yaml", ".md", "") and "crds" not in path.parts
]
IMAGE = re.compile(r"""(?:\bimage["']?\s*[:=]\s*|\bARG BASE=)["']?([^\s"',}]+/[^\s"',}]+)""")
OWNED_BY_NO_STRANGER = re.compile(r"recast\.invalid/|([\w-]+\.)*example\.com/|\$\{?REGISTRY\}?/")


def test_no_file_for_users_names_an_image_that_a_stranger_could_push() -> None:
    named = {(path, image) for path in FOR_USERS for image in IMAGE.findall(path.read_text())}
    assert {path.name for path, _ in named} >= {"reels.yaml", "Dockerfile", "README.md"}
    assert {(str(path), image) for path, image in named if not OWNED_BY_NO_STRANGER.match(image)} == set()


def test_every_value_is_used_by_a_template() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = "\n".join(path.read_text() for path in TEMPLATES)
    assert [leaf for leaf in _leaves(values) if f".Values.{leaf}" not in text] == []


def test_every_value_is_in_the_schema_and_every_key_of_the_schema_in_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    assert set(schema["definitions"]["operator"]["properties"]) == set(values["operator"])


def test_every_value_is_explained_by_a_comment_near_it() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    obvious = {"operator", "crds", "resources", "imagePullPolicy", "priorityClassName", "nodeSelector", "tolerations"}
    obvious |= {"requests", "limits", "monitoring", "enabled", "labels"}
    bare = []
    for index, line in enumerate(lines):
        key = re.match(r"\s*(\w+):", line)
        if key and key[1] not in obvious and not lines[index - 1].lstrip().startswith("#"):
            bare.append(key[1])
    assert bare == []


@pytest.mark.parametrize("name", [names.TRAINER_SERVICE_ACCOUNT, names.SERVER_SERVICE_ACCOUNT])
def test_the_chart_makes_the_service_accounts_that_pods_are_given(name: str) -> None:
    assert f"name: {name}\n" in (CHART / "templates" / "workloads.yaml").read_text()


def test_the_operator_runs_as_the_user_of_its_image() -> None:
    text = (CHART / "templates" / "deployment.yaml").read_text()
    assert re.findall(r"runAs(?:User|Group): (\d+)", text) == [str(names.RUN_AS_USER)] * 2


def test_the_constraints_hold_versions_only_and_no_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*==[A-Za-z0-9.+]+", line)] == []


def test_every_pinned_dependency_agrees_with_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    exact = [entry.split("==") for entry in wanted if "==" in entry and not entry.startswith("fbgemm-gpu==")]
    assert exact
    assert [(name, version) for name, version in exact if pins[name] != version] == []
    names_wanted = {re.split(r"[<>=\[]", entry)[0].lower() for entry in wanted} - {"fbgemm-gpu"}
    assert names_wanted - set(pins) == set()
