"""One corpus of objects, judged by pydantic and by a real kube-apiserver with strict field validation."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from corpus_cases import Case, cases
from pydantic import BaseModel, ValidationError

from recast_api.names import PLURALS
from recast_api.resources import KINDS

pytestmark = pytest.mark.integration

CLASSES: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in KINDS}
STRICT = {"fieldValidation": "Strict"}
DRY = {**STRICT, "dryRun": "All"}
APART_FROM_CHANGES = [case for case in cases() if not case.update]
CHANGES = [case for case in cases() if case.update]


def _collection(case: Case, namespace: str) -> str:
    return f"/apis/recast.dev/v1alpha1/namespaces/{namespace}/{PLURALS[case.kind]}"


def _name(case: Case) -> str:
    return f"{case.kind}: {case.reason}"


def _pydantic_takes(case: Case) -> bool:
    try:
        CLASSES[case.kind].model_validate(case.object)
    except ValidationError:
        return False
    return True


def test_the_corpus_is_large_and_every_case_has_its_own_reason() -> None:
    names = [_name(case) for case in cases()]
    assert len(set(names)) == len(names)
    for kind in CLASSES:
        assert sum(case.kind == kind for case in cases()) >= 40
        assert any(case.kind == kind and case.valid for case in cases())


@pytest.mark.parametrize("case", APART_FROM_CHANGES, ids=_name)
def test_pydantic_and_the_apiserver_judge_an_object_alike(case: Case, recast: httpx.Client) -> None:
    answer = recast.post(_collection(case, "default"), params=DRY, json=case.object)

    body = answer.json()
    assert answer.is_success == case.valid, body
    assert case.says in body.get("message", case.says)
    assert _pydantic_takes(case) == case.valid


@pytest.mark.parametrize("case", [case for case in APART_FROM_CHANGES if case.valid], ids=_name)
def test_both_fill_in_the_same_defaults(case: Case, recast: httpx.Client) -> None:
    stored = recast.post(_collection(case, "default"), params=DRY, json=case.object).json()

    parsed: Any = CLASSES[case.kind].model_validate(case.object)

    assert stored["spec"] == parsed.spec.wire()


@pytest.mark.parametrize("case", CHANGES, ids=_name)
def test_a_change_is_taken_or_refused_as_the_corpus_says(case: Case, recast: httpx.Client, namespace: str) -> None:
    created = recast.post(_collection(case, namespace), params=STRICT, json=case.base).raise_for_status().json()
    changed = {**case.object}
    changed["metadata"] = {**changed["metadata"], "resourceVersion": created["metadata"]["resourceVersion"]}

    answer = recast.put(f"{_collection(case, namespace)}/{case.base['metadata']['name']}", params=STRICT, json=changed)

    body = answer.json()
    assert answer.is_success == case.valid, body
    assert case.says in body.get("message", case.says)
    # Pydantic sees one object and not the one before it: what only forbids change is no business of its.
    assert _pydantic_takes(case) == (case.valid or "immutable" in case.says)


STATUSES: dict[str, dict[str, Any]] = {
    "FoundationModel": {
        "observedGeneration": 1,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-01-02T03:04:05Z"}
        ],
        "run": {
            "number": 2,
            "jobName": "fm-home-fm-r2-a1",
            "inputsHash": "ab",
            "startedAt": "2026-01-02T03:04:05Z",
            "state": "Running",
        },
        "wave": {"granted": ["reels"], "experts": 3},
    },
    "ExpertModel": {"replicas": 2, "selector": "recast.dev/model=reels", "summary": {"stable": "v1@fm1"}},
    "ModelVersion": {"summary": {"state": "Accepted", "ne": "0.73", "usedBy": 1}},
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_status_that_pydantic_writes_is_stored_whole(kind: str, recast: httpx.Client, namespace: str) -> None:
    case = next(case for case in cases() if case.kind == kind)
    collection = _collection(case, namespace)
    created = recast.post(collection, params=STRICT, json=case.base).raise_for_status().json()
    assert "status" not in created
    parsed: Any = CLASSES[kind].model_validate({**case.base, "status": STATUSES[kind]})

    written = recast.put(
        f"{collection}/{created['metadata']['name']}/status",
        params=STRICT,
        json={**created, "status": parsed.status.wire()},
    )

    assert written.is_success, written.text
    assert written.json()["status"] == parsed.status.wire()
    again: Any = CLASSES[kind].model_validate(written.json())
    assert again.status == parsed.status


def test_creating_an_object_with_a_status_writes_none(recast: httpx.Client, namespace: str) -> None:
    case = next(case for case in cases() if case.kind == "ModelVersion")
    forged = {**case.base, "status": {"summary": {"state": "Accepted", "usedBy": 1}}}

    created = recast.post(_collection(case, namespace), params=STRICT, json=forged).raise_for_status().json()

    assert "status" not in created


def test_the_scale_subresource_reads_and_writes_the_experts_replicas(recast: httpx.Client, namespace: str) -> None:
    case = next(case for case in cases() if case.kind == "ExpertModel")
    url = f"{_collection(case, namespace)}/reels"
    recast.post(_collection(case, namespace), params=STRICT, json=case.base).raise_for_status()

    scaled = recast.patch(
        f"{url}/scale", headers={"Content-Type": "application/merge-patch+json"}, json={"spec": {"replicas": 7}}
    )

    assert scaled.is_success, scaled.text
    assert recast.get(url).json()["spec"]["serving"]["replicas"] == 7


def test_experts_are_found_by_their_foundation_and_versions_by_their_model(
    recast: httpx.Client, namespace: str
) -> None:
    for kind in ("ExpertModel", "ModelVersion"):
        case = next(case for case in cases() if case.kind == kind)
        recast.post(_collection(case, namespace), params=STRICT, json=case.base).raise_for_status()
    base = f"/apis/recast.dev/v1alpha1/namespaces/{namespace}"

    def found(plural: str, selector: str) -> list[str]:
        answer = recast.get(f"{base}/{plural}", params={"fieldSelector": selector}).raise_for_status()
        return [item["metadata"]["name"] for item in answer.json()["items"]]

    assert found("expertmodels", "spec.foundationRef.name=home-fm") == ["reels"]
    assert found("expertmodels", "spec.foundationRef.name=other") == []
    assert found("modelversions", "spec.model.name=home-fm") == ["fm-home-fm-v3"]


def test_kubectl_sees_the_columns(recast: httpx.Client, namespace: str) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    for plural, columns in (
        ("foundationmodels", ["Name", "Ready", "Current", "Candidate", "Experts", "Reason", "Age"]),
        ("expertmodels", ["Name", "Ready", "Stable", "Canary", "Weight", "Stale", "Reason", "Age"]),
        ("modelversions", ["Name", "State", "NE", "ΔNE", "Used-by", "Landed"]),
    ):
        url = f"/apis/recast.dev/v1alpha1/namespaces/{namespace}/{plural}"
        table = recast.get(url, headers={"Accept": accept}).raise_for_status().json()
        shown = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
        assert shown == columns
