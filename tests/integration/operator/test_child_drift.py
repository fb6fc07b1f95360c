"""Children that somebody changed on a real apiserver: put back as they were applied, told once, and then left alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from recast_operator.adapters.kube import APPLY, BY_KIND, JSON, MERGE, HttpRequester, Request
from recast_operator.children.kinds import CHILD_KINDS
from recast_operator.children.record import read
from tests.integration.operator.world import World

Object = dict[str, Any]
STRATEGIC = "application/strategic-merge-patch+json"
PATCH = "application/json-patch+json"
SERVER: Object = {"name": "server"}


def in_pod(**spec: Any) -> Object:
    return {"spec": {"template": {"spec": spec}}}


@pytest_asyncio.fixture
async def world(requester: HttpRequester, namespace: str) -> AsyncIterator[World]:
    """A foundation and an expert that serve, and nobody has anything to do."""

    def quantities(body: Object) -> None:
        if body["kind"] == "ExpertModel":
            body["spec"]["serving"]["resources"] = {
                "requests": {"cpu": "1000m", "memory": "1.5Gi"},
                "limits": {"cpu": "2000m", "memory": "2048Mi"},
            }

    made = World(requester, namespace)
    await made.boot()
    await made.apply("home-fm.yaml", "reels.yaml", change=quantities)
    await made.until(
        "reels serves", lambda: bool((made.model("ExpertModel", "reels").get("status") or {}).get("stable"))
    )
    await made.settle(60)
    yield made
    made.close()


def child(world: World, kind: str, prefix: str) -> str:
    names = [raw["metadata"]["name"] for raw in world.mirror.of(kind)]
    return next(name for name in names if name.startswith(prefix) and "-r1-a1" not in name)


async def live(world: World, kind: str, name: str) -> Object:
    return await world.kube.get(BY_KIND[kind], world.namespace, name)


async def meddle(world: World, kind: str, name: str, body: Any, content_type: str, *, sub: str | None = None) -> Object:
    """Somebody's PATCH, which the operator's watch tells of at once."""
    params = {"fieldManager": "somebody"} | ({"force": "true"} if content_type == APPLY else {})
    path = BY_KIND[kind].path(world.namespace, name, sub)
    made: Object = await world.kube.requester.send(
        Request("PATCH", path, body=body, content_type=content_type, params=params)
    )
    world.mirror.put(kind, await live(world, kind, name))
    return made


async def versions(world: World) -> dict[str, str]:
    found = {}
    for kind in CHILD_KINDS:
        [page] = [page async for page in world.kube.pages(BY_KIND[kind], world.namespace)]
        for raw in page["items"]:
            found[f"{kind}/{raw['metadata']['name']}"] = raw["metadata"]["resourceVersion"]
    return found


def drifts(world: World) -> list[str]:
    return [note for _, reason, note in world.recorder.events if reason == "ChildDrifted"]


async def assert_at_rest(world: World) -> None:
    writes = len(world.recorder.writes)
    await world.settle(5)  # the Deployment controller takes note
    before = await versions(world)
    await world.settle(120)
    assert world.recorder.writes[writes:] == []
    assert await versions(world) == before


LAST_APPLIED, HASH = "recast.dev/last-applied", "recast.dev/template-hash"
MEDDLING: list[tuple[str, str, str, Any, str]] = [
    ("kubectl set image", "Deployment", STRATEGIC, in_pod(containers=[{**SERVER, "image": "x:1"}]), "server: image is"),
    (
        "kubectl apply --server-side --force-conflicts",
        "Deployment",
        APPLY,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {
                "selector": {},
                "template": {"spec": {"containers": [{**SERVER, "image": "x:1", "imagePullPolicy": "Always"}]}},
            },
        },
        "imagePullPolicy is",
    ),
    (
        "kubectl set resources",
        "Deployment",
        STRATEGIC,
        in_pod(containers=[{**SERVER, "resources": {"limits": {"cpu": "3"}}}]),
        'resources.limits.cpu is "3"',
    ),
    (
        "kubectl set env --env-",
        "Deployment",
        STRATEGIC,
        in_pod(containers=[{**SERVER, "env": [{"name": "RECAST_SERVER", "$patch": "delete"}]}]),
        "environment variable RECAST_SERVER was removed",
    ),
    (
        "kubectl patch",
        "Deployment",
        PATCH,
        [{"op": "remove", "path": "/spec/template/spec/automountServiceAccountToken"}],
        "automountServiceAccountToken was removed",
    ),
    (
        "kubectl label -",
        "Deployment",
        MERGE,
        {"metadata": {"labels": {"recast.dev/model": None, "recast.dev/kind": None}}},
        "label recast.dev/model was removed",
    ),
    (
        "kubectl annotate",
        "Deployment",
        MERGE,
        {"metadata": {"annotations": {HASH: "edited"}}},
        'annotation recast.dev/template-hash is "edited"',
    ),
    ("an edited record", "Deployment", MERGE, {"metadata": {"annotations": {LAST_APPLIED: "{}"}}}, "was edited"),
    ("a removed owner", "Deployment", MERGE, {"metadata": {"ownerReferences": None}}, "ownerReferences was removed"),
    ("a deleted selector", "Service", MERGE, {"spec": {"selector": None}}, "selector was removed"),
    ("a wider selector", "Service", MERGE, {"spec": {"selector": {"tier": "x"}}}, "selector.tier was added"),
    (
        "a lost owner of a Service",
        "Service",
        MERGE,
        {"metadata": {"ownerReferences": []}},
        "ownerReferences was removed",
    ),
    (
        "a volume of another type",
        "Deployment",
        PATCH,
        [
            {
                "op": "replace",
                "path": "/spec/template/spec/volumes/1",
                "value": {"name": "tmp", "hostPath": {"path": "/"}},
            }
        ],
        "volume tmp: emptyDir was removed",
    ),
    (
        "a port of another number",
        "Service",
        MERGE,
        {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]}},
        "port 80 was removed",
    ),
    (
        "a budget that allows no eviction",
        "PodDisruptionBudget",
        MERGE,
        {"spec": {"maxUnavailable": 0}},
        "is 0, applied 1",
    ),
    (
        "a budget of another kind",
        "PodDisruptionBudget",
        MERGE,
        {"spec": {"maxUnavailable": None, "minAvailable": "100%"}},
        "maxUnavailable was removed",
    ),
    (
        "a wider budget",
        "PodDisruptionBudget",
        MERGE,
        {"spec": {"selector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}},
        "selector.matchExpressions was added",
    ),
    (
        "a policy that lets everybody in",
        "NetworkPolicy",
        MERGE,
        {"spec": {"ingress": [{}]}},
        "ingress is [{}], applied",
    ),
    (
        "a policy over other pods",
        "NetworkPolicy",
        MERGE,
        {"spec": {"podSelector": {"matchLabels": {"tier": "x"}}}},
        "podSelector.matchLabels.tier was added",
    ),
]


@pytest.mark.parametrize(
    ("what", "kind", "content_type", "body", "sentence"), MEDDLING, ids=lambda value: str(value)[:30]
)
async def test_what_somebody_changed_is_put_back_and_told_once(
    world: World, what: str, kind: str, content_type: str, body: Any, sentence: str
) -> None:
    name = child(world, kind, "fm-home-fm" if kind == "NetworkPolicy" else "em-reels")
    before = await live(world, kind, name)
    if content_type == APPLY:
        body = {**body, "metadata": {"name": name}, "spec": {**body["spec"], "selector": before["spec"]["selector"]}}
    changed = await meddle(world, kind, name, body, content_type)
    assert changed["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"], what
    await world.settle(5)
    after = await live(world, kind, name)
    record = read(after)
    assert (record.recorded, record.drift, record.unrecorded) == (True, (), "")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    (told,) = drifts(world)
    assert sentence in told
    assert name in told
    await assert_at_rest(world)
    assert len(drifts(world)) == 1


async def test_what_others_set_beside_our_fields_stays_and_nothing_is_written(world: World) -> None:
    name = child(world, "Deployment", "em-reels")
    beside = in_pod(containers=[{"name": "proxy", "image": "mesh:1"}])
    beside["spec"]["template"]["metadata"] = {
        "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    }
    changed = await meddle(world, "Deployment", name, beside, STRATEGIC)
    await assert_at_rest(world)
    assert (await live(world, "Deployment", name))["spec"] == changed["spec"]
    assert drifts(world) == []


async def test_an_object_replaced_whole_by_a_file_without_our_marks_is_put_back(world: World) -> None:
    name = child(world, "Deployment", "em-reels")
    before = await live(world, "Deployment", name)
    bare = json.loads(json.dumps(before))
    bare["metadata"] = {"name": name, "namespace": world.namespace, "labels": before["metadata"]["labels"]}
    bare["metadata"]["ownerReferences"] = before["metadata"]["ownerReferences"]
    bare["spec"]["template"]["spec"]["containers"][0]["image"] = "x:1"
    path = BY_KIND["Deployment"].path(world.namespace, name)
    await world.kube.requester.send(
        Request("PUT", path, body=bare, content_type=JSON, params={"fieldManager": "somebody"})
    )
    world.mirror.put("Deployment", await live(world, "Deployment", name))
    await world.settle(5)
    assert (await live(world, "Deployment", name))["spec"] == before["spec"]
    assert len(drifts(world)) == 1
    await assert_at_rest(world)


async def test_replicas_that_somebody_else_set_are_put_back_and_told(world: World) -> None:
    name = child(world, "Deployment", "em-reels")
    await meddle(world, "Deployment", name, {"spec": {"replicas": 1}}, MERGE, sub="scale")
    await world.settle(20)
    assert (await live(world, "Deployment", name))["spec"]["replicas"] == 4
    assert drifts(world) == [f"Deployment {name}: replicas is 1, set by somebody; put back to 4"]
    await assert_at_rest(world)


async def test_a_child_of_an_older_operator_is_recorded_without_a_change_to_its_pods(world: World) -> None:
    for kind, prefix in (("Deployment", "em-reels"), ("Deployment", "fm-home-fm"), ("Service", "em-reels")):
        name = child(world, kind, prefix)
        before = await meddle(world, kind, name, {"metadata": {"annotations": {LAST_APPLIED: None}}}, MERGE)
        await world.settle(5)
        after = await live(world, kind, name)
        assert read(after).recorded
        assert after["spec"] == before["spec"]
    assert drifts(world) == []
    await assert_at_rest(world)


async def test_a_child_that_an_older_operator_rendered_otherwise_is_left_until_its_next_change(world: World) -> None:
    name = child(world, "Deployment", "em-reels")
    otherwise = in_pod(terminationGracePeriodSeconds=77)
    otherwise["metadata"] = {"annotations": {LAST_APPLIED: None}}
    changed = await meddle(world, "Deployment", name, otherwise, MERGE)
    await assert_at_rest(world)
    assert (await live(world, "Deployment", name))["spec"] == changed["spec"]


async def test_who_changes_a_child_back_at_once_every_time_is_answered_ever_more_rarely(world: World) -> None:
    name = child(world, "Deployment", "em-reels")
    fought, repairs = world.recorder.writes, []
    world.now = began = datetime.now(UTC) + timedelta(seconds=60)  # after the last apply, by the apiserver's clock
    for _ in range(6):
        await meddle(world, "Deployment", name, in_pod(containers=[{**SERVER, "image": "x:1"}]), STRATEGIC)
        writes = len(fought)
        while len(fought) == writes:
            await world.turn()
        raw = await live(world, "Deployment", name)
        assert raw["spec"]["template"]["spec"]["containers"][0]["image"] != "x:1"
        repairs.append((world.now - began).total_seconds())
        applied = next(
            e for e in raw["metadata"]["managedFields"] if (e["manager"], e["operation"]) == ("recast", "Apply")
        )
        world.now = began = datetime.fromisoformat(applied["time"].replace("Z", "+00:00"))
    assert repairs[0] <= 2
    for waited, least in zip(repairs[1:], (20, 40, 80, 160, 320), strict=True):
        assert least <= waited <= least + 6, repairs
    assert "for the 6. time in a row" in drifts(world)[-1]
    assert len(drifts(world)) == 6
