"""What one cluster is: its folders, its addresses, its name. Pure but for reading the routes that are already there.

Services have a /16, of the range that carriers and clusters keep for themselves (RFC 6598): an expert has a Service,
and one more for each of its training runs that is not cleaned up yet, so that a fleet soon fills a /24.

Two checkouts may each run a cluster. The number that tells them apart comes from the path of the state folder; it picks
the subnets, and moves on where one of them is taken.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

NODE = "node-1"
API_PORT = 6443
PROMETHEUS_PORT = 9090
SLOTS = 64


@dataclass(frozen=True)
class ClusterLayout:
    """One cluster's folders and addresses."""

    state: Path
    id: str
    slot: int
    services: str
    """The Services' subnet."""

    @property
    def host_ip(self) -> str:
        """The host's end of the link to the node."""
        return f"10.213.{self.slot}.1"

    @property
    def node_ip(self) -> str:
        """The node's end; every component listens here or on the node's own loopback."""
        return f"10.213.{self.slot}.2"

    @property
    def pods(self) -> str:
        """The pods' subnet."""
        return f"10.214.{self.slot}.0/24"

    @property
    def dns_ip(self) -> str:
        """The ClusterIP of cluster DNS."""
        return str(ipaddress.IPv4Network(self.services)[10])

    @property
    def api_ip(self) -> str:
        """The ClusterIP of the apiserver."""
        return str(ipaddress.IPv4Network(self.services)[1])

    @property
    def server(self) -> str:
        """The apiserver's URL, the same from the host and from the node."""
        return f"https://{self.node_ip}:{API_PORT}"

    @property
    def link(self) -> str:
        """The host's network interface to the node."""
        return f"recast-{self.id[:6]}"

    @property
    def cgroup(self) -> str:
        """The cgroup under which every pod of this cluster lives."""
        return f"/recast-{self.id}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        """One log per component, and the pods' logs."""
        return self.state / "logs"

    @property
    def pid_file(self) -> Path:
        """The supervisor's process id on the host."""
        return self.state / "node.pid"


def _taken() -> list[ipaddress.IPv4Network]:
    command = ["ip", "-4", "-json", "route", "show", "table", "all"]
    routes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout or "[]")
    named = [route["dst"] for route in routes if route["dst"] != "default"]
    return [ipaddress.IPv4Network(name, strict=False) for name in named]


def identity(state: Path) -> str:
    """What tells this cluster from every other on the machine, before it has addresses."""
    return hashlib.sha256(str(state).encode()).hexdigest()[:8]


def load(state: Path) -> ClusterLayout:
    """The layout of the cluster in ``state``: as it was chosen when the cluster was first started, or a free one."""
    chosen = state / "layout.json"
    if chosen.exists():
        known = json.loads(chosen.read_text())
        # What an earlier checkout has chosen stays: the addresses stand in the cluster's certificates and Services.
        services = known.get("services", f"10.215.{known['slot']}.0/24")
        return ClusterLayout(state=state, id=known["id"], slot=known["slot"], services=services)
    own = identity(state)
    taken = _taken()
    for offset in range(SLOTS):
        slot = (int(own, 16) + offset) % SLOTS
        layout = ClusterLayout(state=state, id=own, slot=slot, services=f"100.{64 + slot}.0.0/16")
        nets = [ipaddress.IPv4Network(net) for net in (f"{layout.host_ip}/32", layout.pods, layout.services)]
        if not any(net.overlaps(other) for net in nets for other in taken):
            state.mkdir(parents=True, exist_ok=True)
            chosen.write_text(json.dumps({"id": layout.id, "slot": layout.slot, "services": layout.services}))
            (state / "id").write_text(layout.id + "\n")
            return layout
    raise RuntimeError(
        "no free subnets in 10.213.0.0/16, 10.214.0.0/16 and 100.64.0.0/10: see `ip route show table all`"
    )
