"""A pass writes onto what it observed or not at all, says what stops it, and never stops others."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from recast_operator import controller as module
from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound, Transient
from recast_operator.controller import InternalError
from recast_operator.keys import Key
from recast_operator.planning.clock import stamp
from recast_operator.store import Address
from tests.unit.operator.documents import expert, foundation, foundation_version, revision
from tests.unit.operator.operator_harness import HOME, REELS, Harness, expert_version, serving_pair

Object = dict[str, Any]
SERVICE = "PATCH services/em-reels"
BUDGET = "PATCH poddisruptionbudgets/em-reels"
VERSION_STATUS = "PUT modelversions/fm-home-fm-v1/status"


def edit(image: str) -> Any:
    def change(raw: Object) -> None:
        raw["spec"]["serving"]["image"] = image

    return change


async def test_a_pass_writes_verdict_status_and_children_in_this_order_and_then_is_quiet() -> None:
    harness = serving_pair()
    await harness.controller.reconcile(REELS)
    assert [entry.rpartition("-")[0] if "deployments" in entry else entry for entry in harness.api.writes()] == [
        "PUT modelversions/em-reels-v1/status",
        "PUT expertmodels/reels/status",
        SERVICE,
        BUDGET,
        "PATCH deployments/em-reels",
    ]
    await harness.until_quiet(REELS)
    before = len(harness.api.log)
    assert await harness.until_quiet(REELS) == []
    assert len(harness.api.log) == before, "an idle pass asked the apiserver for something"


@pytest.mark.parametrize("write", range(5))
async def test_a_person_who_edits_between_any_two_writes_of_a_pass_is_never_overwritten(write: int) -> None:
    reference = serving_pair()
    reference.api.change("ExpertModel", "n", "reels", edit("server:2"))
    await reference.until_quiet(REELS)

    harness = serving_pair()
    await harness.controller.reconcile(REELS)
    label = harness.api.writes()[write]
    harness = serving_pair()

    async def meddle() -> None:
        harness.api.change("ExpertModel", "n", "reels", edit("server:2"))

    harness.api.before(label, meddle)
    await harness.until_quiet(REELS)
    raw = harness.raw(REELS)
    assert raw["spec"]["serving"]["image"] == "server:2"
    assert raw["status"]["observedGeneration"] == raw["metadata"]["generation"] == 2
    assert raw["status"]["canary"]["serving"]["image"] == reference.raw(REELS)["status"]["canary"]["serving"]["image"]
    if write <= 1:  # the edit came before the status: that write must have failed, and nothing of the old plan exist
        deployments = [name for kind, _, name in harness.api.objects if kind == "Deployment"]
        assert deployments == [name for kind, _, name in reference.api.objects if kind == "Deployment"]


async def test_an_edit_during_the_wait_for_prometheus_ends_the_pass_and_is_observed_at_once() -> None:
    harness = await canary_under_way()
    abort = {"id": "a1", "action": "Abort", "revision": harness.raw(REELS)["status"]["canary"]["revision"]}

    async def meddle() -> None:
        harness.prometheus.during = None

        def change(raw: Object) -> None:
            raw["spec"].setdefault("rollout", {})["request"] = abort

        # The watch is faster than Prometheus: the memory has the edit by the time that the status is written.
        harness.store.put("ExpertModel", harness.api.change("ExpertModel", "n", "reels", change))

    harness.prometheus.during = meddle
    writes = len(harness.api.writes())
    assert await harness.controller.reconcile(REELS) == 0.0
    assert harness.prometheus.asked == 1
    assert len(harness.api.writes()) == writes
    await harness.until_quiet(REELS)
    status = harness.raw(REELS)["status"]
    assert status["handledRequests"] == ["a1"]
    assert [entry["reason"] for entry in status["failedRevisions"]] == ["Aborted"]


async def test_a_model_that_goes_during_the_wait_for_prometheus_is_left_alone() -> None:
    harness = await canary_under_way()

    async def meddle() -> None:
        harness.store.remove(*REELS, harness.raw(REELS)["metadata"]["uid"])

    harness.prometheus.during = meddle
    writes = len(harness.api.writes())
    assert await harness.controller.reconcile(REELS) == 0.0
    assert len(harness.api.writes()) == writes


async def test_what_changed_around_a_model_while_prometheus_was_asked_is_seen() -> None:
    harness = await canary_under_way()
    canary = harness.raw(REELS)["status"]["canary"]["revision"]

    async def meddle() -> None:
        [name] = [name for kind, _, name in harness.api.objects if kind == "Deployment" and name.endswith(canary)]
        raw = harness.api.objects.pop(("Deployment", "n", name))
        harness.store.remove("Deployment", "n", name, raw["metadata"]["uid"])

    harness.prometheus.during = meddle
    await harness.controller.reconcile(REELS)
    assert [name for kind, _, name in harness.api.objects if kind == "Deployment" and name.endswith(canary)]


async def test_a_pass_is_away_while_it_asks_prometheus_and_only_then() -> None:
    harness = await canary_under_way()
    said: list[tuple[str, int, int]] = []

    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        said.append(("leaves", harness.prometheus.asked, len(harness.api.log)))
        yield
        said.append(("is back", harness.prometheus.asked, len(harness.api.log)))

    await harness.controller.reconcile(HOME, away)
    assert said == []
    before = len(harness.api.log)
    await harness.controller.reconcile(REELS, away)
    assert said == [("leaves", 0, before), ("is back", 1, before)]
    assert harness.prometheus.asked == 1


async def test_by_how_many_experts_a_version_is_read_is_written_in_time_and_costs_no_write_for_each() -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME)
    for number in range(3):
        harness.seed(expert(f"more-{number}", status={"stable": revision("home-fm", 1)}))
        assert await harness.controller.reconcile(HOME) == pytest.approx(5.0 - number)
        assert used_by(harness) == 0
        harness.now += timedelta(seconds=1)
    harness.now += timedelta(seconds=2)
    writes = harness.api.log.count(VERSION_STATUS)
    await harness.controller.reconcile(HOME)
    assert used_by(harness) == 3
    assert harness.api.log.count(VERSION_STATUS) == writes + 1
    harness.seed(expert("more-3", status={"stable": revision("home-fm", 1)}))
    assert await harness.controller.reconcile(HOME) == pytest.approx(5.0), "the next change waits as long as the first"


async def test_a_count_that_is_as_it_was_again_waits_no_longer() -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME)
    more = harness.seed(expert("more-1", status={"stable": revision("home-fm", 1)}))
    await harness.controller.reconcile(HOME)
    del harness.api.objects["ExpertModel", "n", "more-1"]
    harness.store.remove("ExpertModel", "n", "more-1", more["metadata"]["uid"])
    await harness.controller.reconcile(HOME)
    harness.now += timedelta(seconds=60)
    harness.seed(expert("more-2", status={"stable": revision("home-fm", 1)}))
    assert await harness.controller.reconcile(HOME) == pytest.approx(5.0)


async def test_a_verdict_on_a_version_waits_for_nothing() -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME)
    second = foundation_version(number=2)
    second["spec"]["model"]["uid"] = harness.raw(HOME)["metadata"]["uid"]
    harness.seed(second)
    harness.seed(expert("more", status={"stable": revision("home-fm", 1)}))
    await harness.controller.reconcile(HOME)
    verdicts = [name for kind, _, name in harness.api.objects if kind == "ModelVersion" and judged(harness, name)]
    assert "fm-home-fm-v2" in verdicts
    assert used_by(harness) == 0


def used_by(harness: Harness) -> int:
    found: int = harness.raw(Key("ModelVersion", "n", "fm-home-fm-v1"))["status"]["summary"]["usedBy"]
    return found


def judged(harness: Harness, name: str) -> bool:
    return bool(harness.raw(Key("ModelVersion", "n", name)).get("status", {}).get("conditions"))


async def canary_under_way() -> Harness:
    """A second version is on trial, its pods are ready, and its first look at Prometheus is due."""
    harness = serving_pair()
    await harness.until_quiet(REELS)
    play_pods(harness)
    await harness.until_quiet(REELS)
    harness.seed(expert_version(harness.raw(REELS), 2))
    for _ in range(6):
        await harness.until_quiet(REELS)
        play_pods(harness)
    status = harness.raw(REELS)["status"]
    assert (status["stable"]["version"], status["canary"]["version"]) == (1, 2)
    harness.now += timedelta(seconds=30)
    harness.watch()
    return harness


def play_pods(harness: Harness) -> None:
    """As many ready pods as each Deployment asks for."""
    for (kind, _, name), raw in list(harness.api.objects.items()):
        if kind != "Deployment":
            continue
        marks = raw["spec"]["selector"]["matchLabels"]
        for index in range(10):
            pod = ("Pod", "n", f"{name}-{index}")
            if index < raw["spec"]["replicas"] and pod not in harness.api.objects:
                ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                harness.api.seed("Pod", "n", pod[2], metadata={"labels": dict(marks)}, status=ready, spec={})
            elif index >= raw["spec"]["replicas"] and pod in harness.api.objects:
                harness.api.remove(*pod)
        if (raw.get("status") or {}).get("observedGeneration") != raw["metadata"]["generation"]:
            counts = {"observedGeneration": raw["metadata"]["generation"], "updatedReplicas": raw["spec"]["replicas"]}

            def settle(found: Object, counts: Object = counts) -> None:
                found["status"] = counts

            harness.api.change("Deployment", "n", name, settle)


@pytest.mark.parametrize("write", range(4))
async def test_a_write_whose_answer_is_lost_is_read_again_and_never_made_twice(write: int) -> None:
    reference = serving_pair()
    await reference.until_quiet(REELS)
    harness = serving_pair()
    harness.api.lose_answer(reference.api.writes()[write])
    with pytest.raises(Transient):
        await harness.controller.reconcile(REELS)
    assert harness.doubts.count() == 1
    made = len(harness.api.writes())
    await harness.controller.reconcile(REELS)  # no watch has said anything meanwhile
    assert harness.doubts.count() == 0
    assert harness.api.writes()[made - 1] not in harness.api.writes()[made:]
    assert await harness.until_quiet(REELS) == []
    assert sorted(harness.api.writes()) == sorted(reference.api.writes())


async def test_an_object_in_doubt_that_cannot_be_read_holds_its_own_model_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = serving_pair()
    harness.api.lose_answer(SERVICE)
    with pytest.raises(Transient):
        await harness.controller.reconcile(REELS)
    harness.api.refuse("GET services/em-reels", Transient("the apiserver is tired", status=503))
    written = len(harness.api.writes())
    with pytest.raises(Transient, match="tired"):
        await harness.controller.reconcile(REELS)
    assert len(harness.api.writes()) == written
    assert "ExpertModel n/reels waits until Service n/em-reels can be read" in caplog.text
    assert b'recast_operator_doubts_failed_total{kind="Service"} 1.0' in harness.metrics.text()
    await harness.controller.reconcile(HOME)  # in the same namespace, and goes on
    await harness.until_quiet(REELS)
    assert harness.doubts.count() == 0


async def test_an_object_in_doubt_that_is_gone_is_forgotten() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)
    harness.api.remove("Service", "n", "em-reels")
    harness.doubts.add(REELS, Address("Service", "n", "em-reels"))
    await harness.controller.reconcile(REELS)
    assert harness.api.writes()[-1] == SERVICE
    assert ("Service", "n", "em-reels") in harness.api.objects


async def test_a_refused_write_needs_no_second_look_and_a_conflict_does() -> None:
    harness = serving_pair()
    harness.api.refuse(SERVICE, Invalid("spec.ports: Required value", status=422))
    with pytest.raises(Invalid):
        await harness.controller.reconcile(REELS)
    assert harness.doubts.count() == 0
    harness.api.refuse(SERVICE, Conflict("Apply failed", status=409))
    with pytest.raises(Conflict):
        await harness.controller.reconcile(REELS)
    assert harness.doubts.count() == 1


async def test_what_the_apiserver_refuses_is_said_once_and_taken_back_by_the_first_pass_that_gets_through() -> None:
    harness = serving_pair()
    refusal = Invalid("Service em-reels: spec.ports: Required value", status=422)
    for _ in range(3):
        harness.api.refuse(SERVICE, refusal)
    for _ in range(3):
        with pytest.raises(Invalid):
            await harness.controller.reconcile(REELS)
        harness.now += timedelta(seconds=60)
    stalled = harness.condition(REELS, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidRequest")
    assert "spec.ports: Required value" in stalled["message"]
    assert stalled["lastTransitionTime"] == "2026-11-21T12:00:00Z"
    assert harness.api.writes().count("PUT expertmodels/reels/status") == 2, "the plan's status, then what stopped it"
    assert (await harness.posted()).count("InvalidRequest") == 1
    await harness.controller.reconcile(REELS)
    assert harness.condition(REELS, "Stalled")["status"] == "False"
    harness.api.remove("Service", "n", "em-reels")
    harness.watch()
    harness.now += timedelta(seconds=60)
    harness.api.refuse(SERVICE, refusal)
    with pytest.raises(Invalid):
        await harness.controller.reconcile(REELS)
    assert harness.condition(REELS, "Stalled")["lastTransitionTime"] == stamp(harness.now), "it stalls anew since then"


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
async def test_an_object_of_a_users_that_has_our_name_is_never_touched_and_the_status_says_so_without_lies(
    kind: str,
) -> None:
    harness = serving_pair()
    theirs = {"selector": {"app": "theirs"}}
    before = harness.api.seed(kind, "n", "em-reels", metadata={"labels": {"unwatched": "true"}}, spec=theirs)
    for _ in range(3):
        with pytest.raises(Blocked, match=f'{kind} "em-reels" in namespace n exists and is not owned by this model'):
            await harness.controller.reconcile(REELS)
    after = harness.api.objects[kind, "n", "em-reels"]
    assert (after["spec"], after["metadata"]) == (theirs, before["metadata"])
    assert harness.condition(REELS, "Stalled")["reason"] == "BlockedRequest"
    status = harness.raw(REELS)["status"]
    assert "canary" not in status, "the status tells of a canary that was never begun"
    assert harness.api.writes() == ["PUT expertmodels/reels/status"]
    assert not [found for found, _, _ in harness.api.objects if found == "Deployment"]
    harness.api.remove(kind, "n", "em-reels")
    await harness.until_quiet(REELS)
    assert harness.condition(REELS, "Stalled")["status"] == "False"
    assert "canary" in harness.raw(REELS)["status"]


async def test_a_service_that_appears_between_the_look_and_the_first_apply_keeps_every_field() -> None:
    for spec in ({"selector": {"app": "theirs"}}, None):
        harness = serving_pair()
        before: Object = {}

        async def meddle(harness: Harness = harness, spec: Object | None = spec, before: Object = before) -> None:
            same = serving_pair()
            await same.controller.reconcile(REELS)
            wanted = spec or same.api.objects["Service", "n", "em-reels"]["spec"]
            made = harness.api.seed("Service", "n", "em-reels", metadata={"labels": {"unwatched": "1"}}, spec=wanted)
            before.update(made)

        harness.api.before(SERVICE, meddle)
        with pytest.raises(Conflict):
            await harness.controller.reconcile(REELS)
        after = harness.api.objects["Service", "n", "em-reels"]
        assert after["spec"] == before["spec"]
        assert "ownerReferences" not in after["metadata"]
        assert [entry["manager"] for entry in after["metadata"]["managedFields"]] == ["somebody"]
        with pytest.raises(Blocked):
            await harness.controller.reconcile(REELS)


async def test_a_child_of_ours_whose_labels_were_removed_is_found_again_and_mended() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)

    def strip(raw: Object) -> None:
        raw["metadata"]["labels"] = {"unwatched": "true"}

    uid = harness.api.change("Service", "n", "em-reels", strip)["metadata"]["uid"]
    await harness.until_quiet(REELS)
    raw = harness.api.objects["Service", "n", "em-reels"]
    assert raw["metadata"]["uid"] == uid
    assert raw["metadata"]["labels"]["recast.dev/model"] == "reels"
    assert harness.condition(REELS, "Stalled")["status"] == "False"


async def test_a_child_that_was_replaced_since_it_was_observed_is_neither_scaled_nor_rewritten_nor_deleted() -> None:
    harness = await canary_under_way()
    deployments = [name for kind, _, name in harness.api.objects if kind == "Deployment"]
    for name in deployments:
        raw = harness.api.objects["Deployment", "n", name]
        harness.api.remove("Deployment", "n", name)
        harness.api.seed("Deployment", "n", name, metadata={"labels": raw["metadata"]["labels"]}, spec=raw["spec"])
    abort = {"id": "a1", "action": "Abort", "revision": harness.raw(REELS)["status"]["canary"]["revision"]}

    def change(raw: Object) -> None:
        raw["spec"].setdefault("rollout", {})["request"] = abort

    harness.store.put("ExpertModel", harness.api.change("ExpertModel", "n", "reels", change))
    theirs = {name: harness.api.objects["Deployment", "n", name] for name in deployments}
    with pytest.raises(Conflict):
        await harness.controller.reconcile(REELS)
    assert {name: harness.api.objects["Deployment", "n", name] for name in deployments} == theirs


async def test_a_service_that_was_replaced_since_it_was_observed_is_not_rewritten() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)
    raw = harness.api.objects["Service", "n", "em-reels"]

    def drift(found: Object) -> None:
        found["spec"] = {"selector": {"app": "drifted"}}

    harness.store.put("Service", harness.api.change("Service", "n", "em-reels", drift))
    harness.api.remove("Service", "n", "em-reels")
    theirs = harness.api.seed("Service", "n", "em-reels", metadata={"labels": raw["metadata"]["labels"]}, spec={})
    with pytest.raises(Conflict):
        await harness.controller.reconcile(REELS)
    assert harness.api.objects["Service", "n", "em-reels"]["spec"] == {}
    assert harness.api.objects["Service", "n", "em-reels"]["metadata"]["uid"] == theirs["metadata"]["uid"]


async def test_what_this_operator_does_not_know_of_a_status_stays_through_every_write_of_a_pass() -> None:
    harness = serving_pair()

    def newer(raw: Object) -> None:
        raw["status"] = {"novelty": {"kept": "by a newer operator"}}

    harness.store.put("ExpertModel", harness.api.change("ExpertModel", "n", "reels", newer))
    harness.api.refuse(SERVICE, Invalid("refused", status=422))
    with pytest.raises(Invalid):  # two status writes: the plan's, and what stopped it
        await harness.controller.reconcile(REELS)
    assert harness.api.writes().count("PUT expertmodels/reels/status") == 2
    assert harness.raw(REELS)["status"]["novelty"] == {"kept": "by a newer operator"}


async def test_an_exception_in_planning_is_said_with_its_place_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = serving_pair()

    def fail(*_: Any) -> None:
        raise OverflowError("cannot convert Infinity to integer")

    with monkeypatch.context() as patched:
        patched.setattr(module, "plan_expert", fail)
        for _ in range(3):
            with pytest.raises(InternalError):
                await harness.controller.reconcile(REELS)
        await harness.controller.reconcile(HOME)
    stalled = harness.condition(REELS, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InternalError")
    assert "OverflowError in " in stalled["message"]
    assert "(fail): cannot convert Infinity to integer" in stalled["message"]
    assert harness.api.writes().count("PUT expertmodels/reels/status") == 1
    assert "Traceback" in caplog.text
    assert (await harness.posted()).count("InternalError") == 1
    await harness.until_quiet(REELS)
    assert harness.condition(REELS, "Stalled")["status"] == "False"


async def test_a_measurement_that_no_number_can_hold_stalls_its_own_model_only() -> None:
    harness = serving_pair()
    version = expert_version(harness.raw(REELS), 2)
    version["spec"]["measurements"][0]["ne"] = "1e9999"
    harness.seed(version)
    errors = await harness.until_quiet(REELS)
    assert set(errors) <= {"InternalError"}
    stalled = harness.condition(REELS, "Stalled")
    assert (stalled["reason"] == "InternalError") == bool(errors)
    await harness.controller.reconcile(HOME)


async def test_a_pass_that_fails_after_its_status_write_has_handed_over_its_events() -> None:
    harness = serving_pair()
    harness.api.refuse(SERVICE, Transient("gone", unknown_outcome=True))
    with pytest.raises(Transient):
        await harness.controller.reconcile(REELS)
    first = await harness.posted()
    assert {"VersionAccepted", "CanaryStarted"} <= set(first)
    await harness.until_quiet(REELS)
    again = await harness.posted()
    assert again.count("CanaryStarted") == again.count("VersionAccepted") == 1


async def test_a_status_write_whose_answer_is_lost_keeps_its_events_and_one_that_was_not_made_tells_nothing() -> None:
    made = serving_pair()
    made.api.lose_answer("PUT expertmodels/reels/status")
    refused = serving_pair()
    refused.api.refuse("PUT expertmodels/reels/status", Transient("cut before", unknown_outcome=True))
    for harness in (made, refused):
        with pytest.raises(Transient):
            await harness.controller.reconcile(REELS)
        assert await harness.posted() == ["VersionAccepted"]
        await harness.until_quiet(REELS)
        assert (await harness.posted()).count("CanaryStarted") == 1


async def test_a_verdict_is_told_once_also_where_the_status_write_after_it_fails() -> None:
    harness = serving_pair()
    harness.api.refuse("PUT expertmodels/reels/status", Conflict("modified", status=409))
    with pytest.raises(Conflict):
        await harness.controller.reconcile(REELS)
    assert await harness.posted() == ["VersionAccepted"]
    await harness.until_quiet(REELS)
    assert (await harness.posted()).count("VersionAccepted") == 1


async def test_a_model_that_was_deleted_during_the_pass_is_no_error_the_next_time() -> None:
    harness = serving_pair()

    async def remove() -> None:
        harness.api.remove("ExpertModel", "n", "reels")

    harness.api.before("PUT expertmodels/reels/status", remove)
    with pytest.raises(NotFound):
        await harness.controller.reconcile(REELS)
    assert await harness.controller.reconcile(REELS) is None
    assert await harness.controller.reconcile(Key("ExpertModel", "n", "never")) is None


async def test_a_foundation_gets_its_finalizer_on_the_state_that_was_observed() -> None:
    harness = serving_pair()

    async def meddle() -> None:
        harness.api.change("FoundationModel", "n", "home-fm", lambda raw: raw["metadata"].update(finalizers=["theirs"]))

    harness.api.before("PATCH foundationmodels/home-fm", meddle)
    with pytest.raises(Conflict):
        await harness.controller.reconcile(HOME)
    await harness.until_quiet(HOME)
    assert harness.raw(HOME)["metadata"]["finalizers"] == ["theirs", "recast.dev/in-use"]


async def test_planning_takes_back_its_own_reason_with_the_write_that_ends_it() -> None:
    harness = Harness()
    harness.seed(expert())
    await harness.until_quiet(REELS)
    assert harness.condition(REELS, "Stalled")["reason"] == "FoundationNotFound"
    harness.seed(foundation())
    written = harness.api.writes().count("PUT expertmodels/reels/status")
    await harness.controller.reconcile(REELS)
    assert harness.condition(REELS, "Stalled")["status"] == "False"
    assert harness.api.writes().count("PUT expertmodels/reels/status") == written + 1


async def test_what_stops_a_model_that_went_well_is_so_since_it_stops_it() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)
    harness.now += timedelta(minutes=1)
    harness.api.remove("Service", "n", "em-reels")
    harness.watch()
    harness.api.refuse(SERVICE, Invalid("spec.ports: Required value", status=422))
    with pytest.raises(Invalid):
        await harness.controller.reconcile(REELS)
    stalled = harness.condition(REELS, "Stalled")
    assert (stalled["reason"], stalled["lastTransitionTime"]) == ("InvalidRequest", stamp(harness.now))


async def test_a_field_of_the_status_that_a_newer_operator_wrote_stays() -> None:
    harness = serving_pair()
    harness.api.change("ExpertModel", "n", "reels", lambda raw: raw.update(status={"novelty": {"kept": True}}))
    await harness.until_quiet(REELS)
    assert harness.raw(REELS)["status"]["novelty"] == {"kept": True}
    assert "canary" in harness.raw(REELS)["status"]


def running(kind: str, model: str, number: int) -> Any:
    """A run whose Job has gone."""
    run = {
        "number": number,
        "jobName": f"{kind}-{model}-r{number}-a1",
        "inputsHash": "aaaa.bb",
        "startedAt": "2026-11-21T11:00:00Z",
        "state": "Running",
    }
    return lambda raw: raw.setdefault("status", {}).update(run=run)


async def test_a_version_that_no_watch_has_told_of_is_read_and_lands_its_run_in_the_same_pass() -> None:
    harness = serving_pair()
    harness.api.change("FoundationModel", "n", "home-fm", running("fm", "home-fm", 2))
    version = foundation_version(number=2)
    version["spec"]["model"]["uid"] = harness.raw(HOME)["metadata"]["uid"]
    version["spec"]["run"] = {"jobName": "fm-home-fm-r2-a1", "attempt": 1, "inputsHash": "aaaa.bb"}
    harness.watch()
    harness.api.seed("ModelVersion", "n", "fm-home-fm-v2", spec=version["spec"])
    await harness.controller.reconcile(HOME)
    assert "GET modelversions/fm-home-fm-v2" in harness.api.log
    assert "run" not in harness.raw(HOME)["status"]
    assert "VersionLanded" in await harness.posted()


async def test_a_canary_is_judged_also_in_a_pass_that_has_to_look_for_a_version() -> None:
    harness = await canary_under_way()
    harness.api.change("ExpertModel", "n", "reels", running("em", "reels", 3))
    harness.watch()
    await harness.controller.reconcile(REELS)
    assert "GET modelversions/em-reels-v3" in harness.api.log
    results = harness.raw(REELS)["status"]["canary"]["results"]
    assert results
    assert "NoData" not in {entry["verdict"] for entry in results}


@pytest.mark.parametrize("watched_first", [False, True])
async def test_a_foundation_that_goes_with_its_last_finalizer_is_gone_at_once(watched_first: bool) -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME, REELS)
    harness.api.remove(*REELS)
    harness.store.remove(*REELS, harness.store.get(*REELS).uid)  # type: ignore[union-attr]
    deleted = {"deletionTimestamp": "2026-11-21T12:00:00Z"}
    harness.api.change("FoundationModel", "n", "home-fm", lambda raw: raw["metadata"].update(deleted))
    harness.watch()
    uid, send = harness.raw(HOME)["metadata"]["uid"], harness.api.send

    async def watch_is_faster(request: Any) -> Any:
        answer = await send(request)
        if tuple(HOME) not in harness.api.objects and watched_first:
            harness.store.remove(*HOME, uid)
        return answer

    harness.api.send = watch_is_faster  # type: ignore[method-assign]
    before = len(harness.api.log)
    assert await harness.controller.reconcile(HOME) is None
    assert harness.api.log[before:] == ["PATCH foundationmodels/home-fm"], "nothing is written on what is gone"
    assert harness.store.get(*HOME) is None


async def test_what_fails_before_prometheus_is_asked_is_said_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = serving_pair()

    def fails(*_: object) -> None:
        raise ValueError("month must be in 1..12")

    monkeypatch.setattr(module.analysis, "questions", fails)
    with pytest.raises(InternalError):
        await harness.controller.reconcile(REELS)
    assert harness.condition(REELS, "Stalled")["reason"] == "InternalError"


async def test_drift_is_told_though_it_changes_nothing_in_the_status() -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME, REELS)
    await harness.posted()

    def meddle(raw: Object) -> None:
        raw["spec"]["ports"][0]["targetPort"] = 1

    harness.api.change("Service", "n", "fm-home-fm-l1", meddle)
    before = len(harness.api.writes())
    await harness.until_quiet(HOME)
    assert harness.api.writes()[before:] == ["PATCH services/fm-home-fm-l1"]
    assert (await harness.posted())[-1] == "ChildDrifted"


async def test_a_repair_that_fails_is_not_told() -> None:
    harness = serving_pair()
    await harness.until_quiet(HOME, REELS)
    await harness.posted()
    harness.api.change("Service", "n", "fm-home-fm-l1", lambda raw: raw["spec"].update(ports=[]))
    harness.watch()
    harness.api.refuse("PATCH services/fm-home-fm-l1", Transient("away"))
    with pytest.raises(Transient):
        await harness.controller.reconcile(HOME)
    assert "ChildDrifted" not in await harness.posted()


async def test_transitions_are_logged_in_one_line_and_only_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    harness = serving_pair()
    await harness.until_quiet(REELS)
    lines = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert len([line for line in lines if line.startswith("ExpertModel n/reels: CanaryStarted: ")]) == 1
    assert all(line.startswith("ExpertModel n/reels: ") for line in lines)
    assert len(lines) == len(set(lines))


async def test_counts_alone_wait_a_moment_for_the_next_change_and_then_are_written() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)
    play_pods(harness)
    await harness.until_quiet(REELS)
    harness.now += timedelta(seconds=10)
    await harness.until_quiet(REELS)
    harness.seed(expert_version(harness.raw(REELS), 2))
    harness.watch()
    await harness.controller.reconcile(REELS)
    assert harness.raw(REELS)["status"]["canary"]["replicas"] == 0, "its Deployment did not exist yet"
    harness.watch()
    harness.api.log.clear()
    for seconds in (0, 3):
        harness.now += timedelta(seconds=seconds)
        assert await harness.controller.reconcile(REELS) == 5 - seconds
    assert harness.api.writes() == []
    harness.now += timedelta(seconds=2)
    await harness.controller.reconcile(REELS)
    assert harness.api.writes() == ["PUT expertmodels/reels/status"]
    assert harness.raw(REELS)["status"]["canary"]["replicas"] == 1


async def test_counts_are_written_at_once_with_a_transition() -> None:
    harness = await canary_under_way()
    canary = harness.raw(REELS)["status"]["canary"]
    assert (canary["replicas"], canary["readyReplicas"]) == (1, 1)
    assert canary["weightSince"]


async def test_a_namesake_with_our_labels_and_another_owner_blocks_the_model_and_is_not_touched() -> None:
    harness = serving_pair()
    await harness.until_quiet(REELS)

    def disown(raw: Object) -> None:
        raw["metadata"]["ownerReferences"] = [{**raw["metadata"]["ownerReferences"][0], "uid": "stranger"}]

    name = next(name for kind, _, name in harness.api.objects if kind == "Deployment" and name.startswith("em-"))
    harness.api.change("Deployment", "n", name, disown)
    annotations = harness.api.objects["Deployment", "n", name]["metadata"]["annotations"]
    annotations.pop("recast.dev/last-applied")
    harness.watch()
    theirs = harness.api.objects["Deployment", "n", name]["metadata"]["resourceVersion"]
    with pytest.raises(Blocked, match="is not owned by this model"):
        await harness.controller.reconcile(REELS)
    assert harness.api.objects["Deployment", "n", name]["metadata"]["resourceVersion"] == theirs
    assert harness.condition(REELS, "Stalled")["reason"] == "BlockedRequest"
