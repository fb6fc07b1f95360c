"""The operator's memory of the cluster: every object it watches, never older than the operator's own last write.

Watches run behind. So what a write returns is put here at once, an event that is older than what is known is dropped,
and an object whose write ended without an answer is *in doubt* until it has been read again. Thereby a plan is never
made from a state that the operator itself has already left. Filled by :mod:`recast_operator.entry` (watches) and
:mod:`recast_operator.controller` (writes); read by :mod:`recast_operator.observe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]

Address = tuple[str, str, str]
"""Kind, namespace, name."""


def newer(left: str, right: str) -> bool:
    """Whether resource version ``left`` is newer than ``right``, compared as Kubernetes declares them comparable."""
    try:
        return int(left) > int(right)
    except ValueError:
        return left != right


def slim(kind: str, raw: Object) -> Object:
    """The part of an object that is worth keeping: a fleet's pods and templates would otherwise fill the memory."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    kept = {**raw, "kind": kind, "metadata": metadata}
    if kind in ("Job", "Deployment"):
        kept["spec"] = {key: value for key, value in raw.get("spec", {}).items() if key != "template"}
    elif kind == "Pod":
        containers = raw.get("spec", {}).get("containers") or []
        kept["spec"] = {"containers": [{"image": item.get("image", "")} for item in containers]}
    return kept


Listener = Callable[[str, Object], None]
"""Told of every change: the kind and the object, as it was and as it is."""


class Store:
    """Objects by kind, namespace and name, as JSON."""

    def __init__(self, listener: Listener = lambda kind, raw: None) -> None:
        self._listener = listener
        self._objects: dict[str, dict[str, dict[str, Object]]] = {}
        self._deleted: dict[Address, str] = {}
        self._doubts: set[Address] = set()

    def put(self, kind: str, raw: Object) -> bool:
        """Take note of an object. False where that is old news."""
        metadata = raw["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        address = (kind, namespace, name)
        known = self.get(kind, namespace, name)
        if self._deleted.get(address) == metadata["uid"]:
            return False  # an event from before our deletion
        if known is not None and not newer(metadata["resourceVersion"], known["metadata"]["resourceVersion"]):
            return False
        self._deleted.pop(address, None)
        kept = slim(kind, raw)
        self._objects.setdefault(kind, {}).setdefault(namespace, {})[name] = kept
        if known is not None:
            self._listener(kind, known)  # it may have concerned others than it does now
        self._listener(kind, kept)
        return True

    def remove(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        """A watch saw the object with this UID go. False where another has its name by now, or none had."""
        if self._deleted.get((kind, namespace, name)) == uid:
            del self._deleted[kind, namespace, name]
        known = self.get(kind, namespace, name)
        if known is None or known["metadata"]["uid"] != uid:
            return False
        del self._objects[kind][namespace][name]
        self._listener(kind, known)
        return True

    def deleted(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """We deleted the object with this UID: events about it that are still under way count no more."""
        self._deleted[kind, namespace, name] = uid
        known = self.get(kind, namespace, name)
        if known is not None and known["metadata"]["uid"] == uid:
            del self._objects[kind][namespace][name]
            self._listener(kind, known)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object as last known."""
        return self._objects.get(kind, {}).get(namespace, {}).get(name)

    def of(self, kind: str, namespace: str) -> Iterator[Object]:
        """The objects of a kind in a namespace, in order of name."""
        found = self._objects.get(kind, {}).get(namespace, {})
        return (found[name] for name in sorted(found))

    def replace_all(self, kind: str, found: list[Object], version: str, namespace: str | None = None) -> int:
        """Take over a complete listing, of one namespace or of all; how many objects it knew better than the watch.

        What the listing lacks is gone, unless it is newer than the listing's ``version``.
        """
        better = sum([self.put(kind, raw) for raw in found])
        listed = {raw["metadata"]["uid"] for raw in found}
        for name in [namespace] if namespace is not None else list(self._objects.get(kind, {})):
            for raw in list(self.of(kind, name)):
                metadata = raw["metadata"]
                if metadata["uid"] not in listed and newer(version, metadata["resourceVersion"]):
                    better += self.remove(kind, name, metadata["name"], metadata["uid"])
        return better

    def namespaces(self, kind: str) -> list[str]:
        """Namespaces that have an object of this kind."""
        return [namespace for namespace, objects in self._objects.get(kind, {}).items() if objects]

    def doubt(self, kind: str, namespace: str, name: str) -> None:
        """A write of this object failed, perhaps only in the telling: read it before planning with it."""
        self._doubts.add((kind, namespace, name))

    def doubts(self, namespace: str) -> list[Address]:
        """What must be read again before anything of this namespace is planned."""
        return sorted(address for address in self._doubts if address[1] == namespace)

    def settle(self, address: Address, found: Object | None) -> None:
        """The doubted object was read: here it is, or there is none."""
        kind, namespace, name = address
        known = self.get(kind, namespace, name)
        if found is not None:
            self.put(kind, found)
        elif known is not None:
            self.remove(kind, namespace, name, known["metadata"]["uid"])
        self._doubts.discard(address)
