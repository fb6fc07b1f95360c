"""The checked-in CustomResourceDefinitions are what the classes say, in the dialect that the apiserver takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field

from recast_api.base import Wire
from recast_api.crd import FOLDERS, main, render
from recast_api.resources import KINDS
from recast_api.structural import structural

ROOT = Path(__file__).resolve().parents[3]


def _definitions() -> dict[str, dict[str, Any]]:
    return {(d := yaml.safe_load(text))["spec"]["names"]["kind"]: d for text in render().values()}


def _schema(kind: str) -> dict[str, Any]:
    return _definitions()[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


def _walk(node: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield where, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{where}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(node.get(key), dict):
            yield from _walk(node[key], where + suffix)


def _nodes() -> list[tuple[str, dict[str, Any]]]:
    return [
        found
        for kind in _definitions()
        for part in ("spec", "status")
        for found in _walk(_schema(kind)["properties"][part], f"{kind}.{part}")
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_the_checked_in_files_are_what_the_classes_say(folder: Path) -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.yaml")} == render()


def test_check_names_the_file_that_differs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    changed = tmp_path / "recast.dev_expertmodels.yaml"
    changed.write_text("changed", encoding="utf-8")

    assert main(["--check", "--out", str(tmp_path)]) == 1

    assert str(changed) in capsys.readouterr().err
    assert changed.read_text(encoding="utf-8") == "changed"


def test_every_kind_has_a_definition() -> None:
    assert set(_definitions()) == {kind.__name__ for kind in KINDS}


def test_every_list_string_and_map_is_bounded_so_that_rules_and_objects_stay_small() -> None:
    unbounded = [
        where
        for where, node in _nodes()
        if (node.get("type") == "string" and not ({"maxLength", "enum"} & set(node)))
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_every_field_and_every_item_of_a_list_or_map_says_what_it_is() -> None:
    assert [where for where, node in _nodes() if not node.get("description", "").strip()] == []


def test_a_field_is_described_by_its_own_words_and_else_by_its_types() -> None:
    class Part(Wire):
        """A part."""

    class Whole(Wire):
        """A whole."""

        plain: Part
        told: Part
        """The first part."""
        many: Annotated[list[Part], Field(default_factory=list, max_length=2)]
        """All parts.

        Only the first paragraph is for users.
        """

    fields = structural(Whole)["properties"]
    assert [fields[name]["description"] for name in ("plain", "told", "many")] == [
        "A part.",
        "The first part.",
        "All parts.",
    ]
    assert fields["many"]["items"]["description"] == "A part."


def test_no_spec_holds_a_floating_point_number() -> None:
    assert [where for where, node in _nodes() if node.get("type") == "number"] == []


def test_a_status_has_no_defaults_so_that_it_says_only_what_the_operator_wrote() -> None:
    assert [where for where, node in _nodes() if ".status" in where and "default" in node] == []


def test_every_enum_begins_with_a_capital_or_is_a_metric_or_version_name() -> None:
    metrics = {"error-rate", "slow-share", "fresh-tae-share"}
    odd = [
        (where, value)
        for where, node in _nodes()
        for value in node.get("enum", [])
        if not (value[0].isupper() or value in metrics)
    ]
    assert odd == []


def test_keys_of_a_list_map_are_required() -> None:
    keyed = [(where, node) for where, node in _nodes() if node.get("x-kubernetes-list-type") == "map"]
    assert keyed
    for where, node in keyed:
        assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), where


def test_a_union_is_refused_instead_of_dropped() -> None:
    class Two(BaseModel):
        value: int | str

    with pytest.raises(ValueError, match=r"Two\.value: a union"):
        structural(Two)


def test_recursion_is_refused_with_the_name_of_the_class() -> None:
    class Tree(BaseModel):
        children: list[Tree]

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    with pytest.raises(ValueError, match="Tree holds itself"):
        structural(Tree)


def test_an_untyped_field_is_refused() -> None:
    class Loose(BaseModel):
        anything: Any

    with pytest.raises(ValueError, match=r"Loose\.anything: no type"):
        structural(Loose)


def test_a_keyword_without_a_rule_is_refused() -> None:
    class Multiple(BaseModel):
        value: Annotated[int, Field(multiple_of=8)]

    with pytest.raises(ValueError, match="no rule for 'multipleOf'"):
        structural(Multiple)


def test_an_exclusive_bound_becomes_the_dialects_pair() -> None:
    class Positive(BaseModel):
        value: Annotated[int, Field(gt=0, lt=9)]

    assert structural(Positive)["properties"]["value"] == {
        "type": "integer",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 9,
        "exclusiveMaximum": True,
    }


@pytest.mark.parametrize("kind", ["FoundationModel", "ExpertModel"])
def test_an_autoscaler_can_scale_a_model_by_its_resource(kind: str) -> None:
    version = _definitions()[kind]["spec"]["versions"][0]
    scale = version["subresources"]["scale"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]
    assert scale["specReplicasPath"] == ".spec.serving.replicas"
    assert spec["spec"]["properties"]["serving"]["properties"]["replicas"]["type"] == "integer"
    assert spec["status"]["properties"]["replicas"]["type"] == "integer"
    assert spec["status"]["properties"]["selector"]["type"] == "string"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("FoundationModel", ["Ready", "Current", "Candidate", "Experts", "Reason", "Age"]),
        ("ExpertModel", ["Ready", "Stable", "Canary", "Weight", "Stale", "Reason", "Age"]),
        ("ModelVersion", ["State", "NE", "ΔNE", "Used-by", "Landed"]),
    ],
)
def test_printer_columns_tell_the_story_and_messages_stay_wide(kind: str, names: list[str]) -> None:
    columns = _definitions()[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == names
    assert "Message" in [column["name"] for column in columns if column.get("priority") == 1]


def test_every_printer_column_reads_a_field_that_exists() -> None:
    for kind, definition in _definitions().items():
        for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]:
            path = column["jsonPath"]
            if path.startswith((".metadata", ".status.conditions")):
                continue
            node = _schema(kind)
            for part in path.strip(".").split("."):
                assert part in node["properties"], (kind, path)
                node = node["properties"][part]
