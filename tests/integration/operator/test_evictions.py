"""What a drain meets: evictions under our budgets, counted by Kubernetes' controllers. Pods are ready on our word."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dev.cluster.controlplane import ControlPlane
from recast_operator.children.disruption_budget import expert_disruption_budget
from recast_operator.children.labels import EXPERT_SERVER, ChildMeta, labels

Object = dict[str, Any]
DEADLINE_SECONDS = 60
_NUMBER = itertools.count(1)


@pytest.fixture(scope="module")
def controllers() -> Iterator[httpx.Client]:
    """An apiserver with Kubernetes' controllers, and no node."""
    with ControlPlane(controller_manager=True) as plane:
        pki = plane.path / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        with httpx.Client(base_url=plane.server, verify=context, trust_env=False, timeout=30) as client:
            yield client


class Surface:
    """An expert's revisions and their budget in a namespace of their own."""

    def __init__(self, client: httpx.Client, **replicas: int) -> None:
        self._client = client
        self.namespace = f"surface-{next(_NUMBER)}"
        namespace = {"metadata": {"name": self.namespace}}
        client.post("/api/v1/namespaces", json=namespace).raise_for_status()
        account = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"
        self.until("there is a service account", lambda: client.get(account).is_success)
        for revision, count in replicas.items():
            marks = labels(EXPERT_SERVER, "reels", revision=revision)
            pod = {"metadata": {"labels": marks}, "spec": {"containers": [{"name": "server", "image": "server:1"}]}}
            spec = {"replicas": count, "selector": {"matchLabels": marks}, "template": pod}
            deployment = {"metadata": {"name": f"em-reels-{revision}"}, "spec": spec}
            client.post(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", json=deployment).raise_for_status()
        budget = expert_disruption_budget("reels", ChildMeta("em-reels", self.namespace, {}, "hash"))
        del budget["metadata"]["ownerReferences"]
        self._budgets = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets"
        client.post(self._budgets, json=budget).raise_for_status()
        self.until("all pods are made", lambda: len(self.pods()) == sum(replicas.values()))

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < end, f"never came true: {what}"
            time.sleep(0.05)

    def pods(self) -> dict[str, Object]:
        found = self._client.get(f"/api/v1/namespaces/{self.namespace}/pods").raise_for_status().json()["items"]
        return {pod["metadata"]["name"]: pod for pod in found}

    def run(self, *names: str, ready: bool = True) -> None:
        """The kubelet's word on pods."""
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": None}
        for name in names:
            self._client.patch(
                f"/api/v1/namespaces/{self.namespace}/pods/{name}/status",
                headers={"Content-Type": "application/merge-patch+json"},
                json={"status": {"phase": "Running", "conditions": [condition]}},
            ).raise_for_status()

    def counted(self, healthy: int, allowed: int) -> None:
        """Wait until the budget's controller has seen this."""

        def seen() -> bool:
            status = self._client.get(f"{self._budgets}/em-reels").raise_for_status().json().get("status", {})
            return (status.get("currentHealthy"), status.get("disruptionsAllowed")) == (healthy, allowed)

        self.until(f"{healthy} are healthy, {allowed} may go", seen)

    def evict(self, name: str) -> int:
        """The status code: 201, or 429 where the budget forbids it for now."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        return self._client.post(f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction", json=body).status_code


def test_of_all_revisions_together_one_pod_goes_and_the_next_when_its_replacement_is_ready(
    controllers: httpx.Client,
) -> None:
    surface = Surface(controllers, stable=3, canary=1)
    first, second, *_ = before = sorted(surface.pods())
    surface.run(*before)
    surface.counted(healthy=4, allowed=1)
    assert surface.evict(first) == 201
    assert surface.evict(second) == 429
    surface.until("there is a replacement", lambda: len(surface.pods().keys() - {first}) == 4)
    assert surface.evict(second) == 429, "its replacement has not begun to serve"
    surface.run(*(surface.pods().keys() - set(before)))
    surface.counted(healthy=4, allowed=1)
    assert surface.evict(second) == 201


def test_the_only_pod_may_be_evicted(controllers: httpx.Client) -> None:
    surface = Surface(controllers, stable=1)
    (only,) = surface.pods()
    surface.run(only)
    surface.counted(healthy=1, allowed=1)
    assert surface.evict(only) == 201


def test_pods_that_are_not_ready_hold_up_no_drain_and_do_not_cost_the_one_that_serves(
    controllers: httpx.Client,
) -> None:
    surface = Surface(controllers, stable=3)
    serving, *broken = sorted(surface.pods())
    surface.run(serving)
    surface.run(*broken, ready=False)
    surface.counted(healthy=1, allowed=0)
    assert surface.evict(serving) == 429
    assert [surface.evict(name) for name in broken] == [201, 201]
