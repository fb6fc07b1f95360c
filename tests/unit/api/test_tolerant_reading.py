"""Strict for writing, tolerant for reading, closed on doubt: objects that a newer release wrote."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recast_api.reading import Decision, preserved, read
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion

Object = dict[str, Any]
TIME = "2026-01-02T03:04:05Z"
DIGEST = "sha256:" + "ab" * 32
PIN = {"name": "home-fm", "version": 1, "lineage": 1, "digest": DIGEST}
REVISION: Object = {
    "revision": "0123456789",
    "version": 1,
    "digest": DIGEST,
    "path": "em/reels/v1",
    "foundation": PIN,
    "serving": {"image": "server:1"},
    "tasks": [{"name": "click"}],
    "since": TIME,
}
EXPERT: Object = {
    "metadata": {"name": "reels", "namespace": "n", "uid": "u", "resourceVersion": "1"},
    "spec": {
        "foundationRef": {"name": "home-fm"},
        "surface": "reels",
        "tasks": [{"name": "click"}],
        "architecture": {},
        "gates": {},
        "training": {"image": "trainer:1", "resources": {}},
        "serving": {"image": "server:1"},
        "refresh": {"triggers": ["FoundationMajor"]},
        "rollout": {
            "steps": [{"setWeight": 10}],
            "analysis": [{"metric": "error-rate", "max": "0.01"}, {"metric": "slow-share", "max": "0.1"}],
            "request": {"id": "1", "action": "Abort", "revision": "x"},
        },
    },
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": TIME}],
        "stable": REVISION,
        "canary": {
            **REVISION,
            "revision": "9876543210",
            "state": "Promoting",
            "progressedAt": TIME,
            "results": [{"metric": "error-rate", "verdict": "Success", "time": TIME}],
        },
        "run": {"number": 2, "jobName": "j", "inputsHash": "h", "startedAt": TIME, "state": "BackingOff"},
        "failedRevisions": [
            {
                "revision": "f",
                "version": 1,
                "foundationVersion": 1,
                "reason": "AnalysisFailed",
                "message": "m",
                "time": TIME,
                "results": [{"metric": "slow-share", "verdict": "Failure", "time": TIME}],
            }
        ],
    },
}
EXPERT = json.loads(json.dumps(EXPERT))  # no part of it stands in two places
FOUNDATION: Object = {
    "metadata": {"name": "home-fm"},
    "spec": {
        "storage": {"persistentVolumeClaim": {"claimName": "models"}},
        "data": {"persistentVolumeClaim": {"claimName": "data"}, "path": "."},
        "training": {"image": "trainer:1"},
        "serving": {"image": "server:1"},
    },
}


def changed(path: str, value: Any, base: Object = EXPERT) -> Object:
    made = copy.deepcopy(base)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target: Any = made
    for part in parents:
        target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
    target[last] = value
    return made


def test_what_this_version_knows_is_read_without_a_doubt() -> None:
    assert read(ExpertModel, EXPERT).doubts == ()
    assert read(ExpertModel, EXPERT).model == ExpertModel.model_validate(EXPERT)


UNKNOWN_FIELDS: list[tuple[str, set[Decision]]] = [
    ("spec/novelty", set()),
    ("spec/foundationRef/kind", set()),
    ("spec/refresh/maxAge", set()),
    ("spec/training/launcher", {"Training"}),
    ("spec/training/resources/claims", {"Training"}),
    ("spec/architecture/dropout", {"Training"}),
    ("spec/tasks/0/loss", {"Training", "Rollout"}),
    ("spec/gates/maxDrift", {"Training", "Run", "Acceptance"}),
    ("spec/serving/batch", {"Rollout"}),
    ("spec/rollout/router", {"Rollout"}),
    ("spec/rollout/steps/0/until", {"Rollout"}),
    ("spec/rollout/analysis/0/minSamples", {"Rollout"}),
    ("status/stable/serving/batch", {"Rollout"}),
    ("status/canary/serving/batch", {"Rollout"}),
    ("status/canary/foundation/minor", {"Rollout"}),
]


@pytest.mark.parametrize(("path", "holds"), UNKNOWN_FIELDS)
def test_an_unknown_field_is_left_out_and_holds_what_it_may_decide(path: str, holds: set[Decision]) -> None:
    found = read(ExpertModel, changed(path, {"a": 1}))
    assert (
        found.model
        == read(ExpertModel, EXPERT if "architecture" not in path else changed("spec/architecture", {})).model
    )
    (doubt,) = found.doubts
    assert doubt.holds == holds
    assert doubt.path.replace("[", ".").replace("]", "") == path.replace("/", ".")
    assert "does not know the field" in str(doubt)
    assert ("does not guess" in str(doubt)) is bool(holds)


@pytest.mark.parametrize("path", ["status/novelty", "status/canary/novelty", "status/run/novelty", "metadata/novelty"])
def test_an_unknown_field_of_a_status_is_no_doubt(path: str) -> None:
    found = read(ExpertModel, changed(path, 1))
    assert (found.doubts, found.model) == ((), read(ExpertModel, EXPERT).model)


def test_a_foundations_unknown_fields_are_read_alike() -> None:
    holds = {
        path: read(FoundationModel, changed(path, 1, FOUNDATION)).doubts[0].holds
        for path in (
            "spec/deny",
            "spec/fleet/maxFailed",
            "spec/data/format",
            "spec/training/launcher",
            "spec/serving/x",
        )
    }
    assert holds == {
        "spec/deny": set(),
        "spec/fleet/maxFailed": set(),
        "spec/data/format": {"Training"},
        "spec/training/launcher": {"Training"},
        "spec/serving/x": {"Rollout"},
    }


def test_an_unknown_trigger_is_ignored_and_the_known_ones_count() -> None:
    found = read(
        ExpertModel, changed("spec/refresh/triggers", ["NewData", "SpecChange", "FoundationDrift", "SpecChange"])
    )
    assert found.model.spec.refresh.triggers == ["SpecChange"]
    assert [doubt.holds for doubt in found.doubts] == [set()]
    assert read(ExpertModel, changed("spec/refresh/triggers", ["NewData"])).model.spec.refresh.triggers == []
    assert read(ExpertModel, changed("spec/refresh/triggers", "all")).model.spec.refresh.triggers == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/rollout/analysis/1/metric", "ndcg"),
        ("spec/rollout/analysis/1", {"metric": "ndcg", "minOverStable": "1"}),
        ("spec/rollout/analysis/1", {"metric": "slow-share", "trend": "1"}),
        ("spec/rollout/analysis/1", 7),
    ],
)
def test_a_metric_that_cannot_be_judged_holds_the_rollout_and_the_others_are_kept(path: str, value: Any) -> None:
    found = read(ExpertModel, changed(path, value))
    assert [entry.metric.value for entry in found.model.spec.rollout.analysis] == ["error-rate"]
    assert all("Rollout" in doubt.holds for doubt in found.doubts)
    assert any("cannot judge" in doubt.text for doubt in found.doubts)


def test_more_metrics_or_other_steps_than_this_version_allows_hold_the_rollout() -> None:
    many = [{"metric": name, "max": "0.1"} for name in ("error-rate", "slow-share", "a", "b")]
    (doubt,) = read(ExpertModel, changed("spec/rollout/analysis", many)).doubts
    assert (doubt.path, doubt.holds) == ("spec.rollout.analysis", {"Rollout"})
    (doubt,) = read(ExpertModel, changed("spec/rollout/steps", [{"analysis": {}}, {"setWeight": 20}])).doubts[:1]
    assert doubt.holds == {"Rollout"}


@pytest.mark.parametrize(("path", "value"), [("action", "SkipStep"), ("step", 3), ("id", 7)])
def test_a_request_that_is_not_fully_understood_waits(path: str, value: Any) -> None:
    found = read(ExpertModel, changed(f"spec/rollout/request/{path}", value))
    assert found.model.spec.rollout.request is None
    assert [(doubt.path, doubt.holds) for doubt in found.doubts] == [("spec.rollout.request", set())]


@pytest.mark.parametrize(
    ("path", "stand_in", "holds"),
    [
        ("status/canary/state", "Progressing", {"Rollout"}),
        ("status/run/state", "Running", {"Run"}),
        ("status/conditions/0/status", "Unknown", set()),
    ],
)
def test_an_unknown_state_stands_still_and_survives_our_write(path: str, stand_in: str, holds: set[Decision]) -> None:
    raw = changed(path, "Verifying")
    found = read(ExpertModel, raw)
    wire = found.model.status.wire()
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")][1:]

    def at(status: Any) -> Any:
        for part in parents:
            status = status[part]
        return status[last]

    assert at(wire) == stand_in
    assert [(doubt.holds, '"Verifying"' in doubt.text) for doubt in found.doubts] == [(holds, True)]
    assert at(preserved(found.model.status, raw["status"])) == "Verifying"


def test_a_word_that_we_know_or_have_changed_is_not_overwritten_by_what_stood_before() -> None:
    model = read(ExpertModel, EXPERT).model
    status = model.status.model_copy(update={"run": model.status.run.model_copy(update={"state": "Running"})})  # type: ignore[union-attr]
    assert preserved(status, EXPERT["status"])["run"]["state"] == "Running"
    before = changed("status/run/state", "Verifying")["status"]
    assert preserved(model.status, before)["run"]["state"] == "BackingOff"


def test_results_of_metrics_that_are_not_known_are_left_out() -> None:
    for path in ("status/canary/results/0", "status/failedRevisions/0/results/0"):
        for field, value in (("metric", "ndcg"), ("verdict", "Undecided")):
            found = read(ExpertModel, changed(f"{path}/{field}", value))
            assert [doubt.holds for doubt in found.doubts] == [set()]
    assert found.model.status.failed_revisions[0].results == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata/name", "x" * 41),
        ("spec/surface", 7),
        ("spec/tasks", []),
        ("spec/serving/replicas", 0),
        ("spec", {}),
        ("spec", None),
        ("status", []),
        ("status/canary/version", "two"),
        ("status/conditions", {"Ready": True}),
        ("apiVersion", "recast.dev/v2"),
    ],
)
def test_what_has_no_safe_meaning_cannot_be_read(path: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        read(ExpertModel, changed(path, value))


def test_the_error_is_about_the_object_as_it_is() -> None:
    raw = changed("spec/novelty", 1, changed("spec/surface", 7))
    with pytest.raises(ValidationError) as caught:
        read(ExpertModel, raw)
    assert {entry["loc"] for entry in caught.value.errors()} == {("spec", "surface"), ("spec", "novelty")}


def test_a_foundation_of_a_network_that_is_not_known_cannot_be_read() -> None:
    with pytest.raises(ValidationError):
        read(FoundationModel, changed("spec/architecture/block", "Next", FOUNDATION))


def test_reading_leaves_the_object_as_it_was() -> None:
    raw = changed("spec/novelty", 1)
    before = copy.deepcopy(raw)
    read(ExpertModel, raw)
    assert raw == before


def test_strict_reading_is_as_strict_as_ever() -> None:
    for path, _ in UNKNOWN_FIELDS:
        with pytest.raises(ValidationError):
            ExpertModel.model_validate(changed(path, 1))


def test_unknown_fields_of_a_status_survive_on_what_is_still_the_same() -> None:
    raw = copy.deepcopy(EXPERT)
    status = raw["status"]
    for part in (
        status,
        status["stable"],
        status["stable"]["serving"],
        status["canary"],
        status["canary"]["results"][0],
        status["run"],
        status["failedRevisions"][0],
        status["conditions"][0],
    ):
        part["novelty"] = {"a": [1]}
    model = read(ExpertModel, raw).model
    kept = preserved(model.status, status)
    plain = model.status.wire()
    for path in (
        "",
        "stable",
        "stable/serving",
        "canary",
        "canary/results/0",
        "run",
        "failedRevisions/0",
        "conditions/0",
    ):
        here, there = kept, plain
        for part in path.split("/") if path else []:
            here, there = (here[int(part)], there[int(part)]) if part.isdigit() else (here[part], there[part])  # type: ignore[index]
        assert here["novelty"] == {"a": [1]}, path
        assert "novelty" not in there
    stable = model.status.stable
    assert stable is not None
    moved = model.status.model_copy(
        update={"stable": stable.model_copy(update={"revision": "other"}), "run": None, "conditions": []}
    )
    kept = preserved(moved, status)
    assert "novelty" not in kept["stable"]
    assert "run" not in kept
    assert kept["conditions"] == []
    assert kept["novelty"] == {"a": [1]}


def test_a_status_that_nobody_else_wrote_is_written_as_it_is() -> None:
    status = read(ExpertModel, EXPERT).model.status
    assert preserved(status, EXPERT["status"]) == preserved(status, None) == preserved(status, {}) == status.wire()
    assert preserved(status, {"novelty": None}) == status.wire()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "1", "Running"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metric", "novelty", "state"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = [
    "spec/rollout/analysis/0", "spec/rollout/analysis", "spec/rollout", "spec/rollout/request/action", "spec/refresh",
    "spec/refresh/triggers/0", "spec/novelty", "spec/training/novelty", "status/canary/results/0/verdict",
    "status/canary/state", "status/run/state", "status/canary", "status/novelty", "status/failedRevisions/0", "status",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=3))
def test_any_object_is_read_or_refused_and_what_is_read_can_be_written_and_read_again(
    edits: list[tuple[str, Any]],
) -> None:
    raw = EXPERT
    for path, value in edits:
        try:
            raw = changed(path, value, raw)
        except (TypeError, KeyError, IndexError, AttributeError):
            return
    try:
        found = read(ExpertModel, raw)
    except ValidationError:
        return
    before = raw.get("status")
    wire = preserved(found.model.status, before)
    again = read(ExpertModel, {**raw, "status": wire})
    assert again.model.status == found.model.status
    assert preserved(again.model.status, wire) == wire, "a write that is written again and again"


def test_a_version_with_measurements_that_are_not_known_is_read() -> None:
    raw = {
        "metadata": {"name": "fm-home-fm-v1"},
        "spec": {
            "model": {"kind": "FoundationModel", "name": "home-fm", "uid": "u"},
            "number": 1,
            "lineage": 1,
            "digest": DIGEST,
            "path": "x",
            "watermark": TIME,
            "drift": "0.1",
        },
    }
    found = read(ModelVersion, raw)
    assert [str(doubt) for doubt in found.doubts] == ["spec.drift: this version does not know the field"]
