"""The reference page is what the classes say, whole, and readable as Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import ConfigDict, Field

from recast_api.base import Name, Wire, rules
from recast_api.crd import definition
from recast_api.reference import PAGE, bounds_of, fields, kind_section, main, page, type_of
from recast_api.resources import KINDS
from recast_api.structural import structural

ROOT = Path(__file__).resolve().parents[3]


def cells(line: str) -> list[str]:
    """The cells of a table's row."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_checked_in_page_is_what_the_classes_say() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page()


def test_check_names_a_page_that_differs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "reference.md"
    out.write_text("changed", encoding="utf-8")
    assert main(["--check", "--out", str(out)]) == 1
    assert str(out) in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "changed"
    assert main(["--out", str(out)]) == 0
    assert main(["--check", "--out", str(out)]) == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_row_has_as_many_cells_as_its_heading(kind: type[Wire]) -> None:
    width = 0
    for before, line in zip(["", *kind_section(kind)], kind_section(kind), strict=False):
        if line.startswith("|"):
            width = width if before.startswith("|") else len(cells(line))
            assert len(cells(line)) == width, line


def section(kind: type[Wire], title: str) -> list[list[str]]:
    """The rows of one of the kind's tables, without their heading."""
    lines = kind_section(kind)
    below = lines[lines.index(f"### {kind.__name__} {title}") + 1 :]
    end = next((index for index, line in enumerate(below) if line.startswith("#")), len(below))
    return [cells(line) for line in below[:end] if line.startswith("|")][2:]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_and_every_rule_of_the_definition_is_on_the_page_once(kind: type[Wire]) -> None:
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        wanted = [f"`{field.path}`" for field in fields(schema["properties"][part])]
        assert [row[0] for row in section(kind, part)] == wanted
        assert len(set(wanted)) == len(wanted)
    assert len(section(kind, "rules")) == str(schema).count("'rule':")


def test_the_columns_that_kubectl_shows_without_being_asked_are_named() -> None:
    (line,) = [line for line in kind_section(KINDS[1]) if line.startswith("`kubectl get")]
    assert line == "`kubectl get em` (or `expertmodels`) shows Ready, Stable, Canary, Weight, Stale, Reason, Age."


class Part(Wire):
    """One part."""

    name: Name
    """The column label_<name>."""


class Whole(Wire):
    """A whole."""

    model_config = ConfigDict(json_schema_extra=rules(("self.size < 9 || true", "small | <any>")))

    size: Annotated[int, Field(ge=1, le=9)] = 3
    """How large."""
    parts: Annotated[
        list[Part],
        Field(
            max_length=4, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ]
    """Its parts."""
    words: Annotated[dict[str, Annotated[str, Field(max_length=5)]], Field(default_factory=dict, max_length=2)]
    """Its words."""


def test_fields_come_in_order_with_what_is_inside_them() -> None:
    found = [(field.path, field.required) for field in fields(structural(Whole))]
    assert found == [("size", False), ("parts", True), ("parts[].name", True), ("words", False), ("words{}", False)]


@pytest.mark.parametrize(
    ("node", "type_", "bounds"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, "integer", "1 to 9"),
        ({"type": "integer", "minimum": 0}, "integer", "at least 0"),
        ({"type": "string", "maxLength": 5, "pattern": "^a$"}, "string", "at most 5 characters, `^a$`"),
        ({"type": "string", "minLength": 1, "maxLength": 5}, "string", "1 to 5 characters"),
        ({"type": "string", "enum": ["A", "B"]}, "one of `A`, `B`", ""),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}, "list", "1 to 2 entries"),
        ({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, "set", ""),
        (
            {"type": "array", "items": {}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "list, one per `name`",
            "",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 8},
            "map",
            "at most 8 entries",
        ),
        ({"type": "object", "properties": {}}, "object", ""),
        ({"x-kubernetes-int-or-string": True, "minimum": 0}, "integer or string", "at least 0"),
    ],
)
def test_types_and_bounds_are_said_in_words(node: dict[str, Any], type_: str, bounds: str) -> None:
    assert (type_of(node), bounds_of(node)) == (type_, bounds)


def test_markdown_keeps_angle_brackets_of_prose_and_pipes_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = definition(KINDS[0])
    shown["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = structural(Whole)
    monkeypatch.setattr("recast_api.reference.definition", lambda _: shown)
    spec = {row[0]: row[1:] for row in section(KINDS[0], "spec")}
    assert spec["`parts[].name`"][-1] == "The column label_&lt;name>."
    assert spec["`parts`"] == ["list, one per `name`", "*required*", "at most 4 entries", "Its parts."]
    assert spec["`size`"] == ["integer", "`3`", "1 to 9", "How large."]
    assert spec["`words`"] == ["map", "", "at most 2 entries", "Its words."]
    rule = next(row for row in section(KINDS[0], "rules") if row[0] == "`spec`")
    assert rule[1:] == ["small \\| &lt;any>", "`self.size < 9 \\|\\| true`"]
