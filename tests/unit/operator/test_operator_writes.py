"""One write at a time: bound to what the pass has seen, and to what is its own."""

from __future__ import annotations

from typing import Any

import pytest

from recast_operator.adapters.errors import Conflict
from recast_operator.adapters.kube import Kube
from recast_operator.metrics import Metrics
from recast_operator.planning.plan import Apply, Deletion, Scale
from recast_operator.store import Address, Doubts, Store
from recast_operator.writes import Outside, Writer
from tests.unit.operator.documents import expert
from tests.unit.operator.fake_apiserver import FakeApiserver
from tests.unit.operator.operator_harness import REELS, FakeLauncher

Object = dict[str, Any]
DEPLOYMENT = Address("Deployment", "n", "em-reels-abc")


class Pass:
    """A pass that has seen the model and one Deployment."""

    def __init__(self, owner: str = "", **metadata: Any) -> None:
        self.api, self.store, self.doubts = FakeApiserver(), Store(), Doubts()
        model = self.api.seed("ExpertModel", "n", "reels", spec=expert()["spec"])
        owners = [{"uid": owner or model["metadata"]["uid"], "controller": True}]
        metadata |= {"ownerReferences": owners}
        self.api.seed("Deployment", "n", "em-reels-abc", metadata=metadata, spec={"replicas": 2})
        for (kind, _, _), raw in self.api.objects.items():
            self.store.put(kind, raw)
        seen = [self.store.get(*address) for address in (Address(*REELS), DEPLOYMENT)]
        objects = {entry.address: entry for entry in seen if entry is not None}
        outside = Outside(self.store, self.doubts, Kube(self.api), FakeLauncher(self.api), Metrics())
        self.writer = Writer(REELS, objects, outside)


async def test_a_child_that_another_model_owns_is_neither_scaled_nor_deleted() -> None:
    made = Pass(owner="another")
    with pytest.raises(Conflict, match="no child of ExpertModel n/reels that this pass has seen"):
        await made.writer.scale(Scale(DEPLOYMENT.name, 0))
    with pytest.raises(Conflict):
        await made.writer.delete(Deletion("Deployment", DEPLOYMENT.name))
    with pytest.raises(Conflict):
        await made.writer.delete(Deletion("Deployment", "never-seen"))
    assert made.api.log == []


async def test_what_a_scale_has_changed_is_known_at_once() -> None:
    made = Pass()
    await made.writer.scale(Scale(DEPLOYMENT.name, 5))
    entry = made.store.get(*DEPLOYMENT)
    assert entry is not None
    assert entry.raw()["spec"]["replicas"] == 5


async def test_a_child_that_was_made_anew_since_it_was_observed_is_not_rewritten() -> None:
    made = Pass()
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT.name, "namespace": "n"}}
    await made.writer.apply(Apply({**body, "spec": {"replicas": 3}}, "because"))
    assert made.api.objects[DEPLOYMENT]["spec"] == {"replicas": 3}
    made.api.remove(*DEPLOYMENT)
    anew = made.api.seed("Deployment", "n", DEPLOYMENT.name, spec={"replicas": 7})
    with pytest.raises(Conflict):
        await made.writer.apply(Apply({**body, "spec": {"replicas": 4}}, "because"))
    assert made.api.objects[DEPLOYMENT] == anew


async def test_a_deleted_child_is_gone_at_once_and_one_with_finalizers_stays_until_it_really_goes() -> None:
    made = Pass()
    await made.writer.delete(Deletion("Deployment", DEPLOYMENT.name))
    assert made.store.get(*DEPLOYMENT) is None
    assert made.api.log == ["DELETE deployments/em-reels-abc"]
    kept = Pass(finalizers=["somebody/waits"])

    async def mark() -> None:  # the apiserver only marks it, until the finalizer goes
        kept.api.seed("Deployment", "n", DEPLOYMENT.name, metadata={"deletionTimestamp": "now"}, spec={"replicas": 2})

    kept.api.before("GET deployments/em-reels-abc", mark)
    await kept.writer.delete(Deletion("Deployment", DEPLOYMENT.name))
    entry = kept.store.get(*DEPLOYMENT)
    assert entry is not None
    assert entry.raw()["metadata"]["deletionTimestamp"] == "now"
