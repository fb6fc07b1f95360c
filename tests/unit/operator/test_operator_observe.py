"""From the apiserver's JSON to the values that planning reads."""

from __future__ import annotations

from typing import Any

from recast_operator.observe import Key, Observer, observed_deployment
from recast_operator.store import Store


def raw(name: str = "x", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "labels": labels or {}}
    return {"metadata": {**metadata, **rest.pop("metadata", {})}, **rest}


def test_a_deployment_has_the_pods_that_its_selector_selects() -> None:
    pods = [
        raw("web", {"app": "a", "r": "1"}, status={"conditions": [{"type": "Ready", "status": "True"}]}),
        raw("old", {"app": "a", "r": "0"}),
    ]
    deployment = observed_deployment(
        raw(
            "d",
            {"recast.dev/revision": "abc", "recast.dev/lineage": "4"},
            spec={"replicas": 3, "selector": {"matchLabels": {"app": "a", "r": "1"}}},
            status={"observedGeneration": 1, "updatedReplicas": 1},
            metadata={"generation": 2},
        ),
        pods,
    )
    assert [pod.name for pod in deployment.pods] == ["web"]
    assert (deployment.ready, deployment.replicas, deployment.current) == (1, 3, False)
    assert (deployment.revision, deployment.lineage) == ("abc", 4)


def test_an_object_concerns_the_models_whose_plans_it_is_part_of() -> None:
    store = Store()
    observer = Observer(store)
    expert = raw(
        "reels",
        spec={"foundationRef": {"name": "new-fm"}},
        status={"stable": {"foundation": {"name": "old-fm"}}, "canary": None},
    )
    store.put("ExpertModel", expert)

    def concerned(kind: str, body: dict[str, Any]) -> set[str]:
        return {f"{key.kind}/{key.name}" for key in observer.concerned(kind, body)}

    assert concerned("ExpertModel", expert) == {
        "ExpertModel/reels",
        "FoundationModel/new-fm",
        "FoundationModel/old-fm",
    }
    assert concerned("FoundationModel", raw("new-fm")) == {"FoundationModel/new-fm", "ExpertModel/reels"}
    version = raw("v", spec={"model": {"kind": "ExpertModel", "name": "reels"}})
    assert concerned("ModelVersion", version) == {"ExpertModel/reels"}
    assert concerned("ModelVersion", raw("v", spec={"model": {"kind": "Nonsense"}})) == set()
    pod = raw("p", {"recast.dev/kind": "expert-server", "recast.dev/model": "reels"})
    assert concerned("Pod", pod) == {"ExpertModel/reels"}
    job = raw("j", {"recast.dev/kind": "foundation-trainer", "recast.dev/model": "new-fm"})
    assert concerned("Job", job) == {"FoundationModel/new-fm"}
    assert concerned("Pod", raw("p")) == set()


def test_a_version_that_cannot_be_read_is_left_out_and_stops_nobody_else() -> None:
    store = Store()
    store.put(
        "FoundationModel",
        raw(
            "home-fm",
            spec={
                "storage": {"persistentVolumeClaim": {"claimName": "models"}},
                "data": {"persistentVolumeClaim": {"claimName": "data"}, "path": "stream"},
                "training": {"image": "trainer:1"},
                "serving": {"image": "server:1"},
            },
            apiVersion="recast.dev/v1alpha1",
        ),
    )
    store.put("ModelVersion", raw("fm-home-fm-v1", spec={"number": "many"}, apiVersion="recast.dev/v1alpha1"))
    observed = Observer(store).foundation(Key("FoundationModel", "n", "home-fm"))
    assert observed is not None
    assert observed.versions == ()
    assert Observer(store).foundation(Key("FoundationModel", "n", "gone")) is None
