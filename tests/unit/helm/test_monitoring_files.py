"""The chart's dashboards and alert rules speak of metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "helm" / "recast" / "files" / "monitoring"
DASHBOARDS = sorted(FOLDER.glob("dashboard-*.json"))
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
FROM_PODS = {"namespace", "pod", "kind", "model", "revision", "lineage", "surface"}
"""Labels that the scrape configuration of docs/quickstart.md gives to every series of a server."""
FROM_PROCESSES = {"process_cpu_seconds_total": "counter", "process_resident_memory_bytes": "gauge"}
"""Metrics of the Prometheus client itself."""


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric that docs/operations.md lists, which is tested to be all that there are."""
    found: dict[str, tuple[str, set[str]]] = {name: (kind, set()) for name, kind in FROM_PROCESSES.items()}
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", page, re.MULTILINE):
        found[name] = (kind, found.get(name, ("", set()))[1] | set(re.findall(r"`(\w+)`", labels)))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every query, with where it stands."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_a_query_names_what_there_is(where: str, expression: str) -> None:
    metrics = documented()
    named = re.findall(r"\b((?:recast|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    labels = set(re.findall(r"\b(?:by|ignoring) \(([\w, ]+)\)", expression))
    grouped = {label.strip() for group in labels for label in group.split(",")} - {"le"}
    known = set(FROM_PODS)
    for name, selector in named:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in metrics or (family in metrics and metrics[family][0] in ("histogram", "summary")), name
        kind, own = metrics.get(name) or metrics[family]
        known |= own
        assert set(re.findall(r"(\w+)[=!]~?\"", selector)) <= FROM_PODS | own
        if kind == "counter" or name != family:  # what only grows says nothing by its height
            assert re.search(rf"(rate|increase)\({name}\b", expression)
        else:
            assert not re.search(rf"(rate|increase)\({name}\b", expression)
    assert grouped <= known


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    grouped = {label for group in re.findall(r"by \(([\w, ]+)\)", rule["expr"]) for label in group.split(", ")}
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= grouped


def test_every_panel_is_told_apart_and_explained() -> None:
    assert len(DASHBOARDS) == 2
    for path in DASHBOARDS:
        board = json.loads(path.read_text(encoding="utf-8"))
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        assert all(panel["description"] for panel in board["panels"] if panel["type"] != "row")
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
