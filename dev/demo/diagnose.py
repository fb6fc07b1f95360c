"""What a person needs when a wait runs out: conditions, unready pods and their logs, events, the operator's log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dev.demo.target import SYSTEM_NAMESPACE, Cluster
from recast_api.resources import ExpertModel, FoundationModel
from recast_cli import words
from recast_cli.world import World

_TAIL = "25"


def report(cluster: Cluster, world: World) -> str:
    """The facts, as text. Never raises: what cannot be read is left out."""
    return "\n".join([*_conditions(world), *_pods(cluster), *_events(cluster), *_operator(cluster)])


def _conditions(world: World) -> Iterator[str]:
    yield "--- conditions"
    models: list[FoundationModel | ExpertModel] = [*world.foundations, *world.experts]
    for resource in models:
        name = f"{resource.kind} {resource.metadata.name}"
        for entry in resource.status.conditions:
            yield f"{name}  {entry.type}={entry.status} {entry.reason}: {entry.message}"
    for version in world.versions:
        verdict = words.condition(version.status.conditions, "Accepted")
        if verdict and verdict.status == "False":
            yield f"ModelVersion {version.metadata.name}  {verdict.reason}: {verdict.message}"


def _pods(cluster: Cluster) -> Iterator[str]:
    for pod in _items(cluster, "pods", "-n", cluster.namespace):
        name, status = pod["metadata"]["name"], pod.get("status", {})
        containers = status.get("containerStatuses", [])
        if status.get("phase") == "Succeeded" or (containers and all(entry["ready"] for entry in containers)):
            continue
        states = [f"{entry['name']}: {entry.get('state')}" for entry in containers]
        yield f"--- pod {name} is {status.get('phase')}  {'; '.join(states)}"
        yield cluster.run("logs", "-n", cluster.namespace, name, "--tail", _TAIL, check=False).rstrip()


def _events(cluster: Cluster) -> Iterator[str]:
    yield "--- events (newest last)"
    events = _items(cluster, "events", "-n", cluster.namespace, "--sort-by", ".lastTimestamp")
    for event in [event for event in events if event.get("type") == "Warning"][-20:]:
        yield f"{event['involvedObject'].get('name')}  {event.get('reason')}: {event.get('message', '')[:300]}"


def _operator(cluster: Cluster) -> Iterator[str]:
    yield "--- operator log"
    for pod in _items(cluster, "pods", "-n", SYSTEM_NAMESPACE):
        yield cluster.run("logs", "-n", SYSTEM_NAMESPACE, pod["metadata"]["name"], "--tail", "40", check=False).rstrip()


def _items(cluster: Cluster, *what: str) -> list[dict[str, Any]]:
    try:
        items: list[dict[str, Any]] = cluster.get(*what)["items"]
    except Exception:  # the cluster may be what is broken
        return []
    return items
