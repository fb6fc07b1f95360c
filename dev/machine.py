"""What this machine is: everything :mod:`dev.doctor` judges, gathered once and side by side. It judges nothing itself.

Plain Python and its standard library: it runs before any environment exists, and on machines that cannot run the rest.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster import golang
from dev.cluster.paths import STATE, cache, user_cache
from dev.venv import uv_command

GIB = 2**30
PROBE_SECONDS = 12
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
COMMANDS = ("apt-get", "dpkg-deb", "ip", "mount", "nsenter", "openssl", "unshare", "wget")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Room:
    """A place that will hold something large. Places on one ``device`` share its free space."""

    purpose: str
    path: str
    device: int
    free_gib: float


@dataclass(frozen=True)
class Route:
    """A network that this machine already reaches, and the interface it is behind."""

    network: str
    interface: str


@dataclass(frozen=True)
class Facts:
    """A machine, as far as it matters here. The defaults are a machine that lacks nothing."""

    system: str = "Linux"
    machine: str = "x86_64"
    root: bool = True
    sudo: bool = False
    python: tuple[int, ...] = (3, 11)
    has_pip: bool = True
    go: tuple[int, ...] = (1, 26)
    """() where there is no Go."""
    cgroups: str = "v2"
    """``v1``, ``v2``, or nothing where none is mounted."""
    missing_controllers: tuple[str, ...] = ()
    missing_kernel: tuple[str, ...] = ()
    missing_commands: tuple[str, ...] = ()
    memory_gib: float = 32
    rooms: tuple[Room, ...] = ()
    routes: tuple[Route, ...] = ()
    registries: Mapping[str, str] = field(default_factory=dict)
    """What each client said when it failed, by client; empty text where it reached its registry."""
    cached: frozenset[str] = frozenset()
    """Which of ``pip``, ``go`` and ``apt`` are not needed any more, because what they bring is already here."""
    proxies: Mapping[str, str] = field(default_factory=dict)
    kubeconfigs: tuple[str, ...] = ()
    cluster_runs: bool = False


def _output(*command: str, **environment: str) -> str:
    """Standard output, or nothing where the command fails or is missing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_SECONDS, env=os.environ | environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _failure(command: list[str], **environment: str) -> str:
    """Why the command fails, in one line; empty where it succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PROBE_SECONDS, cwd=folder, env=os.environ | environment
            )
        except FileNotFoundError:
            return f"{command[0]} is not installed"
        except subprocess.TimeoutExpired:
            return f"no answer within {PROBE_SECONDS} s"
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1].strip() if lines else f"exit code {done.returncode}")


def _probe_pip() -> str:
    if uv := uv_command():
        return _failure([uv, "pip", "install", "--dry-run", "--no-deps", "--refresh", "--target", ".", "packaging"])
    pip = [sys.executable, "-m", "pip", "--timeout", "5", "--retries", "0"]
    return _failure([*pip, "download", "--quiet", "--no-deps", "--no-cache-dir", "packaging"])


def _probe_go() -> str:
    if command := golang.own():
        query = [command, "list", "-m", "-versions", "golang.org/x/term"]
        return _failure(query, GOTOOLCHAIN="local", GOFLAGS="-mod=mod")
    proxy = re.split(r"[,|]", os.environ.get("GOPROXY", ""))[0]
    if not proxy.startswith(
        "http"
    ):  # not set, "direct" or "off": what that means Go alone knows, and it is not here yet
        return ""
    try:
        urllib.request.urlopen(f"{proxy}/golang.org/x/term/@v/list", timeout=PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _probe_apt() -> str:
    options = [
        "-oAcquire::Retries=0",
        "-oAcquire::http::Timeout=5",
        "-oAcquire::https::Timeout=5",
        "-oAPT::Sandbox::User=root",
    ]
    return _failure(["apt-get", *options, "-qq", "download", "hostname"])


def _cgroups() -> tuple[str, tuple[str, ...]]:
    root = Path("/sys/fs/cgroup")
    unified = root / "cgroup.controllers"
    if unified.exists():
        there = unified.read_text().split()
        return "v2", tuple(name for name in CONTROLLERS if name not in there)
    there = [path.name for path in root.iterdir()] if root.exists() else []
    split = {part for name in there for part in name.split(",")}
    return ("v1" if "memory" in split else ""), tuple(name for name in CONTROLLERS if name not in split)


def _missing_kernel() -> tuple[str, ...]:
    """Kernel features that are neither built in, loaded, nor there to be loaded as a module."""
    release = Path("/lib/modules") / platform.release()
    known = "".join(
        path.read_text() for name in ("modules.builtin", "modules.dep") if (path := release / name).exists()
    )
    supported = Path("/proc/filesystems").read_text()

    def module(name: str) -> bool:
        return (Path("/sys/module") / name).exists() or re.search(rf"/{name}\.ko", known.replace("-", "_")) is not None

    # Where there is no list of modules the kernel is monolithic: only trying can tell.
    tried = {
        "overlay": "overlay" in supported or module("overlay"),
        "namespaces": all((Path("/proc/self/ns") / name).exists() for name in ("mnt", "net", "pid")),
        "veth": module("veth") or not known,
        "bridge": module("bridge") or not known,
        "br_netfilter": module("br_netfilter") or Path("/proc/sys/net/bridge").exists() or not known,
        "nf_nat": module("nf_nat") or not known,
        "nf_conntrack": module("nf_conntrack") or Path("/proc/sys/net/netfilter").exists(),
    }
    return tuple(name for name, there in tried.items() if not there)


def _room(purpose: str, path: Path) -> Room:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return Room(purpose, str(path), existing.stat().st_dev, shutil.disk_usage(existing).free / GIB)


def _rooms() -> tuple[Room, ...]:
    rooms = [_room("cache", cache()), _room("cluster", STATE), _room("python", STATE.parent / ".venv")]
    go_cache = _output(golang.own() or "go", "env", "GOCACHE", GOTOOLCHAIN="local") or os.environ.get("GOCACHE")
    rooms.append(_room("go", Path(go_cache) if go_cache else user_cache() / "go-build"))
    return tuple(rooms)


def _routes() -> tuple[Route, ...]:
    text = _output("ip", "-json", "route") or "[]"
    return tuple(Route(route["dst"], route.get("dev", "?")) for route in json.loads(text) if route["dst"] != "default")


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError):
        return 0


def _kubeconfigs() -> tuple[str, ...]:
    named = [f"KUBECONFIG={os.environ['KUBECONFIG']}"] if os.environ.get("KUBECONFIG") else []
    return (*named, *(["~/.kube/config"] if (Path.home() / ".kube" / "config").exists() else []))


def _cached() -> frozenset[str]:
    kinds = {"go": "bin-*/pause", "apt": "debs-*/usr"}
    made = {name for name, pattern in kinds.items() if any(cache().glob(pattern))}
    return frozenset(made | ({"pip"} if (STATE.parent / ".venv" / ".recast-stamp").exists() else set()))


def _cluster_runs() -> bool:
    try:
        pid = int((STATE / "node.pid").read_text())
        return b"dev.cluster.node" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def collect() -> Facts:
    """This machine. The registries are asked side by side; each gives up after :data:`PROBE_SECONDS`."""
    everywhere = {
        "system": platform.system(),
        "machine": platform.machine(),
        "python": tuple(sys.version_info[:2]),
        "proxies": {
            name: value for name in PROXY_VARIABLES if (value := os.environ.get(name) or os.environ.get(name.lower()))
        },
        "kubeconfigs": _kubeconfigs(),
    }
    if platform.system() != "Linux":
        return Facts(**everywhere)  # type: ignore[arg-type]
    probes: dict[str, Callable[[], str]] = {"pip": _probe_pip, "go": _probe_go, "apt": _probe_apt}
    with ThreadPoolExecutor() as pool:
        answers = {name: pool.submit(probe) for name, probe in probes.items()}
        cgroups, missing_controllers = _cgroups()
        return Facts(
            **everywhere,  # type: ignore[arg-type]
            root=os.geteuid() == 0,
            sudo=os.geteuid() != 0 and _output("sudo", "-n", "id", "-u") == "0",
            has_pip=bool(uv_command() or _output(sys.executable, "-m", "pip", "--version")),
            go=golang.version(golang.own() or "go"),
            cgroups=cgroups,
            missing_controllers=missing_controllers,
            missing_kernel=_missing_kernel(),
            missing_commands=tuple(
                name for name in COMMANDS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
            ),
            memory_gib=_memory_gib(),
            rooms=_rooms(),
            routes=_routes(),
            cached=_cached(),
            cluster_runs=_cluster_runs(),
            registries={name: answer.result() for name, answer in answers.items()},
        )
