"""A writer touches its own model's children, in the state that its pass observed."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.errors import Conflict
from recast_operator.adapters.kube import Kube
from recast_operator.metrics import Metrics
from recast_operator.planning.plan import Apply, Deletion, Scale
from recast_operator.store import Address, Doubts, Store, stored
from recast_operator.writes import Outside, Writer
from tests.unit.operator.documents import expert
from tests.unit.operator.fake_apiserver import FakeApiserver
from tests.unit.operator.operator_harness import REELS, FakeLauncher

DEPLOYMENT = Address("Deployment", "n", "em-reels-abc")


class Writing:
    """A model with one Deployment, as a pass has observed them."""

    def __init__(self, owner: str = "reels", **metadata: Any) -> None:
        self.api, self.store = FakeApiserver(), Store()
        self.api.seed("ExpertModel", "n", "reels", metadata={"uid": "reels"}, spec=expert()["spec"])
        owners = [{"uid": owner, "controller": True}]
        marks = {"recast.dev/kind": "expert-server", "recast.dev/model": "reels"}
        self.api.seed(
            "Deployment",
            "n",
            DEPLOYMENT.name,
            metadata={"ownerReferences": owners, "labels": marks, **metadata},
            spec={"replicas": 2},
        )
        for (kind, _, _), raw in self.api.objects.items():
            self.store.put(kind, raw)
        outside = Outside(self.store, Doubts(), Kube(self.api), FakeLauncher(self.api), Metrics())
        seen = {Address(*place): stored(place[0], raw) for place, raw in self.api.objects.items()}
        self.writer = Writer(REELS, seen, outside)


async def test_a_deployment_of_anothers_is_neither_scaled_nor_deleted_whatever_a_plan_says() -> None:
    writing = Writing(owner="somebody")
    with pytest.raises(Conflict, match="is no child of ExpertModel n/reels"):
        await writing.writer.scale(Scale(DEPLOYMENT.name, 0, "because"))
    with pytest.raises(Conflict, match="is no child of ExpertModel n/reels"):
        await writing.writer.delete(Deletion("Deployment", DEPLOYMENT.name, "because"))
    assert writing.api.log == []


async def test_a_child_that_was_made_anew_since_it_was_observed_is_not_rewritten() -> None:
    writing = Writing()
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT.name, "namespace": "n"}}
    await writing.writer.apply(Apply({**body, "spec": {"replicas": 3}}, "because"))
    assert writing.api.objects[DEPLOYMENT]["spec"] == {"replicas": 3}
    writing.api.remove(*DEPLOYMENT)
    anew = writing.api.seed("Deployment", "n", DEPLOYMENT.name, spec={"replicas": 7})
    with pytest.raises(Conflict):
        await writing.writer.apply(Apply({**body, "spec": {"replicas": 4}}, "because"))
    assert writing.api.objects[DEPLOYMENT] == anew


async def test_what_we_delete_is_gone_at_once_unless_a_finalizer_keeps_it() -> None:
    writing = Writing()
    await writing.writer.delete(Deletion("Deployment", DEPLOYMENT.name, "because"))
    assert writing.store.get(*DEPLOYMENT) is None
    kept = Writing(finalizers=["foregroundDeletion"])

    async def only_marked() -> None:  # the apiserver keeps it until its finalizers are gone
        kept.api.log.append("marked")

    kept.api.before(f"DELETE deployments/{DEPLOYMENT.name}", only_marked)
    await kept.writer.delete(Deletion("Deployment", DEPLOYMENT.name, "because"))
    assert kept.api.log[-1] == f"GET deployments/{DEPLOYMENT.name}", "nobody asked what has become of it"
    assert kept.store.get(*DEPLOYMENT) is not None
