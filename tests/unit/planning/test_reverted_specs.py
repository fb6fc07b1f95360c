"""A spec that goes back: what serves then, and what is not trained a second time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_values import inputs, landed, observed, ref
from planning_simulator import Cluster, expert, foundation, measured
from run_values import remembered_run

from recast_operator.planning.training import known
from recast_operator.planning.training.state import TrainingState

DATA_1 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-01-01T00:00:00Z"}
DATA_2 = DATA_1 | {"until": "2026-02-01T00:00:00Z"}
NAMES = ("ads", "feed", "reels")


def memory(**changes: Any) -> TrainingState:
    return replace(TrainingState(None, 9, "", ()), **changes)


A, B, C = "a.f.x", "b.f.x", "c.f.x"
V1, V2, V3 = landed(1, inputs=A), landed(2, inputs=B), landed(3, inputs=C)
BAD2 = landed(2, inputs=B, accepted=False)


@pytest.mark.parametrize(
    ("judged", "current", "wanted", "due"),
    [
        ([], 0, A, True),
        ([V1], 1, A, False),
        ([V1], 1, "a.f.y", False),
        ([V1], 1, B, True),
        ([V1, BAD2], 1, B, False),
        ([V1, BAD2], 1, "b.f.y", False),
        ([V1, BAD2, V3], 3, B, False),
        ([V1, BAD2], 1, A, False),
        ([V1, V2], 1, A, False),
        ([V1, V2], 1, B, False),
        ([V1, V2], 2, A, True),
        ([V1, V2, landed(3, inputs=A)], 2, A, False),
        ([V1, V2, landed(3, inputs=A, accepted=False)], 2, A, False),
        ([V1, V2, landed(3, inputs=A, accepted=False)], 2, B, False),
        ([landed(1)], 1, A, True),
        ([V1, landed(7)], 7, A, True),
        ([V1, landed(7, accepted=False)], 1, A, False),
    ],
)
def test_inputs_are_trained_unless_a_version_of_them_serves_may_serve_or_was_rejected(
    judged: list[Any], current: int, wanted: str, due: bool
) -> None:
    seen = observed(current=ref(current) if current else None)
    assert known.is_due(inputs(seen, *judged, wanted=wanted), memory()) is due


def test_nothing_is_due_while_suspended_running_unknown_or_failed_before() -> None:
    at = inputs(observed(), wanted=A)
    assert known.is_due(at, memory())
    assert not known.is_due(replace(at, suspended=True), memory())
    assert not known.is_due(replace(at, wanted=None), memory())
    assert not known.is_due(at, memory(run=remembered_run(A)[0]))
    assert not known.is_due(at, memory(failures=(remembered_run(A)[1],)))
    assert known.is_due(at, memory(failures=(remembered_run("a.f.y")[1],))), "more memory is a new chance"


def test_what_landed_once_and_is_not_there_any_more_is_not_trained_in_a_circle() -> None:
    at = inputs(observed(), wanted=A)
    assert not known.is_due(at, memory(trained="a.f.y"))
    assert known.is_due(at, memory(trained=B))


@pytest.mark.parametrize(
    ("judged", "current", "wanted", "numbers"),
    [
        ([V1, V2, V3], 1, "d.f.x", [1, 2, 3]),
        ([V1, V2, V3], 2, "d.f.x", [2, 3]),
        ([V1, V2, V3], 1, A, [1]),
        ([V1, V2, V3], 1, B, [1, 2]),
        ([V1, V2, V3], 2, A, [2, 3]),
        ([V1, V2, landed(3)], 1, A, [1, 3]),
        ([V1, BAD2, V3], 1, B, [1, 3]),
        ([V1, BAD2], 1, A, [1]),
    ],
)
def test_versions_of_specs_that_are_not_asked_for_any_more_are_passed_over(
    judged: list[Any], current: int, wanted: str, numbers: list[int]
) -> None:
    seen = inputs(observed(current=ref(current)), *judged, wanted=wanted)
    assert [entry.number for entry in known.asked_for(seen)] == numbers


@pytest.mark.parametrize(
    ("judged", "wanted", "rejected"),
    [
        ([V1], A, None),
        ([V1, BAD2], B, 2),
        ([V1, BAD2], A, None),
        ([V1, BAD2], "d.f.x", None),
        ([V1, BAD2, V3], B, 2),
        ([V1, landed(7, accepted=False)], A, 7),
        ([V1, landed(7, accepted=False), landed(8)], A, None),
        ([V1, BAD2], None, 2),
        ([V1], None, None),
        ([], A, None),
    ],
)
def test_a_rejection_counts_while_it_stands_between_the_spec_and_what_it_asks_for(
    judged: list[Any], wanted: str | None, rejected: int | None
) -> None:
    found = known.rejection(replace(inputs(observed(current=ref(1)), *judged), wanted=wanted))
    assert (found.number if found else None) == rejected


def serving(**fleet: Any) -> Cluster:
    cluster = Cluster(foundation(fleet=fleet), *(expert(name) for name in NAMES))
    cluster.until(lambda c: all(c.em(name).status.stable for name in NAMES))
    cluster.run(5)
    return cluster


def still_on_the_first(cluster: Cluster) -> None:
    assert cluster.fm().status.current.version == 1
    assert [entry.lineage for entry in cluster.fm().status.lineages] == [1]
    for name in NAMES:
        assert cluster.em(name).status.stable.version == 1
        assert cluster.condition(name, "Stale").status == "False"
    for kind, status in (("Trained", "True"), ("Stalled", "False"), ("Promoted", "True"), ("Ready", "True")):
        assert cluster.condition("home-fm", kind).status == status, cluster.condition("home-fm", kind)


def test_reverting_a_rejected_foundation_spec_trains_nothing_and_makes_nobody_stale() -> None:
    cluster = serving()
    cluster.landing = lambda run: [measured(0.95, 0.79, 0.15)]
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.latest == 2)
    cluster.settle()
    assert cluster.condition("home-fm", "Stalled").reason == "NEIncreased"
    assert "The same inputs are not trained again" in cluster.condition("home-fm", "Stalled").message
    submitted = list(cluster.submitted)
    cluster.edit("home-fm", data=DATA_1)
    cluster.run(120)
    assert cluster.submitted == submitted
    still_on_the_first(cluster)
    cluster.edit("home-fm", data=DATA_2)
    cluster.run(120)
    assert cluster.submitted == submitted, "the rejected inputs are not tried a second time either"
    assert cluster.condition("home-fm", "Stalled").reason == "NEIncreased"


def test_reverting_a_foundation_spec_while_its_version_is_on_trial_withdraws_it_and_asking_again_trains_nothing() -> (
    None
):
    cluster = serving(pilots=["reels"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    submitted = list(cluster.submitted)
    cluster.edit("home-fm", data=DATA_1)
    cluster.run(60)
    assert cluster.fm().status.candidate is None
    still_on_the_first(cluster)
    assert [event.message for _, event in cluster.events if event.reason == "CandidateWithdrawn"] == [
        "v2 is not the candidate any more: the spec asks again for what the current version was trained from"
    ]
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.current.version == 2)
    assert [name for name in cluster.submitted if name not in submitted and name.startswith("fm-")] == []
    assert "em-reels-r3-a1" not in cluster.submitted, "nor is the pilot's version of it trained again"


def test_going_back_behind_a_version_that_took_over_lands_the_old_inputs_under_a_new_number() -> None:
    cluster = serving()
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: all(c.em(name).status.stable.foundation.version == 2 for name in NAMES))
    cluster.edit("home-fm", data=DATA_1)
    cluster.until(lambda c: c.fm().status.current.version == 3)
    first, third = (cluster.versions[f"fm-home-fm-v{number}"].spec.run for number in (1, 3))
    assert first is not None
    assert third is not None
    assert first.inputs_hash == third.inputs_hash


def test_reverting_an_experts_spec_while_its_version_is_on_trial_drops_the_canary_and_trains_nothing() -> None:
    cluster = serving()
    cluster.edit("ads", training={"image": "trainer:2"})
    cluster.until(lambda c: c.em("ads").status.canary is not None)
    submitted = list(cluster.submitted)
    cluster.edit("ads", training={"image": "trainer:1"})
    cluster.run(60)
    assert cluster.submitted == submitted
    status = cluster.em("ads").status
    assert (status.canary, status.stable.version, status.failed_revisions) == (None, 1, [])
    assert cluster.condition("ads", "Stale").status == "False"
    cluster.edit("ads", training={"image": "trainer:2"})
    cluster.until(lambda c: c.em("ads").status.stable.version == 2)
    assert cluster.submitted == submitted, "the version was there already"


def test_an_expert_that_returns_to_its_old_foundation_is_trained_for_it_again() -> None:
    cluster = serving()
    cluster.models["other-fm"] = foundation("other-fm")
    cluster.edit("ads", foundationRef={"name": "other-fm"})
    cluster.until(lambda c: c.em("ads").status.stable.foundation.name == "other-fm")
    cluster.edit("ads", foundationRef={"name": "home-fm"})
    cluster.until(lambda c: c.em("ads").status.stable.foundation.name == "home-fm")
    assert cluster.em("ads").status.stable.version == 3


def test_an_experts_rejected_version_does_not_stall_it_once_the_spec_is_back() -> None:
    cluster = serving()
    cluster.landing = lambda run: [measured(0.95, 0.79, 0.15)]
    cluster.edit("ads", training={"image": "trainer:2"})
    cluster.until(lambda c: c.em("ads").status.latest == 2)
    cluster.settle()
    assert cluster.condition("ads", "Stalled").reason == "NEIncreased"
    submitted = list(cluster.submitted)
    cluster.edit("ads", training={"image": "trainer:1"})
    cluster.run(60)
    assert cluster.submitted == submitted
    for kind, status in (("Stalled", "False"), ("Trained", "True"), ("Stale", "False"), ("Promoted", "True")):
        assert cluster.condition("ads", kind).status == status


def test_a_version_that_somebody_else_landed_and_that_is_rejected_stalls_and_leaves_the_spec_trained() -> None:
    cluster = serving()
    run = cluster.jobs["fm-home-fm-r1-a1"].run.model_copy(update={"number": 7})
    made = cluster.land(run, [measured(0.95, 0.79, 0.15)])
    named = made.spec.model_copy(update={"run": None})
    cluster.versions["fm-home-fm-v7"] = made.model_copy(update={"spec": named})
    cluster.run(3)
    assert (cluster.condition("home-fm", "Stalled").status, cluster.condition("home-fm", "Trained").status) == (
        "True",
        "True",
    )
    assert cluster.condition("home-fm", "Stalled").message.startswith("v7 is rejected: ")
    assert "trained again" not in cluster.condition("home-fm", "Stalled").message
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.run is not None)
    assert cluster.condition("home-fm", "Stalled").status == "False", "while a run goes on, nobody has to act"
    assert cluster.fm().status.run.number == 8
