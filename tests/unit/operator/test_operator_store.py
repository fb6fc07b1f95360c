"""The operator's memory is never older than its own last write."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recast_operator.store import Store, newer, slim


def pod(version: int, uid: str = "u1", name: str = "p") -> dict[str, Any]:
    return {"metadata": {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version)}, "spec": {}}


@given(st.lists(st.integers(1, 20), min_size=1))
def test_events_in_any_order_leave_the_newest_object(versions: list[int]) -> None:
    store = Store()
    for version in versions:
        store.put("Pod", pod(version))
    kept = store.get("Pod", "n", "p")
    assert kept is not None
    assert kept["metadata"]["resourceVersion"] == str(max(versions))


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


def test_the_deletion_of_a_former_object_does_not_remove_its_successor() -> None:
    store = Store()
    store.put("Pod", pod(3, uid="u2"))
    assert not store.remove("Pod", "n", "p", "u1")
    assert store.get("Pod", "n", "p") is not None


def test_a_complete_listing_removes_what_it_lacks_but_not_what_is_newer_than_it() -> None:
    store = Store()
    store.put("Pod", pod(5, "u1", "gone"))
    store.put("Pod", pod(20, "u2", "born-after-the-listing"))
    better = store.replace_all("Pod", [pod(7, "u3", "missed")], version="10")
    assert better == 2
    assert [raw["metadata"]["name"] for raw in store.of("Pod", "n")] == ["born-after-the-listing", "missed"]


def test_a_listing_of_one_namespace_leaves_the_others_alone() -> None:
    store = Store()
    store.put("Pod", pod(5))
    assert store.replace_all("Pod", [], version="10", namespace="elsewhere") == 0
    assert store.get("Pod", "n", "p") is not None


def test_a_doubted_object_is_settled_by_reading_it() -> None:
    store = Store()
    store.doubt("Pod", "n", "p")
    store.doubt("Pod", "other", "p")
    assert store.doubts("n") == [("Pod", "n", "p")]
    store.settle(("Pod", "n", "p"), pod(4))
    assert store.doubts("n") == []
    assert store.get("Pod", "n", "p") is not None
    store.doubt("Pod", "n", "p")
    store.settle(("Pod", "n", "p"), None)
    assert store.get("Pod", "n", "p") is None


def test_listeners_hear_of_changes_only_and_of_both_sides_of_one() -> None:
    heard: list[tuple[str, str]] = []
    store = Store(lambda kind, raw: heard.append((kind, raw["metadata"]["resourceVersion"])))
    store.put("Pod", pod(1))
    store.put("Pod", pod(1))
    store.put("Pod", pod(2))
    store.remove("Pod", "n", "p", "u1")
    assert heard == [("Pod", "1"), ("Pod", "1"), ("Pod", "2"), ("Pod", "2")]


def test_what_nobody_reads_is_not_kept() -> None:
    raw = {
        "metadata": {"name": "p", "managedFields": [{"manager": "kubelet"}]},
        "spec": {"containers": [{"image": "i", "env": [1, 2]}], "volumes": []},
        "status": {"phase": "Running"},
    }
    assert slim("Pod", raw) == {
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"image": "i"}]},
        "status": {"phase": "Running"},
    }
