"""Which cluster the demo uses, and what it must know of it before it touches anything.

By default that is the single-node cluster of ``make cluster``, whatever KUBECONFIG or ~/.kube/config say. ``CONTEXT``
opts in to another one: the person sees server, user and nodes, types the name again, and the demo keeps to namespaces
of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.cluster import assets
from dev.demo.render import variable

REPOSITORY = Path(__file__).resolve().parents[2]
STATE = REPOSITORY / ".cluster" / "demo"
OUR_KUBECONFIG = REPOSITORY / ".cluster" / "kubeconfig"
WRAPPERS = REPOSITORY / ".cluster" / "bin"  # of kubectl and helm, for our cluster alone

NAMESPACE = "recast-demo"
SYSTEM_NAMESPACE = "recast-demo-system"
RELEASE = "recast-demo"
OWN_LABEL = "recast.dev/demo"
PARTS = ("operator", "trainer", "server", "bad-server")
CRDS = ("foundationmodels.recast.dev", "expertmodels.recast.dev", "modelversions.recast.dev")


class TargetError(Exception):
    """The demo may not, or cannot, use this cluster; the message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that was agreed on, and the tools to reach it."""

    kubeconfig: Path
    kubectl: str
    helm: str
    images: Mapping[str, str]
    storage_class: str
    prometheus_url: str
    context: str = ""
    """As the person named it; empty for the cluster of ``make cluster``."""
    namespace: str = NAMESPACE

    @property
    def ours(self) -> bool:
        """Whether it is the cluster of ``make cluster``."""
        return not self.context

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 180) -> str:
        """Standard output of kubectl. Raises :class:`TargetError` with its complaint where it fails."""
        return self._tool(self.kubectl, arguments, stdin, check, timeout)

    def install(self, *arguments: str, timeout: float = 300) -> str:
        """Standard output of helm. Raises :class:`TargetError` with its complaint where it fails."""
        return self._tool(self.helm, arguments, None, True, timeout)

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get … -o json``."""
        answer: dict[str, Any] = json.loads(self.run("get", *arguments, "-o", "json"))
        return answer

    def _tool(self, tool: str, arguments: tuple[str, ...], stdin: str | None, check: bool, timeout: float) -> str:
        command = [tool, "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise TargetError(
                f"{Path(tool).name} {' '.join(arguments[:6])}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout


def choose(environment: Mapping[str, str], *, install: bool = True) -> Cluster:
    """The cluster that the environment asks for: ours, or CONTEXT's after it was confirmed.

    ``install=False`` is for taking down: then no image need be known. Raises :class:`TargetError`.
    """
    context = environment.get("CONTEXT", "")
    if not context:
        _announce_ignored(environment)
        return _ours(environment, install)
    cluster = _named(context, environment, install)
    _confirm(context, cluster, environment)
    refuse_foreign(cluster)
    return cluster


def _announce_ignored(environment: Mapping[str, str]) -> None:
    ambient = [f"KUBECONFIG={environment['KUBECONFIG']}"] if environment.get("KUBECONFIG") else []
    home = Path(environment.get("HOME", "/")) / ".kube" / "config"
    ambient += ["~/.kube/config"] if home.exists() else []
    for entry in ambient:
        print(f"{entry} is ignored: this uses the cluster of `make cluster`. To use another: make demo CONTEXT=<name>")


def _ours(environment: Mapping[str, str], install: bool) -> Cluster:
    if not OUR_KUBECONFIG.exists():
        raise TargetError(f"{OUR_KUBECONFIG} is not there: run make cluster")
    return Cluster(
        kubeconfig=OUR_KUBECONFIG,
        kubectl=str(WRAPPERS / "kubectl"),
        helm=str(WRAPPERS / "helm"),
        images=_overrides(environment) or (_built_images() if install else {}),
        storage_class="recast-local",
        prometheus_url="http://prometheus.recast-monitoring.svc:9090",
    )


def _named(context: str, environment: Mapping[str, str], install: bool) -> Cluster:
    kubectl = _binary("kubectl", environment)
    images = _overrides(environment)
    missing = [variable(part) for part in PARTS if part not in images]
    missing += [name for name in ("STORAGE_CLASS", "PROMETHEUS_URL") if not environment.get(name)]
    if install and missing:
        raise TargetError(
            f"CONTEXT={context} also needs {', '.join(missing)}: images that its nodes can pull, a storage class whose "
            "volumes several pods can mount (ReadWriteMany), and the URL at which its pods reach Prometheus"
        )
    command = [kubectl, "config", "view", "--minify", "--flatten", "--context", context]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"CONTEXT={context}: {done.stderr.strip()}")
    STATE.mkdir(parents=True, exist_ok=True)
    own = STATE / "kubeconfig"  # one context alone, so that nothing later can reach another cluster by mistake
    own.touch(mode=0o600)
    own.write_text(done.stdout)
    return Cluster(
        kubeconfig=own,
        kubectl=kubectl,
        helm=_binary("helm", environment),
        images=images,
        storage_class=environment.get("STORAGE_CLASS", ""),
        prometheus_url=environment.get("PROMETHEUS_URL", ""),
        context=context,
    )


def _confirm(context: str, cluster: Cluster, environment: Mapping[str, str]) -> None:
    view = json.loads(cluster.run("config", "view", "-o", "json"))
    nodes = [item["metadata"]["name"] for item in cluster.get("nodes")["items"]]
    print(f"context  {context}")
    print(f"server   {view['clusters'][0]['cluster']['server']}")
    print(f"user     {view['contexts'][0]['context'].get('user', '')}")
    print(f"nodes    {len(nodes)}: {', '.join(nodes[:5])}{', …' if len(nodes) > 5 else ''}")
    print(f"The demo uses the namespaces {NAMESPACE} and {SYSTEM_NAMESPACE} and installs CRDs and admission policies.")
    answer = environment.get("CONFIRM", "")
    if not answer and sys.stdin.isatty():
        answer = input("Type the context's name to go on: ").strip()
    if answer != context:
        raise TargetError(f"not confirmed: set CONFIRM={context}, or type the name when asked; nothing was changed")


def refuse_foreign(cluster: Cluster) -> None:
    """Raise :class:`TargetError` where the cluster holds CRDs or namespaces of these names that are not the demo's."""
    crds = json.loads(cluster.run("get", "crd", "-o", "json"))["items"]
    foreign = [crd["metadata"]["name"] for crd in crds if crd["metadata"]["name"] in CRDS and not _installed_by_us(crd)]
    if foreign:
        raise TargetError(
            f"this cluster already has {', '.join(foreign)}, which the demo did not install: it would disturb a Recast "
            "that others use. Choose another cluster"
        )
    spaces = json.loads(cluster.run("get", "namespaces", "-o", "json"))["items"]
    taken = [
        space["metadata"]["name"]
        for space in spaces
        if space["metadata"]["name"] in (NAMESPACE, SYSTEM_NAMESPACE)
        and space["metadata"].get("labels", {}).get(OWN_LABEL) != "true"
    ]
    if taken:
        raise TargetError(f"namespace {', '.join(taken)} exists and is not the demo's: rename or delete it first")


def _installed_by_us(crd: Mapping[str, Any]) -> bool:
    annotations = crd["metadata"].get("annotations", {})
    release = (annotations.get("meta.helm.sh/release-namespace"), annotations.get("meta.helm.sh/release-name"))
    return release == (SYSTEM_NAMESPACE, RELEASE)


def _overrides(environment: Mapping[str, str]) -> dict[str, str]:
    return {part: environment[variable(part)] for part in PARTS if environment.get(variable(part))}


def _built_images() -> dict[str, str]:
    """References of the project's images and of the example's, built and loaded where they are not yet."""
    example = ("--file", "examples/bad-server/Dockerfile", "--name", "bad-server", "--base", "server")
    images: dict[str, str] = {}
    for arguments in ((), example):
        command = [sys.executable, "-m", "dev.cluster", "images", "--json", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise TargetError("make images failed: see above")
        images |= json.loads(done.stdout.strip().splitlines()[-1])
    return images


def _binary(name: str, environment: Mapping[str, str]) -> str:
    """A person's own tool, else the one that we build. Never a wrapper: that one knows our cluster alone."""
    folders = [folder for folder in environment.get("PATH", "").split(os.pathsep) if not _holds_wrappers(folder)]
    named = environment.get(name.upper()) or shutil.which(name, path=os.pathsep.join(folders))
    return named or str(assets.binaries() / name)


def _holds_wrappers(folder: str) -> bool:
    return Path(folder).parts[-2:] == WRAPPERS.parts[-2:]
