"""Whether a child is written, and why: missing, other input, drift, fights, lost records, other people's replicas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from planning_simulator import START, Cluster, expert, foundation, owner_uid

from recast_operator.children.record import EDITED, read, recorded
from recast_operator.children.why import MISSING
from recast_operator.planning.child_writes import TAKEN_OVER, ChildChanges, Wanted, child_writes, scale
from recast_operator.planning.clock import stamp
from recast_operator.planning.plan import Scale
from recast_operator.planning.snapshot import ObservedCompanion, ObservedDeployment

Object = dict[str, Any]
LAST_APPLIED = "recast.dev/last-applied"
HASH = "recast.dev/template-hash"
REPAIRS = "recast.dev/repairs"
LONG_AGO = START - timedelta(days=1)


def body(image: str = "server:1", marker: str = "h1", extra: str = "") -> Object:
    """What an operator renders; ``extra``: another version of it renders something more."""
    container = {"name": "server", "image": image, "env": [{"name": "EXTRA", "value": extra}] if extra else []}
    owner = {"kind": "ExpertModel", "name": "reels", "uid": "me", "controller": True}
    return {
        "kind": "Deployment",
        "metadata": {
            "name": "d",
            "namespace": "n",
            "labels": {"a": "b"},
            "annotations": {HASH: marker},
            "ownerReferences": [owner],
        },
        "spec": {"replicas": 4, "template": {"spec": {"containers": [container]}}},
    }


def wanted(marker: str = "h1", replicas: int | None = 4, **rendered: Any) -> Wanted:
    return Wanted("Deployment", "d", "me", marker, lambda: body(marker=marker, **rendered), replicas, "why not")


def observed(live: Object, replicas: int = 4) -> ObservedDeployment:
    return ObservedDeployment("d", owner_uid(live), read(live).template_hash, replicas=replicas, record=read(live))


def applied(change: Callable[[Object], None] = lambda live: None, *, at: Any = LONG_AGO, **rendered: Any) -> Object:
    live: Object = json.loads(json.dumps(recorded(body(**rendered))))
    live["metadata"]["managedFields"] = [{"manager": "recast", "operation": "Apply", "time": stamp(at)}]
    change(live)
    return live


def container(live: Object) -> Object:
    found: Object = live["spec"]["template"]["spec"]["containers"][0]
    return found


def set_image(live: Object) -> None:
    container(live)["image"] = "theirs:1"


def remove(annotation: str) -> Callable[[Object], None]:
    return lambda live: live["metadata"]["annotations"].pop(annotation)


def decide(live: Object, want: Wanted | None = None, seconds: float = 0, **seen: Any) -> ChildChanges:
    return child_writes(observed(live, **seen), want or wanted(), START + timedelta(seconds=seconds))


def test_a_missing_child_is_made_with_its_record() -> None:
    (change,) = child_writes(None, wanted(), START).apply
    assert change.why == "it is missing"
    assert read(change.body).recorded


def test_a_child_as_it_was_applied_is_left_alone_whatever_this_operator_would_render() -> None:
    assert decide(applied()) == ChildChanges()
    assert decide(applied(), wanted(image="rendered-otherwise:1", extra="x")) == ChildChanges()


def test_another_owners_child_is_neither_put_back_nor_scaled_and_what_is_missing_is_asked_for() -> None:
    def adopt(live: Object) -> None:
        set_image(live)
        live["metadata"]["ownerReferences"] = [{"uid": "stranger", "controller": True}]

    changes = decide(applied(adopt), replicas=9)
    assert [entry.why for entry in changes.apply] == [MISSING]
    assert changes.scales == ()
    assert container(changes.apply[0].body)["image"] == "server:1"


def test_drift_is_put_back_as_it_was_applied_and_not_as_it_would_be_rendered_now() -> None:
    changes = decide(applied(set_image), wanted(replicas=7, extra="of a newer operator"))
    (change,) = changes.apply
    assert container(change.body)["image"] == "server:1"
    assert container(change.body)["env"] == []
    assert change.body["spec"]["replicas"] == 7
    assert change.body["metadata"]["annotations"][REPAIRS] == "1"
    assert read(change.body).drift == ()
    (event,) = changes.events
    assert (event.type, event.reason) == ("Warning", "ChildDrifted")
    assert event.message == ('Deployment d: container server: image is "theirs:1", applied "server:1"; put back')
    assert change.why in event.message
    assert changes.requeue_after is None


def test_a_service_is_put_back_without_replicas() -> None:
    live = applied(lambda live: live["metadata"]["labels"].clear())
    record = read(live)
    service = ObservedCompanion("Service", "d", "me", record.template_hash, record)
    (change,) = child_writes(service, replace(wanted(), kind="Service", replicas=None), START).apply
    assert "replicas" not in change.body["spec"]
    assert change.body["metadata"]["labels"] == {"a": "b"}


def test_other_input_rewrites_at_once_and_says_what_changed() -> None:
    (change,) = decide(applied(at=START), wanted("h2", image="server:2")).apply
    assert change.why == "image: server:1 -> server:2"
    assert read(change.body).template_hash == "h2"
    assert REPAIRS not in change.body["metadata"]["annotations"], "a new input ends the count of repairs"


def test_other_input_on_a_drifted_child_is_rendered_anew_at_once_and_the_drift_is_told() -> None:
    changes = decide(applied(set_image, at=START), wanted("h2", image="server:2"))
    assert [container(change.body)["image"] for change in changes.apply] == ["server:2"]
    assert [event.reason for event in changes.events] == ["ChildDrifted"]


def test_an_edited_hash_is_drift_and_no_new_input() -> None:
    def edit(live: Object) -> None:
        live["metadata"]["annotations"][HASH] = "edited"

    (change,) = decide(applied(edit), wanted(extra="of a newer operator")).apply
    assert container(change.body)["env"] == []
    assert change.body["metadata"]["annotations"][HASH] == "h1"


def test_a_child_that_lost_its_owner_is_still_ours_and_gets_it_back() -> None:
    changes = decide(applied(lambda live: live["metadata"].pop("ownerReferences")))
    assert changes.apply[0].body["metadata"]["ownerReferences"][0]["uid"] == "me"
    assert "owner reference ExpertModel reels was removed" in changes.events[0].message or (
        "ownerReferences was removed" in changes.events[0].message
    )


def test_an_edited_record_makes_the_child_be_rendered_anew() -> None:
    def edit(live: Object) -> None:
        live["metadata"]["annotations"][LAST_APPLIED] = "{}"

    changes = decide(applied(edit), wanted(extra="new"))
    assert container(changes.apply[0].body)["env"]
    assert EDITED in changes.events[0].message


def test_a_child_without_a_record_is_taken_over_where_that_changes_nothing_of_it() -> None:
    live = applied(remove(LAST_APPLIED))
    live["spec"]["replicas"] = 2
    (change,) = decide(live).apply
    assert change.why == TAKEN_OVER
    assert read(change.body).recorded


def test_a_child_of_an_older_operator_that_rendered_otherwise_is_left_until_its_next_change() -> None:
    live = applied(remove(LAST_APPLIED))
    live["spec"]["replicas"] = 2  # whatever they are, they are no reason to rewrite
    assert decide(live, wanted(extra="x")) == ChildChanges()
    assert decide(live, wanted(extra="x"), replicas=2).scales == (Scale("d", 4, "replicas 2 -> 4: why not"),)
    assert decide(live, wanted("h2", extra="x")).apply


def test_a_child_that_lost_hash_and_record_is_rendered_anew_and_its_loss_is_told() -> None:
    def strip(live: Object) -> None:
        live["metadata"]["annotations"].clear()

    changes = decide(applied(strip))
    assert read(changes.apply[0].body).template_hash == "h1"
    assert "recast.dev/template-hash was removed" in changes.events[0].message


@pytest.mark.parametrize(("repairs", "seconds"), [(0, 10), (1, 20), (2, 40), (5, 320), (6, 600), (9999, 600)])
def test_who_changes_a_child_again_and_again_waits_longer_each_time(repairs: int, seconds: int) -> None:
    def fight(live: Object) -> None:
        set_image(live)
        live["metadata"]["annotations"][REPAIRS] = str(repairs)

    live = applied(fight, at=START)
    early = decide(live, seconds=seconds - 1)
    assert (early.apply, early.events, early.requeue_after) == ((), (), 1.0)
    due = decide(live, seconds=seconds)
    assert due.apply[0].body["metadata"]["annotations"][REPAIRS] == str(repairs + 1)
    assert due.requeue_after is None
    assert ("in a row" in due.events[0].message) is (repairs > 0)


def test_who_strips_every_annotation_or_edits_the_hash_without_a_record_is_answered_every_ten_seconds_at_most() -> None:
    def strip(live: Object) -> None:
        live["metadata"]["annotations"] = {}

    def forge(live: Object) -> None:
        live["metadata"]["annotations"] = {HASH: "forged"}

    def unrecord(live: Object) -> None:
        del live["metadata"]["annotations"][LAST_APPLIED]

    for meddle in (strip, forge, unrecord):
        live = applied(meddle, at=START)
        assert (decide(live, seconds=9).apply, decide(live, seconds=9).requeue_after) == ((), 1.0)
        assert decide(live, seconds=10).apply


def test_while_a_repair_waits_the_child_is_still_scaled() -> None:
    changes = decide(applied(set_image, at=START), replicas=1)
    assert (changes.scales[0].replicas, changes.requeue_after) == (4, 10.0)


def test_a_long_peace_is_forgotten_and_clocks_that_disagree_block_nothing_for_ever() -> None:
    def fought(live: Object) -> None:
        set_image(live)
        live["metadata"]["annotations"][REPAIRS] = "5"

    live = applied(fought, at=START)
    assert decide(live, seconds=3599).apply[0].body["metadata"]["annotations"][REPAIRS] == "6"
    assert decide(live, seconds=3600).apply[0].body["metadata"]["annotations"][REPAIRS] == "1"
    assert decide(live, seconds=-3600).apply
    assert decide(applied(set_image, at=START), seconds=-4).requeue_after == 6.0


def test_only_the_first_sentences_are_told() -> None:
    def much(live: Object) -> None:
        live["metadata"]["ownerReferences"][0] |= {"kind": "x", "name": "y", "controller": None}
        live["metadata"]["labels"].clear()
        live["metadata"]["annotations"][HASH] = "x"
        container(live).clear()

    live = applied(much)
    assert len(read(live).drift) == 6
    assert decide(live).events[0].message.endswith("; and 1 more; put back")


def foreign(live: Object, at: Any = START) -> None:
    entry = {"manager": "kubectl", "operation": "Update", "time": stamp(at), "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live["metadata"]["managedFields"].append(entry)


def test_replicas_that_somebody_else_has_set_are_put_back_after_some_seconds_and_told() -> None:
    live = applied(foreign)
    assert decide(live, seconds=9, replicas=7) == ChildChanges(requeue_after=1.0)
    changes = decide(live, seconds=10, replicas=7)
    assert changes.scales == (Scale("d", 4, "replicas 7 -> 4: why not", changes.events),)
    assert changes.events[0].message == "Deployment d: replicas is 7, set by kubectl; put back to 4"
    assert decide(live) == ChildChanges(), "they are what they should be"


def test_our_own_scaling_waits_for_nobody_and_is_no_event() -> None:
    changes = scale(observed(applied(), replicas=3), 4, "because", START)
    assert changes == ChildChanges(scales=(Scale("d", 4, "replicas 3 -> 4: because"),))


def test_changes_add_up_and_the_earliest_wait_counts() -> None:
    one, two = ChildChanges(requeue_after=5.0), ChildChanges(requeue_after=3.0, scales=(Scale("a", 1),))
    assert (one + two).requeue_after == (two + one).requeue_after == 3.0
    assert (one + ChildChanges()).requeue_after == 5.0
    assert (one + two + two).scales == (Scale("a", 1), Scale("a", 1))


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(foundation(), expert("reels"))
    made.until(lambda c: c.em("reels").status.stable is not None)
    made.run(60)
    return made


def test_a_foreign_image_on_any_child_is_put_back_by_its_model_and_told_once(cluster: Cluster) -> None:
    told = len(cluster.events)
    for entry in cluster.deployments.values():
        set_image(entry.body)
    for companion in cluster.companions.values():
        companion["spec"].clear()
    cluster.run(20)
    assert {entry.image for entry in cluster.deployments.values()} == {"server:1"}
    assert all(companion["spec"] for companion in cluster.companions.values())
    events = [(name, event.message.split(":")[0]) for name, event in cluster.events[told:]]
    assert sorted(events) == [
        ("home-fm", "Deployment fm-home-fm-l1"),
        ("home-fm", "NetworkPolicy fm-home-fm-l1"),
        ("home-fm", "PodDisruptionBudget fm-home-fm-l1"),
        ("home-fm", "Service fm-home-fm-l1"),
        ("reels", "Deployment em-reels-6e35ecd250"),
        ("reels", "PodDisruptionBudget em-reels"),
        ("reels", "Service em-reels"),
    ]


def test_a_foundations_policy_comes_and_goes_with_its_switch_and_no_pod_notices(cluster: Cluster) -> None:
    policy, deployment = ("NetworkPolicy", "fm-home-fm-l1"), cluster.deployments["fm-home-fm-l1"]
    assert policy in cluster.companions
    cluster.edit("home-fm", serving={"image": "server:1", "networkPolicy": "None"})
    cluster.settle()
    assert policy not in cluster.companions
    assert ("Service", "fm-home-fm-l1") in cluster.companions
    cluster.edit("home-fm", serving={"image": "server:1", "networkPolicy": "Enforced"})
    cluster.settle()
    assert policy in cluster.companions
    assert cluster.deployments["fm-home-fm-l1"] is deployment
    assert deployment.applied == 1


def test_a_child_that_waits_for_its_repair_asks_for_another_pass(cluster: Cluster) -> None:
    for entry in cluster.deployments.values():
        set_image(entry.body)
        entry.body["metadata"]["managedFields"] = [
            {"manager": "recast", "operation": "Apply", "time": stamp(cluster.now)}
        ]
    assert cluster.plan("reels").requeue_after == 10.0
    assert cluster.plan("home-fm").requeue_after == 10.0


def test_every_write_on_a_child_says_why(cluster: Cluster) -> None:
    whys: dict[str, set[str]] = {}
    execute = cluster.execute

    def watch(name: str, plan: Any, **rest: Any) -> bool:
        for entry in (*plan.scales, *plan.deletions):
            whys.setdefault(type(entry).__name__, set()).add(entry.why)
        for entry in plan.apply:
            whys.setdefault("Apply", set()).add(entry.why)
        return execute(name, plan, **rest)

    cluster.execute = watch  # type: ignore[method-assign]
    cluster.edit("home-fm", serving={"image": "server:1", "replicas": 2})
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.until(lambda c: c.em("reels").status.canary is None)
    cluster.edit("home-fm", serving={"image": "server:3", "replicas": 2})
    cluster.run(60)
    assert whys["Apply"] >= {"it is missing", "image: server:1 -> server:3"}
    assert whys["Scale"] >= {
        "replicas 1 -> 2: spec.serving.replicas",
        "replicas 1 -> 2: the canary moves to 50%",
        "replicas 3 -> 2: the canary moves to 50% beside it",
        "replicas 2 -> 4: the canary is promoted",
    }
    assert whys["Deletion"] == {"its revision serves no more"}


def test_a_revision_whose_claim_is_not_known_is_scaled_and_never_rewritten(cluster: Cluster) -> None:
    status = cluster.em("reels").status
    assert status.stable is not None
    stable = status.stable.model_copy(update={"models_claim": ""})
    cluster._put("reels", status=status.model_copy(update={"stable": stable}))
    cluster.edit("reels", serving={"image": "server:1", "replicas": 5})
    (name,) = [name for name in cluster.deployments if name.startswith("em-")]
    applied_before = cluster.deployments[name].applied
    cluster.run(20)
    assert (cluster.deployments[name].replicas, cluster.deployments[name].applied) == (5, applied_before)


@pytest.mark.parametrize("asked", [{}, {"kvCacheMebibytes": 0}, {"kvCacheMebibytes": 512}])
def test_a_foundations_pods_are_told_how_much_of_their_memory_keeps_histories(asked: dict[str, int]) -> None:
    made = Cluster(foundation(serving={"image": "server:1", **asked}), expert("reels"))
    made.until(lambda c: "fm-home-fm-l1" in c.deployments)
    environment = container(made.deployments["fm-home-fm-l1"].body)["env"]
    (text,) = (entry["value"] for entry in environment if entry["name"] == "RECAST_SERVER")
    told = json.loads(text)
    assert {key: told[key] for key in told if key == "kvCacheMebibytes"} == asked
