"""PID 1 of the node: prepares its namespaces, starts the components, restarts what dies, stops in reverse order.

It runs in mount, network and PID namespaces of its own (see :mod:`dev.cluster.lifecycle`). When it ends, the kernel
ends everything that was started below it, pods included, and takes mounts, network and iptables rules along: that is
the clean-up.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from dev.cluster import assets, components
from dev.cluster import layout as layouts

SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
RESTARTS = 5  # of one component within a minute; then the node gives up, and its log says why


def run(*argv: str) -> None:
    """Run a command of the set-up; its failure ends the node."""
    subprocess.run(argv, check=True)


def make_private(layout: layouts.ClusterLayout) -> None:
    """Give the node its own /run, /var/log, kubelet and CNI folders, and let pods' mounts propagate within it."""
    run("mount", "--make-rshared", "/")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for inside, kept in {"/var/lib/kubelet": "kubelet", "/var/log": "logs/var", "/var/lib/cni": "cni-state"}.items():
        (layout.state / kept).mkdir(parents=True, exist_ok=True)
        Path(inside).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", str(layout.state / kept), inside)


def hide_sysctls(layout: layouts.ClusterLayout) -> None:
    """Show the kubelet the global settings that it would otherwise change for the whole machine."""
    folder = layout.state / "sysctls"
    folder.mkdir(exist_ok=True)
    for name, value in SYSCTLS.items():
        if (Path("/proc/sys") / name).exists():
            shown = folder / name.replace("/", ".")
            shown.write_text(value + "\n")
            run("mount", "--bind", str(shown), f"/proc/sys/{name}")


def refuse_outsiders(layout: layouts.ClusterLayout) -> None:
    """Drop what the host forwards for others: only the host itself may come in, even where it is a router."""
    run("iptables", "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "!", "-s", layout.host_ip, "-j", "DROP")


def join_network(layout: layouts.ClusterLayout, deadline: float = 20) -> None:
    """Bring up the node's end of the link that the host has moved in here, and let the node route for its pods."""
    end = time.monotonic() + deadline
    while not Path("/proc/sys/net/ipv4/conf/eth0").exists():
        if time.monotonic() > end:
            raise TimeoutError("the host did not hand over the link eth0")
        time.sleep(0.05)
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{layout.node_ip}/30", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "route", "add", "default", "via", layout.host_ip)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def choose_iptables() -> None:
    """Put the flavour of iptables that this kernel has first on the path: nf_tables, else legacy."""
    links = Path("/run/recast-bin")
    links.mkdir()
    for flavour in ("nft", "legacy"):
        probe = subprocess.run([f"iptables-{flavour}", "-t", "nat", "-L", "-n"], capture_output=True)
        if probe.returncode == 0:
            found = subprocess.run(["which", f"xtables-{flavour}-multi"], capture_output=True, text=True, check=True)
            for tool in (
                "iptables",
                "iptables-save",
                "iptables-restore",
                "ip6tables",
                "ip6tables-save",
                "ip6tables-restore",
            ):
                (links / tool).symlink_to(found.stdout.strip())
            os.environ["PATH"] = f"{links}:{os.environ['PATH']}"
            return
    raise RuntimeError("the kernel has neither nf_tables nor legacy iptables NAT: load nf_tables or iptable_nat")


def answers(probe: str, ca: Path, client: tuple[Path, Path]) -> bool:
    """Whether what ``probe`` names (see ``Component.ready``) answers now."""
    kind, _, rest = probe.partition(":")
    try:
        if kind == "tcp":
            host, port = rest.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=1).close()
        elif kind == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(rest)
        elif kind == "https":
            context = ssl.create_default_context(cafile=str(ca))
            context.load_cert_chain(*map(str, client))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            opener.open(rest, timeout=2).close()
        else:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(rest, timeout=2).close()
    except OSError:
        return False
    return True


class Node:
    """The running components."""

    def __init__(self, layout: layouts.ClusterLayout, parts: list[components.Component]) -> None:
        self._layout = layout
        self._parts = {part.name: part for part in parts}
        self._pids: dict[int, str] = {}
        self._ready: set[str] = set()
        self._deaths: dict[str, list[float]] = {}
        self._stopping = False

    def _start(self, part: components.Component) -> None:
        log = (self._layout.logs / f"{part.name}.log").open("ab")
        process = subprocess.Popen(part.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        process.returncode = 0  # this process reaps for itself, see _reap: Popen must not wait for it too
        self._pids[process.pid] = part.name
        print(f"{part.name} started, pid {process.pid}", flush=True)

    def _reap(self) -> None:
        """Collect every ended child; a component that ended is started again, up to a limit."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._pids.pop(pid, None)
            if name is None or self._stopping:
                continue
            now = time.monotonic()
            deaths = [moment for moment in self._deaths.get(name, []) if now - moment < 60] + [now]
            self._deaths[name] = deaths
            print(f"{name} ended with status {os.waitstatus_to_exitcode(status)}", flush=True)
            if len(deaths) > RESTARTS:
                raise RuntimeError(f"{name} died {len(deaths)} times in a minute: see {self._layout.logs}/{name}.log")
            self._start(self._parts[name])

    def serve(self) -> None:
        """Start everything, then watch over it until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stopping", True))
        pki = self._layout.pki
        waiting = list(self._parts.values())
        complete = self._layout.state / "ready"
        complete.unlink(missing_ok=True)
        while not self._stopping:
            self._reap()
            running = set(self._pids.values())
            for part in self._parts.values():
                if part.name in running - self._ready and (
                    not part.ready or answers(part.ready, pki / "ca.crt", (pki / "admin.crt", pki / "admin.key"))
                ):
                    self._ready.add(part.name)
                    print(f"{part.name} ready", flush=True)
            if len(self._ready) == len(self._parts) and not complete.exists():
                complete.touch()
            for part in [part for part in waiting if self._ready.issuperset(part.after)]:
                waiting.remove(part)
                self._start(part)
            time.sleep(0.1 if len(self._ready) < len(self._parts) else 0.5)
        self._stop()

    def _stop(self) -> None:
        """End the components in reverse order: an apiserver that lost its etcd would not end for minutes."""
        for name in reversed(list(self._parts)):
            for pid in [pid for pid, owner in self._pids.items() if owner == name]:
                print(f"stopping {name}", flush=True)
                os.kill(pid, signal.SIGTERM)
                end = time.monotonic() + 10
                while pid in self._pids and time.monotonic() < end:
                    self._reap()
                    time.sleep(0.02)
                if pid in self._pids:
                    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Entry point inside the namespaces: ``python -m dev.cluster.node STATE``."""
    layout = layouts.load(Path(sys.argv[1]))
    os.environ.update(assets.environment())
    make_private(layout)
    hide_sysctls(layout)
    join_network(layout)
    choose_iptables()
    refuse_outsiders(layout)
    parts = components.node(layout, assets.binaries(), assets.debian())
    Node(layout, parts).serve()
    print("node stopped", flush=True)


if __name__ == "__main__":
    main()
