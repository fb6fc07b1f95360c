"""Bring the single-node cluster up, say how it is, take it down: the host's side of :mod:`dev.cluster.node`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from dev.cluster import addons, assets, pause
from dev.cluster.layout import NODE, ClusterLayout, identity, load
from dev.cluster.paths import REPO, STATE, direct_environment, lock
from dev.cluster.pki import Authority, Identity
from dev.cluster.progress import say

NEEDED_GIB = 14


def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until ``condition`` holds. Raises :class:`SetupError` at the deadline."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise assets.SetupError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def kubectl(layout: ClusterLayout, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl against this cluster, whatever the ambient configuration says."""
    command = [str(assets.binaries() / "kubectl"), f"--kubeconfig={layout.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=direct_environment())


def supervisor(layout: ClusterLayout) -> int | None:
    """The supervisor's pid on the host, if it lives and is this cluster's."""
    try:
        pid = int(layout.pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return None
    return pid if "dev.cluster.node" in command and str(layout.state) in command else None


def inside(pid: int) -> int:
    """PID 1 of the node, seen from the host: the one child of the ``unshare`` that is ``pid``."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait(lambda: bool(children.read_text().split()), 10, "the node's first process")
    return int(children.read_text().split()[0])


def ready(layout: ClusterLayout) -> bool:
    """Whether the node says Ready."""
    if not (layout.state / "ready").exists():  # what the apiserver says may be from before the last stop
        return False
    path = "{.status.conditions[?(@.type=='Ready')].status}"
    return kubectl(layout, "get", "node", NODE, "-o", f"jsonpath={path}").stdout == "True"


def _certificates(layout: ClusterLayout) -> None:
    authority = Authority(layout.pki)
    authority.service_account_key()
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    authority.issue("apiserver", Identity("kube-apiserver"), (*names, layout.node_ip, layout.api_ip, "127.0.0.1"))
    authority.issue("kubelet", Identity(f"system:node:{NODE}", "system:nodes"), (NODE, layout.node_ip))
    authority.issue("etcd", Identity("etcd"), ("localhost", "127.0.0.1"))
    authority.issue("etcd-client", Identity("kube-apiserver-etcd-client"))
    authority.issue("apiserver-kubelet", Identity("kube-apiserver-kubelet-client", "system:masters"))
    users = {
        "kube-controller-manager": Identity("system:kube-controller-manager"),
        "kube-scheduler": Identity("system:kube-scheduler"),
        "kube-proxy": Identity("system:kube-proxy"),
        "coredns": Identity("coredns"),
        "prometheus": Identity("prometheus"),
    }
    for name, user in users.items():
        authority.kubeconfig(layout.pki / f"{name}.kubeconfig", layout.server, name, user)
    node = Identity(f"system:node:{NODE}", "system:nodes")
    authority.kubeconfig(layout.pki / "kubelet.kubeconfig", layout.server, "kubelet", node)
    authority.kubeconfig(layout.kubeconfig, layout.server, "admin", Identity("recast-dev-admin", "system:masters"))


def _cgroups(layout: ClusterLayout, action: Callable[[Path], None]) -> None:
    """Apply ``action`` to this cluster's cgroup in every hierarchy that is mounted."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        action(root / layout.cgroup.lstrip("/"))
        return
    for hierarchy in sorted({path.resolve() for path in root.iterdir() if path.is_dir()}):
        if (hierarchy / "cgroup.procs").exists():
            action(hierarchy / layout.cgroup.lstrip("/"))


def _make_cgroup(path: Path) -> None:
    path.mkdir(exist_ok=True)
    parent = path.parent
    if (parent / "cgroup.controllers").exists():
        wanted = " ".join(f"+{name}" for name in (parent / "cgroup.controllers").read_text().split())
        for level in (parent, path):
            with contextlib.suppress(OSError):
                (level / "cgroup.subtree_control").write_text(wanted)
    for name in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty, and an empty one takes no process
        if (path / name).exists() and not (path / name).read_text().strip():
            (path / name).write_text((parent / name).read_text())


def _remove_cgroup(path: Path) -> None:
    for folder in (
        sorted((p for p in path.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)) if path.exists() else []
    ):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _link(layout: ClusterLayout, pid: int) -> None:
    """Join host and node by a pair of interfaces; the host reaches pods and Services through the node."""
    subprocess.run(["ip", "link", "del", layout.link], capture_output=True)
    _ip("link", "add", layout.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("address", "add", f"{layout.host_ip}/30", "dev", layout.link)
    _ip("link", "set", layout.link, "up")
    for subnet in (layout.pods, layout.services):
        _ip("route", "replace", subnet, "via", layout.node_ip)


def _wrappers(layout: ClusterLayout) -> None:
    folder = layout.state / "bin"
    folder.mkdir(exist_ok=True)
    bin_ = assets.binaries()
    direct = f'NO_PROXY="${{NO_PROXY:+$NO_PROXY,}}{layout.node_ip}"'
    for tool in ("kubectl", "helm"):
        script = folder / tool
        script.write_text(f'#!/bin/sh\nexport {direct} KUBECONFIG="{layout.kubeconfig}"\nexec "{bin_ / tool}" "$@"\n')
        script.chmod(0o755)
    ctr, libraries = folder / "ctr", assets.environment()["LD_LIBRARY_PATH"]
    ctr.write_text(
        f'#!/bin/sh\nexec nsenter -t "$(cat "{layout.state}/init.pid")" -m -n -p -- '
        f'env LD_LIBRARY_PATH="{libraries}" "{assets.debian()}/usr/bin/ctr" -n k8s.io "$@"\n'
    )
    ctr.chmod(0o755)


def up(state: Path = STATE) -> ClusterLayout:
    """Start the cluster, or find it running. Raises :class:`SetupError` with the end of every log when it cannot."""
    assets.binaries(), assets.debian()
    with _alone(state):  # addresses are chosen inside: a `down` beside this would remove the choice
        return _up(load(state))


def _up(layout: ClusterLayout) -> ClusterLayout:
    usable = layout.state / "usable"
    if supervisor(layout) and usable.exists() and ready(layout):
        say(f"cluster {layout.id} is up: KUBECONFIG={layout.kubeconfig}")
        return layout
    usable.unlink(missing_ok=True)
    _stop(layout)
    free = shutil.disk_usage(layout.state).free / 2**30
    if free < NEEDED_GIB:
        raise assets.SetupError(
            f"{layout.state} has {free:.1f} GiB free, the cluster needs {NEEDED_GIB} GiB: free some space"
        )
    begun = time.monotonic()
    try:
        _start(layout)
        usable.touch()  # a start that was killed half-way left the node Ready, but not all that pods need
    except (assets.SetupError, subprocess.CalledProcessError, OSError) as error:
        bundle = bundle_logs(layout)
        raise assets.SetupError(f"the cluster did not start: {error}\nlogs: {bundle}\n{tails(layout)}") from error
    say(f"node Ready after {time.monotonic() - begun:.1f} s: KUBECONFIG={layout.kubeconfig}")
    return layout


def _start(layout: ClusterLayout) -> None:
    _certificates(layout)
    layout.logs.mkdir(exist_ok=True)
    for index in range(addons.VOLUMES):
        folder = layout.state / "volumes" / str(index)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
    _cgroups(layout, _make_cgroup)
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGTERM", "--mount-proc"]
    (layout.state / "ready").unlink(missing_ok=True)
    with (layout.logs / "node.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "dev.cluster.node", str(layout.state)],
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=direct_environment(),
        )
    process.returncode = 0  # it outlives this program
    layout.pid_file.write_text(str(process.pid))
    first = inside(process.pid)
    (layout.state / "init.pid").write_text(str(first))
    _link(layout, first)
    _wrappers(layout)
    document = json.dumps(addons.objects(layout))

    def alive() -> bool:
        return supervisor(layout) is not None

    def applied() -> bool:
        if not alive():
            raise assets.SetupError("the node's supervisor ended")
        return kubectl(layout, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=document).returncode == 0

    wait(applied, 60, "the apiserver to take the first objects")
    wait(lambda: not alive() or ready(layout), 60, "the node to be Ready")
    if not alive():
        raise assets.SetupError("the node's supervisor ended")
    pause.load(layout)
    account = ("get", "serviceaccount", "default", "--namespace=default")
    wait(lambda: kubectl(layout, *account).returncode == 0, 30, "the default service account, which every pod needs")


def _first_process(layout: ClusterLayout) -> int | None:
    """The node's PID 1, seen from the host, if it lives: it may outlive an ``unshare`` that was killed."""
    try:
        pid = int((layout.state / "init.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return None
    return pid if "dev.cluster.node" in command and str(layout.state) in command else None


def _stop(layout: ClusterLayout) -> None:
    first = _first_process(layout)
    if first:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGTERM)
        with contextlib.suppress(assets.SetupError):
            wait(lambda: _first_process(layout) is None, 60, "the node to stop")
        with contextlib.suppress(ProcessLookupError):
            if _first_process(layout):
                os.kill(first, signal.SIGKILL)
                wait(lambda: _first_process(layout) is None, 10, "the node to be gone")
    subprocess.run(["ip", "link", "del", layout.link], capture_output=True)


def down(state: Path = STATE) -> None:
    """Stop the cluster in order and remove all it made; says what could not be removed."""
    with _alone(state):
        if (state / "layout.json").exists():
            _down(load(state))
        else:
            say("no cluster here")


def _alone(state: Path) -> contextlib.AbstractContextManager[None]:
    """One ``up`` or ``down`` of a cluster at a time."""
    return lock(f"cluster-{identity(state)}")


def _down(layout: ClusterLayout) -> None:
    state = layout.state
    _stop(layout)

    def removed() -> bool:  # the kernel may still be reaping pods that were killed with the node
        _cgroups(layout, _remove_cgroup)
        shutil.rmtree(state, ignore_errors=True)
        return not _left(layout)

    with contextlib.suppress(assets.SetupError):
        wait(removed, 20, "the pods' last processes")
    left = _left(layout)
    say("cluster removed" if not left else "could not remove: " + ", ".join(left))


def _left(layout: ClusterLayout) -> list[str]:
    """What ``down`` has not removed."""
    left = [str(layout.state)] if layout.state.exists() else []
    _cgroups(layout, lambda path: left.append(str(path)) if path.exists() else None)
    return left


def tails(layout: ClusterLayout, lines: int = 6) -> str:
    """The last lines of each component's log."""
    parts = []
    for log in sorted(layout.logs.glob("*.log")):
        tail = log.read_text(errors="replace").splitlines()[-lines:]
        parts.append(f"--- {log.name}\n" + "\n".join(line[:300] for line in tail))
    return "\n".join(parts)


def bundle_logs(layout: ClusterLayout) -> Path:
    """A tarball of all logs beside the state folder's logs."""
    bundle = layout.state / "logs.tar.gz"
    with tarfile.open(bundle, "w:gz") as archive:
        if layout.logs.exists():
            archive.add(layout.logs, arcname="logs")
    return bundle
