from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from planning_simulator import START, Cluster, expert, foundation

from recast_api.resources import ExpertServing, MetricName, MetricResult, Training, Verdict
from recast_api.resources.common import Optimizer
from recast_operator.planning import hashing
from recast_operator.planning.child_changes import template_hash
from recast_operator.planning.status import messages
from recast_operator.planning.status.conditions import ConditionUpdate, find, merge, transitions
from recast_operator.planning.training import inputs

LATER = START + timedelta(minutes=5)


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = merge([], [ConditionUpdate("Ready", "False", "Training")], 1, START)
    same = merge(first, [ConditionUpdate("Ready", "False", "RunFailed", "why")], 2, LATER)
    assert same[0].last_transition_time == first[0].last_transition_time
    assert (same[0].reason, same[0].message, same[0].observed_generation) == ("RunFailed", "why", 2)
    flipped = merge(same, [ConditionUpdate("Ready", "True", "Serving")], 2, LATER)
    assert flipped[0].last_transition_time == "2026-11-21T03:05:00Z"


def test_there_is_one_condition_a_type_and_strangers_are_kept() -> None:
    mine = merge([], [ConditionUpdate("Ready", "True", "A"), ConditionUpdate("Stale", "False", "B")], 1, START)
    again = merge(mine, [ConditionUpdate("Stale", "True", "C")], 1, LATER)
    assert sorted(entry.type for entry in again) == ["Ready", "Stale"]
    assert find(again, "Ready").status == "True"


def test_a_message_is_cut_to_what_the_schema_allows() -> None:
    assert len(merge([], [ConditionUpdate("Ready", "True", "A", "x" * 5000)], 1, START)[0].message) == 1024


def test_events_tell_of_transitions_only() -> None:
    before = merge([], [ConditionUpdate("Stale", "False", "Fresh")], 1, START)
    stale = merge(before, [ConditionUpdate("Stale", "True", "FoundationMajor", "why")], 1, START)
    assert [event.reason for event in transitions(before, stale, {"Stale": "True"})] == ["FoundationMajor"]
    reworded = merge(stale, [ConditionUpdate("Stale", "True", "FoundationMajor", "other words")], 1, START)
    assert transitions(stale, reworded, {"Stale": "True"}) == ()
    assert transitions(stale, before, {"Stale": "True"}) == ()


@pytest.mark.parametrize(
    ("change", "what_changes"),
    [
        ({"learningRate": "0.1"}, True),
        ({"optimizer": {"tableLearningRate": "0.1"}}, True),
        ({"optimizer": {"warmUpSteps": 1}}, True),
        ({"optimizer": {"warmUpShare": "0.2"}}, True),
        ({"optimizer": {"decay": "InverseSquareRoot"}}, True),
        ({"optimizer": {"coolDownShare": "0"}}, True),
        ({"optimizer": {"weightDecay": "0"}}, True),
        ({"optimizer": {"maxGradientNorm": "2"}}, True),
        ({"image": "trainer:2"}, True),
        ({"batchSize": 64}, True),
        ({"seed": 7}, True),
        ({"resources": {"limits": {"memory": "8Gi"}}}, False),
        ({"nodes": 2}, False),
        ({"maxAttempts": 5}, False),
        ({"activeDeadlineSeconds": 60}, False),
    ],
)
def test_what_decides_the_weights_asks_for_a_run_and_how_it_is_run_only_for_another_chance(
    change: dict[str, Any], what_changes: bool
) -> None:
    one = inputs.foundation_inputs(foundation().spec)
    two = inputs.foundation_inputs(foundation(training={"image": "trainer:1"} | change).spec)
    assert one != two
    assert (inputs.weights_part(one) != inputs.weights_part(two)) is what_changes


@pytest.mark.parametrize("optimizer", [{}, {"warmUpSteps": 100}, Optimizer().wire()])
def test_an_optimizer_with_its_defaults_is_the_run_of_a_spec_that_says_nothing_of_it(optimizer: dict[str, Any]) -> None:
    said = foundation(training={"image": "trainer:1", "optimizer": optimizer}).spec
    assert inputs.foundation_inputs(said) == inputs.foundation_inputs(foundation().spec)


def test_keeping_finished_jobs_longer_changes_nothing() -> None:
    assert inputs.foundation_inputs(foundation().spec) == inputs.foundation_inputs(
        foundation(training={"image": "trainer:1", "ttlSecondsAfterFinished": 5}).spec
    )


def test_a_value_that_equals_its_default_is_as_good_as_absent() -> None:
    said = Training.model_validate({"image": "trainer:1", "batchSize": 32, "nodes": 1})
    assert hashing.visible(said) == {"image": "trainer:1"}


def test_an_experts_inputs_tell_its_spec_from_its_foundation() -> None:
    spec = expert("reels").spec
    one, two = inputs.expert_inputs(spec, "sha256:a"), inputs.expert_inputs(spec, "sha256:b")
    assert one != two
    assert inputs.spec_part(one) == inputs.spec_part(two)
    assert inputs.weights_part(one) != inputs.weights_part(two)
    assert len(one) <= 64


def test_a_revision_is_the_pair_and_the_template_but_not_the_number_of_pods() -> None:
    def name(image: str = "server:1", replicas: int = 2, digest: str = "d", lineage: int = 1) -> str:
        return hashing.revision(digest, lineage, ExpertServing(image=image, replicas=replicas))

    assert name() == name(replicas=9)
    assert len({name(), name("server:2"), name(digest="e"), name(lineage=2)}) == 4
    assert len(name()) == 10


def test_hashes_are_those_of_the_last_release() -> None:
    """A changed value here restarts every user's pods or retrains every user's models on upgrade: never by accident."""
    spec = expert("reels").spec
    assert inputs.foundation_inputs(foundation().spec) == "22ba3ce0963fedcd7c88a9a1.44136fa3"
    assert inputs.expert_inputs(spec, "sha256:a") == "48184dce3cd2e5055be34604.6fa55b6942983187.44136fa3"
    assert hashing.revision("sha256:a", 1, spec.serving) == "40182fcad3"
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    made = {
        name: entry.body["metadata"]["annotations"]["recast.dev/template-hash"]
        for name, entry in cluster.deployments.items()
    }
    assert made == {"fm-home-fm-l1": "d2cfa85e61e09bbf", "em-reels-6e35ecd250": "4576e931682a2ebb"}
    assert template_hash("expert-service", "reels") == "88437aabebd71396"


def test_an_operator_that_renders_differently_rewrites_no_child() -> None:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    applied = {name: entry.applied for name, entry in cluster.deployments.items()}
    for entry in cluster.deployments.values():
        entry.body["spec"]["template"]["spec"]["hostname"] = "rendered-by-an-older-operator"
    cluster.run(20)
    assert {name: entry.applied for name, entry in cluster.deployments.items()} == applied


def test_a_child_that_somebody_deleted_comes_back_from_its_snapshot() -> None:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    (name,) = [name for name in cluster.deployments if name.startswith("em-")]
    before = cluster.deployments.pop(name).body
    cluster.unpullable.add("moved-on:1")
    cluster.edit("reels", serving={"image": "moved-on:1", "replicas": 4})
    cluster.run(10)
    assert cluster.deployments[name].body["spec"]["template"] == before["spec"]["template"]


def test_what_several_metrics_say_alike_is_said_once() -> None:
    def result(metric: MetricName, verdict: Verdict, message: str) -> MetricResult:
        return MetricResult(metric=metric, verdict=verdict, message=message, time="2026-11-21T03:00:00Z")

    away = [result(name, Verdict.NO_DATA, f"{name}: no usable answer") for name in MetricName]
    assert messages.worst(away) == "error-rate, slow-share and fresh-tae-share: no usable answer"
    slow = result(MetricName.SLOW_SHARE, Verdict.INCONCLUSIVE, "slow-share 0.02, max 0.05 (9 requests)")
    assert messages.worst([away[0], slow]) == f"error-rate: no usable answer; {slow.message}"
    bad = result(MetricName.ERROR_RATE, Verdict.FAILURE, "error-rate 0.2 > 0.05 (9 requests)")
    assert messages.worst([bad, slow, *away[1:]]) == bad.message
