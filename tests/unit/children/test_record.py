"""The record that a child carries of what was applied: written, read back, edited, lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_golden_children import KINDS, OWNER, build

from recast_operator.children.record import EDITED, ChildRecord, child_record, condense, read, recorded

LAST_APPLIED = "recast.dev/last-applied"


def live(name: str = "expert_deployment", /, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(recorded(build(name))))
    made["metadata"] |= {"uid": "1", "resourceVersion": "7", **changes}
    return made


def annotation(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body["metadata"]["annotations"][LAST_APPLIED])
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_child_as_it_was_applied_has_a_record_without_drift_and_without_a_body(name: str) -> None:
    found = read(live(name))
    assert (found.recorded, found.drift, found.applied, found.unrecorded) == (True, (), "", "")
    assert (found.template_hash, found.repairs) == ("hash", 0)


def test_the_record_is_the_object_without_itself_and_without_replicas() -> None:
    body = build("expert_deployment")
    made = recorded(body, repairs=3)
    kept = annotation(made)["object"]
    assert kept == {**body, "spec": {key: value for key, value in body["spec"].items() if key != "replicas"}}
    assert made["spec"] == body["spec"]
    assert made["metadata"]["annotations"]["recast.dev/repairs"] == "3"
    assert "recast.dev/repairs" not in recorded(body)["metadata"]["annotations"]
    assert set(body["metadata"]["annotations"]) == {"recast.dev/template-hash"}, "the builder's object was changed"


def test_replicas_are_no_drift() -> None:
    body = live()
    body["spec"]["replicas"] = 17
    assert read(body).drift == ()


def test_drift_keeps_what_is_to_be_put_back() -> None:
    body = live()
    body["spec"]["template"]["spec"]["containers"][0]["image"] = "server:2"
    body["metadata"]["annotations"]["recast.dev/template-hash"] = "edited too"
    found = read(body)
    assert len(found.drift) == 2
    assert json.loads(found.applied) == annotation(live())["object"]
    assert found.template_hash == "hash"


def test_the_owner_of_a_child_whose_reference_was_removed_is_the_one_that_was_applied() -> None:
    bystander, stranger = {"uid": "bystander"}, {"uid": "stranger", "controller": True}
    assert condense(live(ownerReferences=None))["metadata"]["ownerReferences"] == [OWNER]
    assert condense(live(ownerReferences=[bystander]))["metadata"]["ownerReferences"] == [bystander, OWNER]
    assert condense(live(ownerReferences=[stranger]))["metadata"]["ownerReferences"] == [stranger]
    assert condense(live())["metadata"]["ownerReferences"] == [OWNER]


def _image(text: str) -> str:
    return text.replace("server:1", "server:2")


def _digest_of_another_object(text: str) -> str:
    return json.dumps({"digest": json.loads(text)["digest"], "object": {"metadata": {}}})


@pytest.mark.parametrize(
    "edit",
    [
        _image,
        _digest_of_another_object,
        lambda text: "",
        lambda text: "{",
        lambda text: "[]",
        lambda text: "7",
        lambda text: "{}",
        lambda text: '{"digest": "x", "object": 7}',
        lambda text: "[" * 100_000,
        lambda text: text.replace('"digest":"', '"digest":"0'),
    ],
)
def test_a_record_that_was_edited_is_itself_drift_and_is_not_believed(edit: Any) -> None:
    body = live()
    body["metadata"]["annotations"][LAST_APPLIED] = edit(body["metadata"]["annotations"][LAST_APPLIED])
    found = read(body)
    assert (found.recorded, found.drift, found.applied) == (False, (EDITED,), "")
    assert found.template_hash == "hash"


@settings(deadline=None)
@given(st.text())
def test_no_text_in_the_annotation_breaks_the_reading(text: str) -> None:
    body = live()
    body["metadata"]["annotations"][LAST_APPLIED] = text
    assert read(body).drift == (EDITED,)


@pytest.mark.parametrize("field", ["name", "namespace"])
def test_a_record_that_was_copied_to_another_object_is_not_believed(field: str) -> None:
    assert read(live(**{field: "copy"})).drift == (EDITED,)


def test_a_child_without_a_record_shows_what_it_is_and_has_no_known_drift() -> None:
    body = live()
    del body["metadata"]["annotations"][LAST_APPLIED]
    found = read(body)
    assert (found.recorded, found.drift, found.template_hash) == (False, (), "hash")
    shown = json.loads(found.unrecorded)
    assert shown["spec"] == body["spec"]
    assert shown["metadata"]["labels"] == body["metadata"]["labels"]
    assert "uid" not in shown["metadata"]


def test_a_service_of_a_training_run_has_neither_hash_nor_record() -> None:
    bare = {"metadata": {"name": "x", "namespace": "n"}, "spec": {}}
    assert read(bare) == ChildRecord()


MANAGED = [
    {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:status": {}}, "time": "t0"},
    {"manager": "other", "operation": "Apply", "time": "t1"},
    {"manager": "recast", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}, "time": "t2"},
    {"manager": "recast", "operation": "Apply", "time": "t3"},
]


def test_the_time_of_our_last_apply_and_who_scaled_come_from_the_managed_fields() -> None:
    found = read(live(managedFields=MANAGED))
    assert (found.applied_at, found.scaled_by, found.scaled_at) == ("t3", "", "")
    hpa = {"manager": "hpa", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}, "time": "t4"}
    found = read(live(managedFields=[*MANAGED, hpa]))
    assert (found.scaled_by, found.scaled_at) == ("hpa", "t4")
    assert read(live(managedFields=MANAGED[:3])).applied_at == ""
    assert read(live(managedFields=None)).applied_at == ""


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("", 0), ("-1", 0), ("many", 0), ("99999", 0), ("٣", 0)])
def test_the_count_of_repairs_is_a_small_number_or_nothing(text: str, count: int) -> None:
    body = live()
    body["metadata"]["annotations"]["recast.dev/repairs"] = text
    assert read(body).repairs == count


def test_what_is_remembered_of_a_child_is_small_and_reads_the_same() -> None:
    body = live(managedFields=MANAGED)
    kept = condense(body)
    assert child_record(json.loads(json.dumps(kept))) == child_record(kept) == read(body)
    assert len(json.dumps(kept["record"])) < 500
    rest = {key: value for key, value in kept.items() if key != "record"}
    assert len(json.dumps(rest)) < 1000
    assert "template" not in kept["spec"]
    assert kept["spec"]["replicas"] == 4
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"recast.dev/template-hash": "hash"}
    assert "template" in body["spec"], "the event's object was changed"


def test_a_child_is_found_by_the_labels_that_were_applied_whatever_became_of_them() -> None:
    applied = build("expert_deployment")["metadata"]["labels"]
    kept = condense(live(labels={"team": "ads", "recast.dev/model": "other"}))
    assert kept["metadata"]["labels"] == {"team": "ads", **applied}
    assert condense(live(labels=None))["metadata"]["labels"] == applied


def test_a_drifted_child_is_remembered_with_what_is_to_be_put_back_and_the_hash_that_was_applied() -> None:
    body = live()
    body["metadata"]["annotations"]["recast.dev/template-hash"] = "edited"
    kept = json.loads(json.dumps(condense(body)))
    assert kept["metadata"]["annotations"] == {"recast.dev/template-hash": "hash"}
    assert child_record(kept) == read(body)
    assert child_record(kept).drift
    assert child_record({"metadata": {}}) == ChildRecord()
    bare = {"metadata": {"name": "x", "namespace": "n"}, "spec": None}
    assert condense(bare) == {"metadata": {"name": "x", "namespace": "n", "annotations": {}}, "spec": {}, "record": {}}


def test_the_record_of_the_last_release_is_believed() -> None:
    """Another spelling of the same record would take every user's children for edited, and render them anew."""
    body = {
        "kind": "Service",
        "metadata": {
            "namespace": "n",
            "name": "x",
            "labels": {"ü": "ö"},
            "annotations": {"recast.dev/template-hash": "h"},
            "ownerReferences": [],
        },
        "spec": {"replicas": 2, "b": "ä"},
    }
    text = (
        '{"admitted":[],"digest":"a322821c29b0fd98","object":{"kind":"Service","metadata":{"annotations":'
        '{"recast.dev/template-hash":"h"},"labels":{"\\u00fc":"\\u00f6"},"name":"x","namespace":"n",'
        '"ownerReferences":[]},"spec":{"b":"\\u00e4"}}}'
    )
    assert recorded(body)["metadata"]["annotations"][LAST_APPLIED] == text
