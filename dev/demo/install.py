"""Brings the demo's own namespaces, the chart, the volumes and the data onto the cluster, side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev.demo import pods, questions, render
from dev.demo.scenario import EXAMPLES, Scenario
from dev.demo.target import (
    CRDS,
    OWN_LABEL,
    RELEASE,
    REPOSITORY,
    STATE,
    SYSTEM_NAMESPACE,
    Cluster,
    TargetError,
)
from dev.demo.volumes import recycle
from recast_api import names

_LOADER = "loader"
_FINISHED_SECONDS = 240


def install(cluster: Cluster, scenario: Scenario) -> Mapping[str, list[questions.Question]]:
    """Everything before the first model is applied. Returns requests by surface. Raises :class:`TargetError`."""
    asked = questions.prepare(scenario)
    remove_models(cluster)
    for name in (SYSTEM_NAMESPACE, cluster.namespace):
        cluster.run("apply", "-f", "-", stdin=json.dumps(_namespace(name)))
    with ThreadPoolExecutor(max_workers=2) as pool:
        chart = pool.submit(install_chart, cluster)
        data = pool.submit(load_data, cluster, scenario)
        chart.result()
        data.result()
    return asked


def _namespace(name: str) -> dict[str, object]:
    labels = {OWN_LABEL: "true", **pods.POD_SECURITY}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def install_chart(cluster: Cluster) -> None:
    """``helm upgrade --install`` of our chart for every namespace of ours, waiting until the operator is ready."""
    ours = cluster.run(
        "get", "namespaces", "-l", f"{OWN_LABEL}=true", "-o", "jsonpath={.items[*].metadata.name}"
    ).split()
    namespaces = [name for name in ours if name != SYSTEM_NAMESPACE]
    values = {
        "operator": {"image": cluster.images["operator"], "prometheusUrl": cluster.prometheus_url, "resyncSeconds": 20},
        "watchNamespaces": namespaces,
        "workloadNamespaces": namespaces,
    }
    STATE.mkdir(parents=True, exist_ok=True)
    path = STATE / "values.json"
    path.write_text(json.dumps(values, indent=2))
    chart = str(REPOSITORY / "helm" / "recast")
    cluster.install(
        *("upgrade", "--install", RELEASE, chart, "-n", SYSTEM_NAMESPACE),
        *("-f", str(path), "--wait", "--timeout", "180s"),
    )


def apply(cluster: Cluster, scenario: Scenario, *files: str) -> None:
    """``kubectl apply`` of example files, with this cluster's image references."""
    for file in files:
        copy = render.write(scenario.file(file), STATE / scenario.name, cluster.images, cluster.storage_class)
        cluster.run("apply", "-n", cluster.namespace, "-f", str(copy))


def load_data(cluster: Cluster, scenario: Scenario) -> None:
    """The volumes, and the events on them."""
    volumes = render.write(EXAMPLES / "00-volumes.yaml", STATE / scenario.name, cluster.images, cluster.storage_class)
    cluster.run("apply", "-n", cluster.namespace, "-f", str(volumes))
    if scenario.stream_job is None:
        _copy_in(cluster, questions.folder(scenario))
        return
    apply(cluster, scenario, scenario.stream_job)
    name = scenario.stream_job.removesuffix(".yaml").partition("-")[2]
    _finish(cluster, f"job/{name}")


def _finish(cluster: Cluster, job: str) -> None:
    """Wait for a Job. Raises :class:`TargetError` with the end of its log where it fails."""
    complete = ("wait", "-n", cluster.namespace, job, f"--timeout={_FINISHED_SECONDS}s", "--for", "condition=Complete")
    failed = ("get", "-n", cluster.namespace, job, "-o", 'jsonpath={.status.conditions[?(@.type=="Failed")].message}')
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(cluster.run, *complete, timeout=_FINISHED_SECONDS + 10, check=False)
        while not waiting.done():
            if why := cluster.run(*failed):
                logs = cluster.run("logs", "-n", cluster.namespace, job, "--tail", "20", check=False)
                raise TargetError(f"{job} failed: {why}\n{logs}")
            futures.wait([waiting], timeout=2)
    if "met" not in waiting.result():
        raise TargetError(
            f"{job} did not finish within {_FINISHED_SECONDS} s: kubectl describe -n {cluster.namespace} {job}"
        )


def _copy_in(cluster: Cluster, folder: Path) -> None:
    """Stream a folder of this machine into the data volume, through a pod of ours."""
    run = ("-n", cluster.namespace)
    loader = pods.pod(_LOADER, cluster.images["trainer"], ["sleep", "900"], {"data": names.DATA_MOUNT})
    cluster.run("apply", *run, "-f", "-", stdin=json.dumps(loader))
    try:
        cluster.run("wait", *run, f"pod/{_LOADER}", "--for", "condition=Ready", "--timeout=120s")
        pack = subprocess.Popen(["tar", "-C", str(folder.parent), "-c", folder.name], stdout=subprocess.PIPE)
        unpack = [cluster.kubectl, "--kubeconfig", str(cluster.kubeconfig), "exec", "-i", *run, _LOADER, "--"]
        command = [*unpack, "tar", "-C", names.DATA_MOUNT, "-x", "--no-same-owner", "--no-same-permissions", "-m"]
        subprocess.run(command, stdin=pack.stdout, check=True)
    finally:
        cluster.run("delete", *run, f"pod/{_LOADER}", "--wait=false", "--ignore-not-found")


def remove_models(cluster: Cluster) -> None:
    """Remove the models of an earlier run and their volumes, while the operator is there to remove finalizers."""
    if not cluster.run("get", "namespace", cluster.namespace, "--ignore-not-found", "-o", "name").strip():
        return
    print("removing the models of the last run …", flush=True)
    for kind in ("expertmodels", "foundationmodels", "modelversions"):
        cluster.run("delete", kind, "-n", cluster.namespace, "--all", "--timeout=60s", check=False)
    release = ("--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    left = cluster.run("get", "foundationmodels,modelversions", "-n", cluster.namespace, "-o", "name", check=False)
    for name in left.split():  # there is no operator that could remove their finalizers
        cluster.run("patch", name, "-n", cluster.namespace, *release, check=False)
    cluster.run("delete", "namespace", cluster.namespace, "--ignore-not-found", "--timeout=120s")
    recycle(cluster)


def uninstall(cluster: Cluster) -> None:
    """Remove the namespaces, the release and the CRDs, in the order that leaves no finalizer waiting."""
    remove_models(cluster)
    try:
        cluster.install("uninstall", RELEASE, "-n", SYSTEM_NAMESPACE, "--ignore-not-found", "--wait")
    finally:
        cluster.run("delete", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--timeout=120s")
    cluster.run("delete", "crd", *CRDS, "--ignore-not-found", "--timeout=60s")
    shutil.rmtree(STATE, ignore_errors=True)
