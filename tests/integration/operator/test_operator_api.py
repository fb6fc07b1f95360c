"""What the operator asks of a real apiserver, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from recast_operator.adapters.errors import Blocked, Conflict, Invalid, NotFound
from recast_operator.adapters.kube import (
    DEPLOYMENTS,
    EXPERTS,
    FOUNDATIONS,
    JOBS,
    MERGE,
    SERVICES,
    HttpRequester,
    Kube,
    Request,
)
from recast_operator.listing import Listing
from recast_operator.planning.rollout.questions import Answer, Question
from recast_operator.store import Store
from recast_operator.writes import _nothing_of, _strangers
from tests.integration.operator.world import World
from tests.unit.operator.run_builders import OWNER, submission, submit

NOBODYS_UID = "00000000-0000-0000-0000-000000000000"


class AbortDuringTheWait:
    """Prometheus answers as it does; while it first thinks, a person aborts the canary."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._inner = world.prometheus
        self.aborted = ""

    async def answers(self, questions: tuple[Question, ...], now: datetime) -> Mapping[Question, Answer]:
        if not self.aborted:
            self.aborted = self._world.model("ExpertModel", "reels")["status"]["canary"]["revision"]
            request = {"id": "a1", "action": "Abort", "revision": self.aborted}
            path = EXPERTS.path(self._world.namespace, "reels")
            body = {"spec": {"rollout": {"request": request}}}
            made = await self._world.kube.requester.send(
                Request("PATCH", path, body=body, content_type=MERGE, params={"fieldManager": "somebody"})
            )
            self._world.mirror.put("ExpertModel", made)
        return await self._inner.answers(questions, now)


def deployment(namespace: str, image: str) -> dict[str, Any]:
    marks = {"app": "server"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": marks},
            "template": {"metadata": {"labels": marks}, "spec": {"containers": [{"name": "server", "image": image}]}},
        },
    }


async def test_our_apply_takes_back_our_fields_and_leaves_other_peoples_alone(
    requester: HttpRequester, namespace: str
) -> None:
    kube = Kube(requester)
    await kube.apply(deployment(namespace, "ours:1"))
    path = DEPLOYMENTS.path(namespace, "server")
    meddling = {
        "metadata": {"annotations": {"team": "theirs"}},
        "spec": {"template": {"spec": {"containers": [{"name": "server", "image": "theirs:1"}]}}},
    }
    await requester.send(
        Request(
            "PATCH",
            path,
            body=meddling,
            content_type="application/strategic-merge-patch+json",
            params={"fieldManager": "somebody"},
        )
    )
    made = await kube.apply(deployment(namespace, "ours:2"))
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "ours:2"
    assert made["metadata"]["annotations"]["team"] == "theirs"
    managers = {entry["manager"]: entry["operation"] for entry in made["metadata"]["managedFields"]}
    assert managers["recast"] == "Apply"


async def test_scaling_touches_nothing_but_the_replicas(requester: HttpRequester, namespace: str) -> None:
    kube = Kube(requester)
    before = await kube.apply(deployment(namespace, "ours:1"))
    await kube.scale(namespace, "server", before["metadata"]["uid"], 3)
    after = await kube.get(DEPLOYMENTS, namespace, "server")
    assert after["spec"] == {**before["spec"], "replicas": 3}
    with pytest.raises(Conflict, match=r"metadata\.uid"):
        await kube.scale(namespace, "server", NOBODYS_UID, 5)
    assert (await kube.get(DEPLOYMENTS, namespace, "server"))["spec"] == after["spec"]


async def test_an_apply_that_names_a_uid_changes_that_very_object_or_nothing(
    requester: HttpRequester, namespace: str
) -> None:
    kube = Kube(requester)

    def body(uid: str) -> dict[str, Any]:
        wanted = deployment(namespace, "ours:2")
        return {**wanted, "metadata": {**wanted["metadata"], "uid": uid}}

    with pytest.raises(Conflict, match="uid mismatch"):  # where there is none, none is made
        await kube.apply(body(NOBODYS_UID))
    uid = (await kube.apply(deployment(namespace, "ours:1")))["metadata"]["uid"]
    with pytest.raises(Conflict):
        await kube.apply(body(NOBODYS_UID))
    made = await kube.apply(body(uid))
    assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "ours:2"


async def test_a_first_apply_takes_no_field_over_and_what_it_added_to_a_strangers_object_can_be_taken_back(
    requester: HttpRequester, namespace: str
) -> None:
    kube = Kube(requester)
    theirs = await kube.create(DEPLOYMENTS, namespace, deployment(namespace, "theirs:1"))
    managers = [{**entry, "manager": "somebody"} for entry in theirs["metadata"]["managedFields"]]
    theirs = await kube.merge(DEPLOYMENTS, namespace, "server", {"metadata": {"managedFields": managers}})
    with pytest.raises(Conflict, match='conflict with "somebody"'):
        await kube.apply(deployment(namespace, "ours:1"), force=False)
    ours = deployment(namespace, "theirs:1")
    ours["metadata"]["labels"] = {"ours": "too"}
    made = await kube.apply(ours, force=False)  # nothing of it differs, so that it is not refused
    assert _strangers(made) == ["somebody"]
    undone = await kube.apply(_nothing_of(ours))
    assert undone["spec"] == theirs["spec"]
    assert "labels" not in undone["metadata"]
    assert {entry["manager"] for entry in undone["metadata"]["managedFields"]} == {"somebody"}


async def test_a_status_goes_onto_one_object_in_one_state_and_leaves_the_rest_of_it_alone(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    await world.boot()
    await world.apply("home-fm.yaml")
    world.close()
    kube = Kube(requester)
    before = await kube.get(FOUNDATIONS, namespace, "home-fm")
    uid, version = before["metadata"]["uid"], before["metadata"]["resourceVersion"]
    place = (FOUNDATIONS, namespace, "home-fm")
    after = await kube.replace_status(*place, uid, version, {"observedGeneration": 1})
    assert after["status"]["observedGeneration"] == 1
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")
    with pytest.raises(Conflict):
        await kube.replace_status(*place, uid, version, {"observedGeneration": 2})
    with pytest.raises(Conflict):
        await kube.replace_status(*place, NOBODYS_UID, after["metadata"]["resourceVersion"], {"observedGeneration": 3})


async def test_a_collection_comes_in_pages_of_one_moment(requester: HttpRequester, namespace: str) -> None:
    kube = Kube(requester)
    for number in range(5):
        await kube.create(SERVICES, namespace, {"metadata": {"name": f"s{number}"}, "spec": {"ports": [{"port": 1}]}})
    pages = [page async for page in kube.pages(SERVICES, namespace, limit=2)]
    assert [[raw["metadata"]["name"] for raw in page["items"]] for page in pages] == [
        ["s0", "s1"],
        ["s2", "s3"],
        ["s4"],
    ]
    assert len({page["metadata"]["resourceVersion"] for page in pages}) == 1
    [empty] = [page async for page in kube.pages(SERVICES, f"{namespace}-not-there")]
    assert empty["items"] == []


async def test_a_listing_fills_the_memory_page_by_page_and_finds_what_went(
    requester: HttpRequester, namespace: str
) -> None:
    kube, store = Kube(requester), Store()
    for number in range(5):
        body = deployment(namespace, "ours:1")
        body["metadata"] |= {"name": f"d{number}", "labels": {"app.kubernetes.io/managed-by": "recast"}}
        await kube.apply(body)
    await kube.apply(deployment(namespace, "theirs:1"))
    listing = Listing(kube, store, (namespace,), page=2)
    assert await listing.kind(DEPLOYMENTS) == 5
    assert store.names("Deployment", namespace) == [f"d{number}" for number in range(5)]
    gone = store.get("Deployment", namespace, "d3")
    assert gone is not None
    await kube.delete(DEPLOYMENTS, namespace, "d3", gone.uid)
    assert await listing.kind(DEPLOYMENTS) == 1
    assert store.names("Deployment", namespace) == ["d0", "d1", "d2", "d4"]


async def test_a_users_service_of_our_name_is_left_alone_and_said_and_gone_with_what_stood_in_the_way(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    world.tolerated.add("Blocked")
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "fm-home-fm-l1"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    before = await world.kube.create(SERVICES, namespace, theirs)
    await world.boot()
    await world.apply("home-fm.yaml")

    def stalled() -> dict[str, Any]:
        status = world.model("FoundationModel", "home-fm").get("status") or {}
        return next((item for item in status.get("conditions", []) if item["type"] == "Stalled"), {})

    await world.until("it is said", lambda: stalled().get("reason") == "BlockedRequest")
    await world.settle(60)
    assert await world.kube.get(SERVICES, namespace, "fm-home-fm-l1") == before
    status = world.model("FoundationModel", "home-fm")["status"]
    assert not status.get("candidate")
    assert not list(world.mirror.of("Deployment"))
    writes = len(world.recorder.writes)
    await world.settle(60)
    assert len(world.recorder.writes) == writes
    await world.kube.delete(SERVICES, namespace, "fm-home-fm-l1", before["metadata"]["uid"])
    await world.boot()
    await world.until("it serves", lambda: bool(world.model("FoundationModel", "home-fm")["status"].get("current")))
    assert stalled()["status"] == "False"
    world.close()


async def test_an_abort_during_the_wait_for_prometheus_is_carried_out_and_never_overwritten(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    await world.boot()
    await world.apply("home-fm.yaml", "reels.yaml")
    await world.until("it serves", lambda: bool(world.model("ExpertModel", "reels").get("status", {}).get("stable")))
    await world.apply("reels.yaml", change=lambda body: body["spec"]["serving"].update(image="other:1"))
    slow = AbortDuringTheWait(world)
    world.interrupt(slow)
    await world.until("the abort is carried out", lambda: bool(slow.aborted and world.handled("reels")))
    await world.settle(30)
    world.close()
    raw = await world.kube.get(EXPERTS, namespace, "reels")
    assert raw["spec"]["rollout"]["request"]["action"] == "Abort"
    assert [entry["revision"] for entry in raw["status"]["failedRevisions"]] == [slow.aborted]
    assert not raw["status"].get("canary")


async def test_a_deletion_of_an_object_that_was_replaced_meanwhile_is_a_conflict(
    requester: HttpRequester, namespace: str
) -> None:
    kube = Kube(requester)
    made = await kube.apply(deployment(namespace, "ours:1"))
    with pytest.raises(Conflict):
        await kube.delete(DEPLOYMENTS, namespace, "server", NOBODYS_UID)
    assert await kube.delete(DEPLOYMENTS, namespace, "server", made["metadata"]["uid"])
    assert not await kube.delete(DEPLOYMENTS, namespace, "server", made["metadata"]["uid"])


async def test_a_refused_object_is_invalid_and_says_what_is_wrong(requester: HttpRequester, namespace: str) -> None:
    body = deployment(namespace, "ours:1")
    body["spec"]["replicas"] = -1
    with pytest.raises(Invalid, match=r"spec\.replicas"):
        await Kube(requester).apply(body)


async def test_a_status_written_onto_an_older_state_is_a_conflict_and_the_next_pass_sees_the_newer(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    await world.boot()
    await world.apply("home-fm.yaml")
    # Somebody changes the model, and the operator's watch has not told it yet.
    await requester.send(
        Request(
            "PATCH",
            FOUNDATIONS.path(namespace, "home-fm"),
            body={"spec": {"suspend": True}},
            content_type=MERGE,
            params={"fieldManager": "somebody"},
        )
    )
    await world.settle(30)
    world.close()
    raw = await Kube(requester).get(FOUNDATIONS, namespace, "home-fm")
    assert raw["spec"]["suspend"] is True
    assert raw["status"]["observedGeneration"] == raw["metadata"]["generation"] == 2
    assert "run" not in raw["status"], "it trained what was suspended before"
    assert world.recorder.jobs_created == []


async def test_torchx_makes_one_job_and_finds_it_again(requester: HttpRequester, namespace: str) -> None:
    request = submission()
    recorder = World(requester, namespace).recorder
    handles = [await submit(recorder, request, namespace) for _ in range(3)]  # type: ignore[arg-type]
    assert handles == [f"recast:///{namespace}:fm-home-fm-r3-a2"] * 3
    kube = Kube(requester)
    [page] = [page async for page in kube.pages(JOBS, namespace)]
    jobs = page["items"]
    assert [job["metadata"]["name"] for job in jobs] == ["fm-home-fm-r3-a2"]
    assert jobs[0]["spec"]["completionMode"] == "Indexed"
    service = await kube.get(SERVICES, namespace, "fm-home-fm-r3-a2")
    assert service["metadata"]["ownerReferences"][0]["uid"] == jobs[0]["metadata"]["uid"]
    assert recorder.jobs_created == ["fm-home-fm-r3-a2"]


async def test_torchx_does_not_adopt_somebody_elses_job(requester: HttpRequester, namespace: str) -> None:
    recorder = World(requester, namespace).recorder
    await submit(recorder, submission(), namespace)  # type: ignore[arg-type]
    theirs = replace(submission(), owner={**OWNER, "uid": "another-model"})
    with pytest.raises(Blocked, match="not owned by this model"):
        await submit(recorder, theirs, namespace)  # type: ignore[arg-type]


async def test_torchx_gives_no_service_away_that_got_the_name_after_ours(
    requester: HttpRequester, namespace: str
) -> None:
    """Ours is replaced by another between its creation and the Job's."""
    kube, request = Kube(requester), submission()
    name = request.run.job_name

    class Replacing:
        async def send(self, sent: Request) -> Any:
            made = await requester.send(sent)
            if sent.method == "POST" and sent.path == JOBS.path(namespace):
                service = await kube.get(SERVICES, namespace, name)
                await kube.delete(SERVICES, namespace, name, service["metadata"]["uid"])
                other = {"metadata": {"name": name, "labels": {"by": "another"}}, "spec": {"ports": [{"port": 80}]}}
                await kube.create(SERVICES, namespace, {"apiVersion": "v1", "kind": "Service", **other})
            return made

    with pytest.raises(Conflict, match="uid"):
        await submit(Replacing(), request, namespace)
    service = await kube.get(SERVICES, namespace, name)
    assert (service["metadata"]["labels"], service["metadata"].get("ownerReferences")) == ({"by": "another"}, None)


async def test_what_the_apiserver_refuses_stands_in_the_condition_stalled_until_it_is_put_right(
    requester: HttpRequester, namespace: str
) -> None:
    def more_than_allowed(body: dict[str, Any]) -> None:
        body["spec"]["training"]["resources"] = {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}

    world = World(requester, namespace)
    world.tolerated.add("Invalid")
    await world.boot()

    def stalled() -> dict[str, Any]:
        status = world.model("FoundationModel", "home-fm").get("status") or {}
        return next((item for item in status.get("conditions", []) if item["type"] == "Stalled"), {})

    await world.apply("home-fm.yaml", change=more_than_allowed)
    await world.until("the refusal is said", lambda: stalled().get("status") == "True")
    assert "must be less than or equal to cpu limit" in stalled()["message"]
    writes = len(world.recorder.writes)
    await world.settle(60)
    assert len(world.recorder.writes) == writes, "the same refusal is written again and again"
    await world.apply("home-fm.yaml")
    await world.until("it trains", lambda: bool(world.recorder.jobs_created))
    await world.settle(10)
    assert stalled().get("status") != "True"
    world.close()


async def test_events_reach_the_apiserver_and_tell_transitions_once(requester: HttpRequester, namespace: str) -> None:
    world = World(requester, namespace)
    await world.boot()
    await world.apply("home-fm.yaml")
    await world.until(
        "it serves", lambda: bool(world.model("FoundationModel", "home-fm").get("status", {}).get("current"))
    )
    await world.settle(60)
    world.close()
    posted = (await requester.send(Request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")))["items"]
    told = sorted((item["regarding"]["name"], item["reason"], item["note"]) for item in posted)
    assert told == sorted(world.recorder.events)
    assert len(set(told)) == len(told)
    assert ("home-fm", "Promoted", "v1 is the current version") in told


async def test_an_expert_without_a_foundation_says_so_and_nothing_is_made(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    await world.boot()
    await world.apply("reels.yaml")
    await world.settle(20)
    world.close()
    raw = await Kube(requester).get(EXPERTS, namespace, "reels")
    ready = next(item for item in raw["status"]["conditions"] if item["type"] == "Ready")
    assert ready["reason"] == "FoundationNotFound"
    assert "home-fm" in ready["message"]
    with pytest.raises(NotFound):
        await Kube(requester).get(SERVICES, namespace, "em-reels")
