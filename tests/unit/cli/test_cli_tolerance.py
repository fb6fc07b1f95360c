"""The plugin reads what a newer release wrote, and one object that it cannot read hides no other."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Expert

from recast_cli.cluster import Cluster
from recast_cli.world import PLURALS, World, parse


class Api:
    """Lists what it was given, by plural."""

    def __init__(self, **items: list[dict[str, Any]]) -> None:
        self._items = items

    def list_namespaced_custom_object(self, group: str, version: str, namespace: str, plural: str) -> dict[str, Any]:
        return {"items": self._items.get(plural, []), "metadata": {"resourceVersion": "1"}}


def raw(expert: Expert, name: str) -> dict[str, Any]:
    return expert(name).model_dump(mode="json", by_alias=True, exclude_none=True)


def test_fields_and_words_of_a_newer_release_are_left_out(expert: Expert) -> None:
    newer = raw(expert, "reels")
    newer["spec"]["novelty"] = 1
    newer["spec"]["rollout"]["analysis"].append({"metric": "ndcg", "minOverStable": "1"})
    newer["status"]["novelty"] = {}
    assert parse(newer).metadata.name == "reels"


def test_an_object_that_cannot_be_read_is_said_once_and_the_others_are_shown(
    expert: Expert, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = raw(expert, "ads")
    broken["spec"]["tasks"] = "all"
    api: Any = Api(expertmodels=[broken, raw(expert, "reels")])
    cluster = Cluster(api, "demo")
    for _ in range(2):
        world = cluster.world()
        assert [entry.metadata.name for entry in world.experts] == ["reels"]
        assert isinstance(world, World)
    told = capsys.readouterr().err
    assert told.count("ExpertModel ads is left out: spec.tasks: ") == 1
    assert "update the plugin" in told


def test_the_plurals_are_those_of_the_definitions() -> None:
    assert PLURALS == {
        "FoundationModel": "foundationmodels",
        "ExpertModel": "expertmodels",
        "ModelVersion": "modelversions",
    }
