"""An ordinary autoscaler scales models by their own resource: on a real apiserver, with the manifests of examples/."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane
from recast_operator.adapters.kube import APPLY, BY_KIND, HttpRequester, Request, Resource
from tests.integration.operator.world import EXAMPLES, World

Object = dict[str, Any]
AUTOSCALERS = Resource("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers")
MANIFESTS = ("expert.yaml", "foundation.yaml")
ADAPTER = EXAMPLES / "autoscaling" / "prometheus-adapter.yaml"


@pytest_asyncio.fixture
async def world(requester: HttpRequester, namespace: str) -> AsyncIterator[World]:
    """A foundation and an expert that serve."""
    made = World(requester, namespace)
    await made.boot()
    await made.apply("home-fm.yaml", "reels.yaml")
    await made.until("reels serves", lambda: bool(made.model("ExpertModel", "reels").get("status", {}).get("stable")))
    await made.settle(60)
    yield made
    made.close()


def manifest(name: str) -> Object:
    found: Object = yaml.safe_load((EXAMPLES / "autoscaling" / name).read_text(encoding="utf-8"))
    return found


def servers(world: World, kind: str) -> dict[str, Object]:
    prefix = {"ExpertModel": "em-", "FoundationModel": "fm-"}[kind]
    found = {raw["metadata"]["name"]: raw for raw in world.mirror.of("Deployment")}
    return {name: raw for name, raw in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("name", MANIFESTS)
async def test_the_example_is_valid_and_its_target_says_how_many_pods_there_are_and_which(
    world: World, name: str
) -> None:
    body = manifest(name)
    path = AUTOSCALERS.path(world.namespace, body["metadata"]["name"])
    params = {"fieldManager": "kubectl", "fieldValidation": "Strict"}
    await world.kube.requester.send(Request("PATCH", path, body=body, content_type=APPLY, params=params))

    target = body["spec"]["scaleTargetRef"]
    resource = BY_KIND[target["kind"]]
    assert target["apiVersion"] == resource.api_version
    scale = await world.kube.requester.send(Request("GET", resource.path(world.namespace, target["name"], "scale")))
    (server,) = servers(world, target["kind"]).values()
    assert scale["spec"]["replicas"] == scale["status"]["replicas"] == server["spec"]["replicas"]
    wanted = dict(pair.split("=") for pair in scale["status"]["selector"].split(","))
    assert wanted.items() <= server["spec"]["template"]["metadata"]["labels"].items()
    for metric in body["spec"]["metrics"]:
        if metric["type"] == "Object":
            assert metric["object"]["describedObject"] == target


@pytest.mark.parametrize(
    ("short", "kind", "name"), [("em", "ExpertModel", "reels"), ("fm", "FoundationModel", "home-fm")]
)
async def test_kubectl_scale_changes_the_spec_and_the_operator_the_pods_and_no_revision(
    world: World, control_plane: ControlPlane, short: str, kind: str, name: str
) -> None:
    before, revision = servers(world, kind), world.model("ExpertModel", "reels")["status"]["stable"]["revision"]
    kubectl = [str(assets.binaries() / "kubectl"), f"--kubeconfig={control_plane.kubeconfig}", "-n", world.namespace]
    done = subprocess.run(
        [*kubectl, "scale", f"{short}/{name}", "--replicas=7"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    scaled = await world.kube.get(BY_KIND[kind], world.namespace, name)
    assert scaled["spec"]["serving"]["replicas"] == 7
    world.mirror.put(kind, scaled)
    await world.settle(30)
    after = servers(world, kind)
    assert {key: raw["spec"]["replicas"] for key, raw in after.items()} == dict.fromkeys(before, 7)
    assert [raw["spec"]["template"] for raw in after.values()] == [raw["spec"]["template"] for raw in before.values()]
    assert world.model(kind, name)["status"]["replicas"] == 7
    status = world.model("ExpertModel", "reels")["status"]
    assert status["stable"]["revision"] == revision
    assert not status.get("canary")
    writes = len(world.recorder.writes)
    await world.settle(60)
    assert len(world.recorder.writes) == writes


def queries() -> Iterator[tuple[str, str]]:
    """Each metric of the adapter's rules, as it would ask Prometheus for one object of them."""
    for rule in yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]:
        series = rule["seriesQuery"].partition("{")[0]
        label = next(key for key in rule["resources"]["overrides"] if key != "namespace")
        of = 'namespace="a",' + {"pod": 'pod=~"r-1|r-2"', "model": 'model="home-fm"'}[label]
        text = rule["metricsQuery"].replace("<<.Series>>", series)
        text = text.replace("<<.LabelMatchers>>", of).replace("<<.GroupBy>>", label)
        yield rule.get("name", {}).get("as", series), text


def test_the_adapters_rules_make_the_metrics_that_the_examples_name_and_of_lineages_the_busiest(tmp_path: Path) -> None:
    asked = dict(queries())
    named = {
        entry[entry["type"].lower()]["metric"]["name"]
        for name in MANIFESTS
        for entry in manifest(name)["spec"]["metrics"]
    }
    assert named == asked.keys()
    foundation = 'namespace="a",model="home-fm",kind="foundation-server"'
    series = {
        'namespace="a",pod="r-1",model="reels",kind="expert-server"': 3,
        'namespace="a",pod="r-2",model="reels",kind="expert-server"': 5,
        f'{foundation},lineage="1",pod="l1-1"': 4,
        f'{foundation},lineage="1",pod="l1-2"': 5,
        f'{foundation},lineage="2",pod="l2-1"': 7,
        f'{foundation.replace("home", "other")},lineage="1",pod="o-1"': 90,
        f'{foundation.replace(chr(34) + "a", chr(34) + "b")},lineage="1",pod="o-1"': 90,
        # An expert may have the foundation's name.
        'namespace="a",model="home-fm",kind="expert-server",lineage="1",pod="e-1"': 90,
    }
    expected = {
        "recast_requests_in_flight": [
            {"labels": f'{{pod="r-{pod}"}}', "value": value} for pod, value in ((1, 3), (2, 5))
        ],
        "recast_lineage_requests_in_flight": [{"labels": '{model="home-fm"}', "value": 9}],
    }
    test = {
        "interval": "5s",
        "input_series": [
            {"series": f"recast_requests_in_flight{{{labels}}}", "values": f"{value}x30"}
            for labels, value in series.items()
        ],
        "promql_expr_test": [
            {"expr": expression, "eval_time": "2m", "exp_samples": expected[metric]}
            for metric, expression in asked.items()
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [], "tests": [test]}))
    promtool = assets.debian() / "usr" / "bin" / "promtool"
    answer = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
