"""The plugin reads what a newer release wrote, and one object that it cannot read hides no other."""

from __future__ import annotations

from typing import Any

from conftest_cli import Expert

from recast_cli.world import PLURALS, parse


def raw(expert: Expert, name: str) -> dict[str, Any]:
    return expert(name).model_dump(mode="json", by_alias=True, exclude_none=True)


def test_fields_and_words_of_a_newer_release_are_left_out(expert: Expert) -> None:
    newer = raw(expert, "reels")
    newer["spec"]["novelty"] = 1
    newer["spec"]["rollout"]["analysis"].append({"metric": "ndcg", "minOverStable": "1"})
    newer["status"]["novelty"] = {}
    assert parse(newer).metadata.name == "reels"


def test_the_plurals_are_those_of_the_definitions() -> None:
    assert PLURALS == {
        "FoundationModel": "foundationmodels",
        "ExpertModel": "expertmodels",
        "ModelVersion": "modelversions",
    }
