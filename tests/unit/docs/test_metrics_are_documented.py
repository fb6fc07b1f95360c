"""docs/operations.md lists every metric that the code registers, with its type and labels, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from recast_api import server

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TYPES = {
    "Counter": "counter", "CounterMetricFamily": "counter", "Gauge": "gauge", "gauge": "gauge",
    "Histogram": "histogram", "Summary": "summary",
}  # fmt: skip
Metric = tuple[str, str, tuple[str, ...]]
"""Name, type and labels."""


def registered(package: str) -> set[Metric]:
    """The metrics of a package's calls of ``Counter(name, help, [labels])`` and its like."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {metric for path in files for metric in _in_module(ast.parse(path.read_text(encoding="utf-8")))}


def _in_module(tree: ast.AST) -> Iterator[Metric]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = _name(node.args[0]) if node.args else ""
        if function in TYPES and name.startswith("recast_"):
            given = [*node.args[2:3], *(keyword.value for keyword in node.keywords if keyword.arg == "labelnames")]
            lists = [value for value in given if isinstance(value, ast.List | ast.Tuple)]
            labels = tuple(
                str(entry.value) for value in lists for entry in value.elts if isinstance(entry, ast.Constant)
            )
            yield name, TYPES[function], labels


def _name(node: ast.expr) -> str:
    """A literal, or a constant of :mod:`recast_api.server`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return str(getattr(server, node.attr, "")) if isinstance(node, ast.Attribute) else ""


def documented(*headings: str) -> set[Metric]:
    """The metrics in the tables below these headings."""
    found = set()
    for heading in headings:
        section = PAGE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", section, re.MULTILINE):
            found.add((name, kind, tuple(re.findall(r"`(\w+)`", labels))))
    return found


def test_every_metric_of_the_operator_is_listed_and_no_other() -> None:
    assert documented("Operator") == registered("operator/recast_operator")


def test_every_metric_of_the_servers_is_listed_and_no_other() -> None:
    assert documented("Expert server", "Foundation server") == registered("server/recast_server")


def test_every_name_that_operator_and_servers_agree_on_is_listed() -> None:
    constants = {name: value for name, value in vars(server).items() if name.isupper() and isinstance(value, str)}
    agreed = {value for value in constants.values() if value.startswith("recast_")}
    assert agreed
    assert agreed <= {name for name, _, _ in documented("Expert server", "Foundation server")}
