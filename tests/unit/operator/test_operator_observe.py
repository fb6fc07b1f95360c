"""From the apiserver's JSON to the values that planning reads."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.errors import Invalid
from recast_operator.child_objects import observed_children, observed_deployment
from recast_operator.fleet import Fleet
from recast_operator.keys import Key
from recast_operator.observe import Observer
from recast_operator.parsing import Parser
from recast_operator.store import Address, Store
from recast_operator.wakeups import Wakeups
from tests.unit.operator.documents import expert, foundation, foundation_version, revision


def raw(name: str = "x", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "labels": labels or {}}
    return {"metadata": {**metadata, **rest.pop("metadata", {})}, **rest}


def test_a_deployment_has_the_pods_that_its_selector_selects() -> None:
    pods = [
        raw("web", {"app": "a", "r": "1"}, status={"conditions": [{"type": "Ready", "status": "True"}]}),
        raw("old", {"app": "a", "r": "0"}),
    ]
    deployment = observed_deployment(
        raw(
            "d",
            {"recast.dev/revision": "abc", "recast.dev/lineage": "4"},
            spec={"replicas": 3, "selector": {"matchLabels": {"app": "a", "r": "1"}}},
            status={"observedGeneration": 1, "updatedReplicas": 1},
            metadata={"generation": 2},
        ),
        pods,
    )
    assert [pod.name for pod in deployment.pods] == ["web"]
    assert (deployment.ready, deployment.replicas, deployment.current) == (1, 3, False)
    assert (deployment.revision, deployment.lineage) == ("abc", 4)


def test_a_deployment_that_selects_nothing_has_no_pods() -> None:
    for spec in ({"replicas": 1}, {"selector": {"matchLabels": {}}}, {"selector": None}):
        assert observed_deployment(raw("d", spec=spec), [raw("web", {"app": "a"})]).pods == ()


def test_the_counts_of_a_deployment_that_somebody_has_changed_speak_of_other_pods() -> None:
    seen = {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "updatedReplicas": 1}}
    assert observed_deployment(raw("d", **seen), []).current
    assert not observed_deployment(raw("d", record={"drift": ["image was changed"]}, **seen), []).current


def test_a_trainers_service_is_no_server_of_the_model() -> None:
    services = [
        raw(
            "em-reels",
            {"recast.dev/kind": "expert-server"},
            kind="Service",
            metadata={"annotations": {"recast.dev/template-hash": "h"}},
        ),
        raw("em-reels-r1-a1", {"recast.dev/kind": "expert-trainer"}, kind="Service"),
    ]
    found = observed_children([], [], services, []).companions
    assert [(entry.kind, entry.name, entry.template_hash) for entry in found] == [("Service", "em-reels", "h")]


def test_a_revision_has_pods_until_the_last_is_gone_and_one_that_terminates_still_answers() -> None:
    pods = [
        raw("a", {"recast.dev/revision": "ending"}, metadata={"deletionTimestamp": "2026-11-21T00:00:00Z"}),
        raw("b", {"recast.dev/revision": "over"}, status={"phase": "Failed"}),
        raw("c", {"recast.dev/revision": "starting"}, status={"phase": "Pending"}),
        raw("trainer", {}),
    ]
    assert observed_children([], [], [], pods).revisions_with_pods == {"ending", "starting"}


class Memory:
    """A store with all that stands beside it."""

    def __init__(self, room: int = 256) -> None:
        self.parser, self.fleet = Parser(room), Fleet()
        self.store = Store(Wakeups(self.parser, self.fleet, lambda key: None).changed)
        self.observer = Observer(self.store, self.parser, self.fleet)


REELS, HOME = Key("ExpertModel", "n", "reels"), Key("FoundationModel", "n", "home-fm")


def fleet_of_three() -> Memory:
    memory = Memory()
    memory.store.put("FoundationModel", foundation("home-fm"))
    memory.store.put("FoundationModel", foundation("other-fm"))
    for name in ("reels", "feed"):
        memory.store.put("ExpertModel", expert(name))
    memory.store.put("ExpertModel", expert("ads", foundationRef={"name": "other-fm"}))
    for name, number in (("home-fm", 1), ("home-fm", 2), ("other-fm", 1)):
        memory.store.put("ModelVersion", foundation_version(name, number))
    for model in ("reels", "feed"):
        marks = {"recast.dev/kind": "expert-server", "recast.dev/model": model}
        memory.store.put("Deployment", raw(f"em-{model}-abc", marks, spec={"replicas": 1}))
        memory.store.put("Service", raw(f"em-{model}", marks))
        memory.store.put("PodDisruptionBudget", raw(f"em-{model}", marks))
    return memory


def test_a_snapshot_has_what_belongs_to_its_model_and_the_identities_of_it() -> None:
    memory = fleet_of_three()
    snapshot = memory.observer.expert(REELS)
    assert snapshot is not None
    assert [entry.name for entry in snapshot.observed.children.deployments] == ["em-reels-abc"]
    assert [(entry.kind, entry.name) for entry in snapshot.observed.children.companions] == [
        ("Service", "em-reels"),
        ("PodDisruptionBudget", "em-reels"),
    ]
    assert set(snapshot.observed.foundations) == {"home-fm"}
    assert snapshot.observed.foundation_names == ("home-fm", "other-fm")
    found = [(entry.spec.model.name, entry.spec.number) for entry in snapshot.observed.foundation_versions]
    assert found == [("home-fm", 1), ("home-fm", 2)]
    assert set(snapshot.objects) == {
        Address(*REELS),
        Address("Deployment", "n", "em-reels-abc"),
        Address("Service", "n", "em-reels"),
        Address("PodDisruptionBudget", "n", "em-reels"),
    }


def test_a_foundation_sees_those_that_read_it_and_those_that_nobody_can_read() -> None:
    memory = fleet_of_three()
    memory.store.put("ExpertModel", expert("broken", tasks="none"))
    snapshot = memory.observer.foundation(HOME)
    assert snapshot is not None
    assert [(entry.name, entry.readable) for entry in snapshot.observed.experts] == [
        ("broken", False),
        ("feed", True),
        ("reels", True),
    ]
    assert [entry.spec.number for entry in snapshot.observed.versions] == [1, 2]
    memory.store.remove("ExpertModel", "n", "broken", "broken")
    again = memory.observer.foundation(HOME)
    assert again is not None
    assert len(again.observed.experts) == 2


def test_a_pinned_foundation_is_seen_beside_the_referenced_one_and_an_unreadable_one_is_named() -> None:
    memory = fleet_of_three()
    status = {"stable": revision("home-fm", 1)}
    memory.store.put("ExpertModel", expert("moved", status=status, foundationRef={"name": "other-fm"}))
    memory.store.put("FoundationModel", foundation("other-fm", version=9, serving="none"))
    snapshot = memory.observer.expert(Key("ExpertModel", "n", "moved"))
    assert snapshot is not None
    assert set(snapshot.observed.foundations) == {"home-fm"}
    assert snapshot.observed.unreadable_foundations == {"other-fm"}
    trial = {"canary": revision("home-fm", 1, progressedAt="2026-01-03T00:00:00Z")}
    memory.store.put("ExpertModel", expert("trying", status=trial, foundationRef={"name": "other-fm"}))
    trying = memory.observer.expert(Key("ExpertModel", "n", "trying"))
    assert trying is not None
    assert set(trying.observed.foundations) == {"home-fm"}
    home = memory.observer.foundation(HOME)
    assert home is not None
    assert "moved" in {entry.name for entry in home.observed.experts}


def test_what_is_gone_has_no_snapshot_and_what_cannot_be_read_says_where() -> None:
    memory = fleet_of_three()
    assert memory.observer.expert(Key("ExpertModel", "n", "gone")) is None
    assert memory.observer.foundation(Key("FoundationModel", "n", "gone")) is None
    memory.store.put("ExpertModel", expert("reels", version=9, tasks="none"))
    with pytest.raises(Invalid, match=r"ExpertModel n/reels: spec\.tasks"):
        memory.observer.expert(REELS)


def test_a_version_that_cannot_be_read_is_left_out_and_stops_nobody_else() -> None:
    memory = fleet_of_three()
    broken = foundation_version("home-fm", 3)
    broken["spec"]["number"] = "many"
    memory.store.put("ModelVersion", broken)
    snapshot = memory.observer.foundation(HOME)
    assert snapshot is not None
    assert [entry.spec.number for entry in snapshot.observed.versions] == [1, 2]


def test_a_parsed_model_is_shared_until_it_changes_and_goes_with_its_object() -> None:
    memory = fleet_of_three()
    first, second = memory.observer.expert(REELS), memory.observer.expert(REELS)
    assert first is not None
    assert second is not None
    assert first.observed.model is second.observed.model
    memory.store.put("ExpertModel", expert("reels", version=9, suspend=True))
    third = memory.observer.expert(REELS)
    assert third is not None
    assert third.observed.model.spec.suspend
    parsed = len(memory.parser)
    memory.store.remove("ExpertModel", "n", "reels", "reels")
    memory.store.remove("ModelVersion", "n", "fm-home-fm-v1", "fm-home-fm-v1")
    assert len(memory.parser) == parsed - 2


def test_a_model_that_was_made_anew_takes_the_place_of_what_was_parsed_of_its_namesake() -> None:
    memory = fleet_of_three()
    parsed = len(memory.parser)
    anew = expert("reels", version=9)
    anew["metadata"]["uid"] = "another"
    memory.store.put("ExpertModel", anew)
    assert memory.observer.expert(REELS) is not None
    assert len(memory.parser) == parsed


def test_no_more_models_stay_parsed_than_there_is_room_for() -> None:
    memory = Memory(room=3)
    for number in range(10):
        memory.store.put("ExpertModel", expert(f"expert-{number}"))
    assert len(memory.parser) == 3
    snapshot = memory.observer.expert(Key("ExpertModel", "n", "expert-0"))
    assert snapshot is not None
    assert snapshot.observed.model.metadata.name == "expert-0"
