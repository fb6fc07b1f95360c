"""``python -m dev.doctor``: everything this machine lacks to run Recast, at once, each with its fix.

A check is a function from :class:`~dev.machine.Facts` to findings; reading :data:`CHECKS` is reading the rules. A
problem stops ``make demo``; a warning says what will be slow, ignored or worth knowing.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from dev.cluster import golang
from dev.machine import Facts, collect

OLDEST_PYTHON = (3, 11)
MACHINES = ("x86_64",)
MEMORY_GIB = 6
COMFORTABLE_MEMORY_GIB = 12
NEEDED_GIB = {"cache": 12.0, "cluster": 14.0, "python": 6.0, "go": 5.0}
SUBNETS = tuple(ipaddress.ip_network(f"10.{number}.0.0/16") for number in (213, 214, 215))
BRINGS = {"pip": "the Python environment", "go": "Kubernetes", "apt": "the container runtime"}
FIXES = {
    "pip": "check HTTPS_PROXY, pip.conf and the CA bundle, or set UV_INDEX_URL / PIP_INDEX_URL to a mirror",
    "go": "check HTTPS_PROXY, or set GOPROXY to a mirror",
    "apt": "run `apt-get update`; behind a proxy set Acquire::http::Proxy in /etc/apt/apt.conf.d",
}
OTHER_WAYS = "use a cluster of yours (kind will do): `make demo CONTEXT=<its name in kubectl>`"


@dataclass(frozen=True)
class Finding:
    """What is wrong, and what to do about it."""

    what: str
    fix: str
    stops: bool = True


def check_system(facts: Facts) -> Iterator[Finding]:
    if facts.system != "Linux":
        yield Finding(
            f"this is {facts.system}: the node's containers need a Linux kernel", f"run in a Linux VM, or {OTHER_WAYS}"
        )
    elif facts.machine not in MACHINES:
        yield Finding(f"{facts.machine} has no PyTorch wheels", f"use a machine with {' or '.join(MACHINES)}")


def check_root(facts: Facts) -> Iterator[Finding]:
    if facts.root:
        return
    if facts.sudo:
        yield Finding("not root: namespaces and mounts need it", "`sudo -E make …`")
    else:
        yield Finding(
            "neither root nor passwordless sudo: namespaces and mounts need it", f"become root, or {OTHER_WAYS}"
        )


def check_python(facts: Facts) -> Iterator[Finding]:
    if facts.python < OLDEST_PYTHON:
        yield Finding(
            f"Python {_version(facts.python)}", f"run with python{_version(OLDEST_PYTHON)}: `make PYTHON=python3.11 …`"
        )
    if not facts.has_pip:
        yield Finding(
            "neither uv nor pip",
            "`apt-get install python3-pip python3-venv`, or install uv",
        )


def check_go(facts: Facts) -> Iterator[Finding]:
    if facts.go >= golang.OLDEST or "go" in facts.cached:
        return
    have = f"Go {_version(facts.go)}" if facts.go else "no Go"
    yield Finding(f"{have}: Kubernetes is built with {golang.WHEEL} from PyPI", "nothing to do", stops=False)


def check_kernel(facts: Facts) -> Iterator[Finding]:
    if not facts.cgroups:
        yield Finding(
            "no cgroups at /sys/fs/cgroup",
            "mount them (`mount -t cgroup2 none /sys/fs/cgroup`), or leave this container",
        )
    elif facts.missing_controllers:
        names = ", ".join(facts.missing_controllers)
        yield Finding(
            f"cgroup controllers missing: {names}", "enable them on the kernel's command line, or leave this container"
        )
    if facts.missing_kernel:
        yield Finding(
            f"the kernel lacks {', '.join(facts.missing_kernel)}", f"`modprobe -a {' '.join(facts.missing_kernel)}`"
        )


def check_commands(facts: Facts) -> Iterator[Finding]:
    if facts.missing_commands:
        debian = "apt-get" not in facts.missing_commands
        fix = (
            "`apt-get install iproute2 mount util-linux openssl wget`"
            if debian
            else f"use Debian or Ubuntu, or {OTHER_WAYS}"
        )
        yield Finding(f"commands missing: {', '.join(facts.missing_commands)}", fix)


def check_memory(facts: Facts) -> Iterator[Finding]:
    if facts.memory_gib < MEMORY_GIB:
        yield Finding(
            f"{facts.memory_gib:.1f} GiB of memory, {MEMORY_GIB} are needed", f"use a larger machine, or {OTHER_WAYS}"
        )
    elif facts.memory_gib < COMFORTABLE_MEMORY_GIB:
        text = f"{facts.memory_gib:.1f} GiB of memory: building Kubernetes and training will swap"
        yield Finding(text, f"{COMFORTABLE_MEMORY_GIB} GiB are comfortable", stops=False)


def check_disk(facts: Facts) -> Iterator[Finding]:
    """Places on one file system share what is free there."""
    if facts.cluster_runs:  # what it needs is already written
        return
    by_device = sorted(facts.rooms, key=lambda room: room.device)
    for _, group in groupby(by_device, key=lambda room: room.device):
        rooms = [room for room in group if room.purpose not in facts.cached]
        needed = sum(NEEDED_GIB[room.purpose] for room in rooms)
        if rooms and rooms[0].free_gib < needed:
            list_ = ", ".join(f"{NEEDED_GIB[room.purpose]:.0f} for {room.purpose} ({room.path})" for room in rooms)
            text = f"{rooms[0].free_gib:.1f} GiB free on one file system, {needed:.0f} are needed: {list_}"
            yield Finding(text, "free some, or move the cache with RECAST_CACHE and Go's with GOCACHE")


def check_subnets(facts: Facts) -> Iterator[Finding]:
    """A cluster takes one small slice of each subnet and moves aside by itself, unless a whole subnet is taken."""
    for route in facts.routes:
        taken = ipaddress.ip_network(route.network, strict=False)
        for subnet in SUBNETS:
            if taken.version == subnet.version and subnet.subnet_of(taken):  # type: ignore[arg-type]
                text = f"{subnet}, which the cluster uses, is inside {taken}, which {route.interface} owns"
                yield Finding(
                    text, f"disconnect {route.interface} (a VPN?) while the cluster runs, or narrow its route"
                )


def check_registries(facts: Facts) -> Iterator[Finding]:
    for client, failure in facts.registries.items():
        if failure:
            have = client in facts.cached
            text = f"{client} cannot reach its registry: {failure}"
            yield Finding(
                text + (" (not needed now: what it brings is here)" if have else f"; it brings {BRINGS[client]}"),
                FIXES[client],
                stops=not have,
            )


def check_surroundings(facts: Facts) -> Iterator[Finding]:
    for name in facts.kubeconfigs:
        yield Finding(f"{name} is ignored", "name its context to use it: `make demo CONTEXT=<name>`", stops=False)
    if facts.proxies:
        names = ", ".join(sorted(facts.proxies))
        yield Finding(f"{names} set: passed on to builds, not to the cluster", "nothing to do", stops=False)


CHECKS: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    check_system,
    check_root,
    check_python,
    check_go,
    check_kernel,
    check_commands,
    check_memory,
    check_disk,
    check_subnets,
    check_registries,
    check_surroundings,
)
ANYWHERE = (check_system, check_python, check_surroundings)


def diagnose(facts: Facts) -> list[Finding]:
    """All findings, problems first. Off Linux only what holds anywhere is judged: the rest is about the node."""
    checks = CHECKS if facts.system == "Linux" else ANYWHERE
    return sorted((finding for check in checks for finding in check(facts)), key=lambda finding: not finding.stops)


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def main() -> int:
    """Print the findings; 1 where a problem stops the work."""
    parser = argparse.ArgumentParser(prog="python -m dev.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    options = parser.parse_args()
    findings = diagnose(collect())
    problems = sum(finding.stops for finding in findings)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
        return 1 if problems else 0
    for finding in findings:
        print(f"{'PROBLEM' if finding.stops else 'note   '}  {finding.what}\n         fix: {finding.fix}")
    print(f"doctor: {problems} problems" if problems else "doctor: this machine can run Recast")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
