"""Verdicts on versions and what is written on them: given once, kept, and never to a stranger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_values import landed as fleet_version
from planning_simulator import START, Cluster, foundation, measured

from recast_api.resources import Gates, ModelVersion
from recast_operator.planning.versions import retention, verdict


def landed() -> Cluster:
    cluster = Cluster(foundation())
    cluster.until(lambda c: c.fm().status.current is not None)
    return cluster


def judged(cluster: Cluster, **gates: Any) -> verdict.Judged:
    found = verdict.judge_all(cluster.fm(), tuple(cluster.versions.values()), Gates.model_validate(gates))
    return found[0]


def changed(version: ModelVersion, **spec: Any) -> ModelVersion:
    return version.model_copy(update={"spec": version.spec.model_copy(update=spec)})


def test_a_verdict_is_given_once_and_outlives_the_gates_that_gave_it() -> None:
    cluster = Cluster(foundation())
    cluster.landing = lambda run: [measured(0.7, calibration="1.2")]
    cluster.until(lambda c: c.fm().status.current is not None)
    strict = {"calibration": {"min": "0.9", "max": "1.1"}}
    assert (judged(cluster, **strict).accepted, judged(cluster, **strict).new) == (True, False)
    bare = cluster.versions["fm-home-fm-v1"].model_copy(
        update={"status": ModelVersion.model_fields["status"].get_default(call_default_factory=True)}
    )
    cluster.versions["fm-home-fm-v1"] = bare
    assert (judged(cluster, **strict).reason, judged(cluster, **strict).new) == ("Miscalibrated", True)


@pytest.mark.parametrize(
    ("run", "spec", "ours"),
    [
        ({}, {}, True),
        ({}, {"run": None}, True),
        ({"number": 1}, {}, False),
        ({"number": 2}, {}, True),
        ({"number": 1, "same": True}, {}, True),
        ({}, {"job_name": "fm-home-fm-r2-a1"}, False),
        ({}, {"attempt": 2}, False),
        ({}, {"attempt": 2, "job_name": "fm-home-fm-r1-a2"}, True),
    ],
)
def test_a_version_is_ours_when_it_names_the_run_that_could_land_it(
    run: dict[str, Any], spec: dict[str, Any], ours: bool
) -> None:
    cluster = landed()
    version = cluster.versions["fm-home-fm-v1"]
    made = version.spec.run
    assert made is not None
    named = None if "run" in spec else made.model_copy(update=spec)
    cluster.versions["fm-home-fm-v1"] = changed(version, run=named)
    if run:
        going = {
            "number": run["number"],
            "jobName": f"fm-home-fm-r{run['number']}-a1",
            "inputsHash": made.inputs_hash if run.get("same") else "other.x",
            "startedAt": "2026-11-21T03:00:00Z",
        }
        status = type(cluster.fm().status).model_validate({"run": going})
        cluster.models["home-fm"] = cluster.fm().model_copy(update={"status": status})
    assert judged(cluster).ours is ours


def test_a_version_that_was_retired_stays_so_and_is_written_once() -> None:
    cluster = landed()
    owner = {"uid": "uid-home-fm"}

    def write(retired: set[int]) -> Any:
        return retention.writes([judged(cluster)], owner, START, used_by={}, retired=frozenset(retired))

    assert write(set()) == ()
    (first,) = write({1})
    assert first.status.summary.state == "Retired"
    assert first.owner is None, "it has been adopted before"
    version = cluster.versions["fm-home-fm-v1"]
    cluster.versions["fm-home-fm-v1"] = version.model_copy(update={"status": first.status})
    assert write({1}) == ()
    assert write(set()) == (), "who pins it later does not bring its servers' past back"


def test_a_strangers_version_is_judged_once_even_where_it_says_that_it_is_accepted() -> None:
    cluster = landed()
    version = cluster.versions["fm-home-fm-v1"]
    model = version.spec.model.model_copy(update={"uid": "another"})
    cluster.versions["fm-home-fm-v1"] = changed(version, model=model)
    assert (judged(cluster).accepted, judged(cluster).new) == (False, True)
    (write,) = retention.writes([judged(cluster)], {}, START, used_by={})
    assert write.status is not None
    cluster.versions["fm-home-fm-v1"] = cluster.versions["fm-home-fm-v1"].model_copy(update={"status": write.status})
    assert (judged(cluster).accepted, judged(cluster).new) == (False, False)


@pytest.mark.parametrize(
    ("ours", "by_a_run", "owned", "adopted"),
    [(True, True, False, True), (False, True, False, False), (True, False, False, False), (True, True, True, False)],
)
def test_a_version_of_our_own_run_that_has_no_owner_is_adopted_and_goes_with_its_model(
    ours: bool, by_a_run: bool, owned: bool, adopted: bool
) -> None:
    made = fleet_version(1, inputs="a.x" if by_a_run else None)
    owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "uid": "theirs"}] if owned else []
    named = made.version.metadata.model_copy(update={"owner_references": owners})
    entry = replace(made, ours=ours, version=made.version.model_copy(update={"metadata": named}))
    (write,) = retention.writes([entry], {"uid": "uid-home-fm"}, START, used_by={})
    assert write.owner == ({"uid": "uid-home-fm"} if adopted else None)


def test_a_rejection_touches_one_version_and_no_strangers() -> None:
    stranger = fleet_version(2)
    stranger = type(stranger)(stranger.version, False, False, "UnknownRun", "another's", False)
    versions = (fleet_version(1), stranger, fleet_version(3))
    after = verdict.reject(versions, 3, "PilotAnalysisFailed", "m")
    assert after[:2] == versions[:2]
    assert (after[2].accepted, after[2].reason, after[2].message, after[2].new) == (
        False,
        "PilotAnalysisFailed",
        "m",
        True,
    )
    assert verdict.reject(versions, 2, "PilotAnalysisFailed", "m") == versions
