from __future__ import annotations

import pytest
from planning_simulator import digest_of

from recast_api.resources import FoundationPin
from recast_operator.planning.freshness.policies import POLICIES, Freshness, evaluate

ALL = frozenset({"FoundationMajor", "SpecChange"})


def pin(version: int, name: str = "home-fm", lineage: int | None = None) -> FoundationPin:
    return FoundationPin(name=name, version=version, lineage=lineage or version, digest=digest_of(name, version))


def fresh(**changes: object) -> Freshness:
    fields: dict[str, object] = {
        "model": "reels",
        "version": 1,
        "foundation": pin(1),
        "target": pin(1),
        "trained_spec": "a",
        "wanted_spec": "a",
        "policies": ALL,
    }
    return Freshness(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"version": None, "foundation": None}, "NoVersionYet"),
        ({"version": None, "foundation": None, "target": None}, "NoVersionYet"),
        ({"target": pin(2)}, "FoundationMajor"),
        ({"target": pin(2, lineage=1)}, None),
        ({"target": pin(1, "other-fm")}, "FoundationMajor"),
        ({"target": None}, None),
        ({"target": pin(2), "policies": frozenset({"SpecChange"})}, None),
        ({"wanted_spec": "b"}, "TrainingSpecChanged"),
        ({"wanted_spec": "b", "policies": frozenset({"FoundationMajor"})}, None),
        ({"wanted_spec": "b", "trained_spec": ""}, None),
        ({"wanted_spec": "b", "target": pin(2)}, "FoundationMajor"),
        ({"wanted_spec": "b", "version": None, "foundation": None}, "NoVersionYet"),
    ],
)
def test_the_first_violated_policy_is_the_reason(changes: dict[str, object], reason: str | None) -> None:
    violation = evaluate(fresh(**changes))
    assert (violation.reason if violation else None) == reason


def test_the_message_names_both_foundation_versions() -> None:
    violation = evaluate(fresh(target=pin(2)))
    assert violation is not None
    assert violation.message == "v1 reads home-fm v1; home-fm v2 starts a new lineage"


def test_the_chain_is_in_the_documented_order() -> None:
    assert [policy.__name__ for policy in POLICIES] == ["no_version_yet", "foundation_major", "training_spec_changed"]
