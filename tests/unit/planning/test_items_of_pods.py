"""A file of new items in the pods of both kinds: mounted to be read alone, and told to the server as mounted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

IMAGE = {"image": "server:1"}
ITEMS = {"persistentVolumeClaim": {"claimName": "events"}, "path": "stream/items.parquet", "everySeconds": 5}


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Of the foundation and of its expert."""
    cluster.until(lambda c: {name[:2] for name in c.deployments} == {"fm", "em"})
    return [cluster.deployments[name].body["spec"]["template"]["spec"] for name in sorted(cluster.deployments)]


def told(pod: dict[str, Any]) -> dict[str, Any]:
    (text,) = (entry["value"] for entry in pod["containers"][0]["env"] if entry["name"] == "RECAST_SERVER")
    found: dict[str, Any] = json.loads(text)
    return found


def test_both_kinds_of_servers_are_told_of_the_file_and_may_only_read_it() -> None:
    serving = {**IMAGE, "items": ITEMS}
    for pod in pods(Cluster(foundation(serving=serving), expert("reels", serving=serving))):
        assert told(pod)["items"] == {"path": "/var/recast/items/stream/items.parquet", "everySeconds": 5}
        claim = {"claimName": "events", "readOnly": True}
        assert {"name": "items", "persistentVolumeClaim": claim} in pod["volumes"]
        (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "items")
        assert mount == {"name": "items", "mountPath": "/var/recast/items", "readOnly": True}


@pytest.mark.parametrize("serving", [IMAGE, {**IMAGE, "items": None}])
def test_without_a_file_nothing_is_said_or_mounted(serving: dict[str, Any]) -> None:
    for pod in pods(Cluster(foundation(serving=serving), expert("reels", serving=serving))):
        assert "items" not in told(pod)
        assert {volume["name"] for volume in pod["volumes"]} == {"models", "tmp"}


def test_servers_look_once_a_minute_where_nothing_else_is_said() -> None:
    items = {name: value for name, value in ITEMS.items() if name != "everySeconds"}
    for pod in pods(Cluster(foundation(serving={**IMAGE, "items": items}), expert("reels"))):
        if "items" in told(pod):
            assert told(pod)["items"]["everySeconds"] == 60
