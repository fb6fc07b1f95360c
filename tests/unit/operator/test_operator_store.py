"""The operator's memory: never older than its own last write, found by model, and of one thread alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_operator.compact import compact
from recast_operator.keys import Key
from recast_operator.store import Address, Doubts, Store, Stored, newer

REELS, HOME = Key("ExpertModel", "n", "reels"), Key("FoundationModel", "n", "home-fm")


def pod(version: int, uid: str = "u1", name: str = "p", model: str = "reels") -> dict[str, Any]:
    marks = {"recast.dev/kind": "expert-server", "recast.dev/model": model}
    metadata = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version), "labels": marks}
    return {"metadata": metadata, "spec": {}}


def names(store: Store, key: Key = REELS, kind: str = "Pod") -> list[str]:
    return [entry.address.name for entry in store.owned(key, kind)]


@given(st.lists(st.integers(1, 20), min_size=1))
def test_events_in_any_order_leave_the_newest_object(versions: list[int]) -> None:
    store = Store()
    for version in versions:
        store.put("Pod", pod(version))
    kept = store.get("Pod", "n", "p")
    assert kept is not None
    assert kept.resource_version == str(max(versions))


def test_versions_are_compared_as_numbers() -> None:
    assert newer("10", "9")
    assert not newer("9", "10")
    assert not newer("9", "9")


def test_an_event_from_before_our_deletion_does_not_bring_the_object_back() -> None:
    store = Store()
    store.put("Pod", pod(1))
    store.deleted("Pod", "n", "p", "u1")
    assert not store.put("Pod", pod(2))
    assert store.get("Pod", "n", "p") is None
    assert store.put("Pod", pod(3, uid="u2"))  # another object of that name


def test_our_deletion_is_forgotten_once_a_listing_or_the_watch_knows_it_too() -> None:
    for settle in (
        lambda store: store.complete("Pod", [], "10"),
        lambda store: store.remove("Pod", "n", "p", "u1"),
    ):
        store = Store()
        store.deleted("Pod", "n", "p", "u1")
        assert store.complete("Pod", ["u1"], "9") == 0  # a listing from before it still has the object
        assert not store.put("Pod", pod(2))
        settle(store)
        assert store.put("Pod", pod(3))


def test_the_deletion_of_a_former_object_does_not_remove_its_successor() -> None:
    store = Store()
    store.put("Pod", pod(3, uid="u2"))
    assert not store.remove("Pod", "n", "p", "u1")
    store.deleted("Pod", "n", "p", "u1")
    assert store.get("Pod", "n", "p") is not None


def test_a_complete_listing_removes_what_it_lacks_but_not_what_is_newer_than_it() -> None:
    store = Store()
    store.put("Pod", pod(5, "u1", "gone"))
    store.put("Pod", pod(20, "u2", "born-after-the-listing"))
    store.put("Job", pod(5, "u4", "of-another-kind"))
    store.put("Pod", pod(7, "u3", "listed"))
    assert store.complete("Pod", ["u3"], "10") == 1
    assert names(store) == ["born-after-the-listing", "listed"]
    assert names(store, kind="Job") == ["of-another-kind"]


def test_a_listing_of_one_namespace_leaves_the_others_alone() -> None:
    store = Store()
    store.put("Pod", pod(5))
    assert store.complete("Pod", [], "10", namespace="elsewhere") == 0
    assert store.get("Pod", "n", "p") is not None
    assert store.complete("Pod", [], "10", namespace="n") == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("ab"), st.sampled_from(["reels", "feed", ""]), st.integers(1, 9)),
        st.tuples(st.just("remove"), st.sampled_from("ab"), st.just(""), st.just(0)),
    )
)


@given(STEPS)
def test_the_index_by_model_agrees_with_a_scan_whatever_happens(steps: list[tuple[str, str, str, int]]) -> None:
    store = Store()
    for step, name, model, version in steps:
        if step == "put":
            store.put("Pod", pod(version, name, name, model))
        else:
            store.remove("Pod", "n", name, name)
    for model in ("reels", "feed"):
        key = Key("ExpertModel", "n", model)
        scanned = [name for name in store.names("Pod", "n") if _model(store.get("Pod", "n", name)) == key]
        assert names(store, key) == scanned
    assert [address.name for address in sorted(store.addresses("Pod"))] == store.names("Pod", "n")


def _model(entry: Stored | None) -> Key | None:
    assert entry is not None
    return entry.model


@pytest.mark.parametrize(
    ("kind", "labels", "spec", "model"),
    [
        ("Pod", {"recast.dev/kind": "foundation-server", "recast.dev/model": "home-fm"}, {}, HOME),
        ("Job", {"recast.dev/kind": "expert-trainer", "recast.dev/model": "reels"}, {}, REELS),
        ("Pod", {"recast.dev/kind": "expert-server"}, {}, None),
        ("Pod", {"recast.dev/kind": "operator", "recast.dev/model": "reels"}, {}, None),
        ("Pod", None, {}, None),
        ("ModelVersion", {}, {"model": {"kind": "ExpertModel", "name": "reels"}}, REELS),
        ("ModelVersion", {"recast.dev/kind": "expert", "recast.dev/model": "x"}, {"model": {"kind": "Nonsense"}}, None),
        ("ModelVersion", {}, {}, None),
        ("ExpertModel", {"recast.dev/kind": "expert", "recast.dev/model": "x"}, {}, None),
    ],
)
def test_an_object_belongs_to_the_model_that_its_label_or_its_spec_names(
    kind: str, labels: Any, spec: dict[str, Any], model: Key | None
) -> None:
    store = Store()
    metadata = {"name": "o", "namespace": "n", "uid": "o", "resourceVersion": "1", "labels": labels}
    store.put(kind, {"metadata": metadata, "spec": spec})
    assert _model(store.get(kind, "n", "o")) == model


def test_a_listener_is_given_each_change_once_with_both_sides_of_it() -> None:
    changes: list[tuple[str, str | None, str | None]] = []

    def listen(address: Address, before: Stored | None, after: Stored | None) -> None:
        changes.append((address.name, before and before.resource_version, after and after.resource_version))

    store = Store(listen)
    store.put("Pod", pod(1))
    store.put("Pod", pod(1))
    store.put("Pod", pod(2))
    store.remove("Pod", "n", "p", "u1")
    store.put("Pod", pod(3, "u2"))
    store.deleted("Pod", "n", "p", "u2")
    store.put("Pod", pod(4, "u3"))
    store.complete("Pod", [], "5")
    assert changes == [("p", None, "1"), ("p", "1", "2"), ("p", "2", None), ("p", None, "3"), ("p", "3", None),
                       ("p", None, "4"), ("p", "4", None)]  # fmt: skip


async def test_another_thread_is_refused_whatever_it_wants_to_change() -> None:
    store = Store()
    store.put("Pod", pod(1))
    for change in (
        lambda: store.put("Pod", pod(2)),
        lambda: store.remove("Pod", "n", "p", "u1"),
        lambda: store.deleted("Pod", "n", "p", "u1"),
        lambda: store.complete("Pod", [], "9"),
    ):
        with pytest.raises(RuntimeError, match="event loop's thread"):
            await asyncio.to_thread(change)
    assert store.get("Pod", "n", "p") is not None


def test_only_the_model_whose_write_is_in_doubt_waits_for_it() -> None:
    doubts, job = Doubts(), Address("Job", "n", "j")
    doubts.add(REELS, job)
    doubts.add(REELS, Address("Deployment", "n", "d"))
    assert doubts.of(HOME) == []
    assert doubts.of(REELS) == [Address("Deployment", "n", "d"), job]
    assert doubts.count() == 2
    doubts.settled(REELS, job)
    doubts.settled(HOME, job)
    assert doubts.of(REELS) == [Address("Deployment", "n", "d")]


FULL_METADATA = {
    "name": "p",
    "namespace": "n",
    "uid": "u",
    "resourceVersion": "1",
    "generation": 3,
    "deletionTimestamp": "t",
    "labels": {"l": "1"},
    "annotations": {"recast.dev/template-hash": "h", "kubectl.kubernetes.io/last-applied-configuration": "{long}"},
    "finalizers": ["f"],
    "ownerReferences": [{"uid": "o"}],
    "managedFields": [{"manager": "kubelet"}],
    "selfLink": "s",
}
KEPT_METADATA = {
    key: value for key, value in FULL_METADATA.items() if key not in ("managedFields", "selfLink", "annotations")
} | {"annotations": {"recast.dev/template-hash": "h"}}


@pytest.mark.parametrize(
    ("kind", "parts", "kept"),
    [
        (
            "Pod",
            {
                "spec": {"containers": [{"image": "i", "env": [1]}, {"image": "sidecar"}], "volumes": []},
                "status": {
                    "phase": "Running",
                    "podIP": "1.2.3.4",
                    "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": "t"},
                        {"type": "Initialized", "status": "True"},
                        {"type": "PodScheduled", "status": "False", "message": "no node"},
                        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"},
                    ],
                    "containerStatuses": [
                        {"name": "c", "restartCount": 2, "state": {}, "lastState": {"terminated": {}}, "imageID": "x"}
                    ],
                },
            },
            {
                "spec": {"containers": [{"image": "i"}]},
                "status": {
                    "phase": "Running",
                    "conditions": [
                        {"type": "Ready", "status": "True"},
                        {"type": "PodScheduled", "status": "False", "message": "no node"},
                        {"type": "DisruptionTarget", "status": "True"},
                    ],
                    "containerStatuses": [{"restartCount": 2, "state": {}, "lastState": {"terminated": {}}}],
                },
            },
        ),
        (
            "Deployment",
            {
                "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {"long": 1}},
                "status": {"observedGeneration": 3, "updatedReplicas": 1, "conditions": []},
            },
            {
                "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}},
                "status": {"observedGeneration": 3, "updatedReplicas": 1, "conditions": []},
            },
        ),
        (
            "Job",
            {
                "spec": {"suspend": False, "parallelism": 2, "template": {"long": 1}},
                "status": {"ready": 2, "active": 2, "conditions": [{"type": "Failed"}]},
            },
            {
                "spec": {"suspend": False, "parallelism": 2},
                "status": {"ready": 2, "conditions": [{"type": "Failed"}]},
            },
        ),
        ("Service", {"spec": {"clusterIP": "1.2.3.4"}, "status": {"loadBalancer": {}}}, {}),
        ("PodDisruptionBudget", {"spec": {"maxUnavailable": 1}, "status": {"currentHealthy": 4}}, {}),
        ("NetworkPolicy", {"spec": {"ingress": []}}, {}),
        ("ExpertModel", {"spec": {"any": 1}, "status": {"thing": 2}}, {"spec": {"any": 1}, "status": {"thing": 2}}),
        (
            "Pod",
            {"spec": None, "status": None},
            {"spec": {"containers": []}, "status": {"conditions": [], "containerStatuses": []}},
        ),
    ],
)
def test_what_is_read_of_an_object_is_kept_and_nothing_else(kind: str, parts: Any, kept: Any) -> None:
    found = compact(kind, {"apiVersion": "v", "kind": kind, "metadata": FULL_METADATA, **parts})
    assert ("record" in found) == (kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"))
    found.pop("record", None)
    assert found == {"apiVersion": "v", "kind": kind, "metadata": KEPT_METADATA, **kept}


def test_null_in_the_place_of_a_list_or_map_is_as_good_as_absent() -> None:
    named = {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"}
    nothing = dict.fromkeys(("labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"))
    status = {"conditions": None, "containerStatuses": [{"state": None, "lastState": None, "restartCount": 0}]}
    found = compact("Pod", {"metadata": {**named, **nothing}, "spec": {"containers": None}, "status": status})
    assert found["metadata"] == named
    assert found["status"] == {"conditions": [], "containerStatuses": [{"restartCount": 0}]}
