"""The operator's memory of the cluster: every object it watches, never older than the operator's own last write.

Watches run behind. So what a write returns is put here at once, an event that is older than what is known is dropped,
and an object whose write ended without an answer is *in doubt* until it has been read again. Thereby a plan is never
made from a state that the operator itself has already left.

It belongs to the event loop: whoever calls from another thread is refused. An object is kept as the JSON text of what
is read of it (:mod:`recast_operator.compact`), and is found by the model that it belongs to: nobody scans a namespace.
Filled by :mod:`recast_operator.watches`, :mod:`recast_operator.listing` and :mod:`recast_operator.writes`; read by
:mod:`recast_operator.observe`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from recast_operator.adapters.objects import Object, controller_uid
from recast_operator.compact import compact, owner
from recast_operator.keys import Key


class Address(NamedTuple):
    """Where an object is."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Stored:
    """One object in one state."""

    address: Address
    uid: str
    resource_version: str
    generation: int
    model: Key | None
    """The model that it belongs to; None for a model itself, and for what belongs to none."""
    controller_uid: str
    """The UID of the owner that controls it; empty where none does."""
    has_finalizers: bool
    text: str
    """JSON of what is kept."""

    def raw(self) -> Object:
        """What is kept, decoded anew."""
        found: Object = json.loads(self.text)
        return found


def stored(kind: str, raw: Mapping[str, Any]) -> Stored:
    """What is kept of an object."""
    metadata, kept = raw["metadata"], compact(kind, raw)
    return Stored(
        address=Address(kind, metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        model=owner(kind, kept),
        controller_uid=controller_uid(kept),
        has_finalizers=bool(metadata.get("finalizers")),
        text=json.dumps(kept, separators=(",", ":")),
    )


def newer(left: str, right: str) -> bool:
    """Whether resource version ``left`` is newer than ``right``, compared as Kubernetes declares them comparable."""
    try:
        return int(left) > int(right)
    except ValueError:
        return left != right


Listener = Callable[[Address, Stored | None, Stored | None], None]
"""Called with every change: the object as it was and as it is, None where it was not or is not there."""


class Store:
    """Objects by address, and by the model that they belong to. For one thread only."""

    def __init__(self, listener: Listener = lambda address, before, after: None) -> None:
        self._listener = listener
        self._thread = threading.get_ident()
        self._objects: dict[tuple[str, str], dict[str, Stored]] = {}
        self._owned: dict[Key, dict[str, dict[str, Stored]]] = {}
        self._deleted: dict[Address, str] = {}

    def put(self, kind: str, raw: Mapping[str, Any]) -> bool:
        """Take note of an object. False where that is old news."""
        self._check_thread()
        metadata = raw["metadata"]
        address = Address(kind, metadata["namespace"], metadata["name"])
        known = self.get(*address)
        if self._deleted.get(address) == metadata["uid"]:
            return False  # an event from before our deletion
        if known is not None and not newer(metadata["resourceVersion"], known.resource_version):
            return False
        self._replace(address, known, stored(kind, raw))
        return True

    def remove(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        """A watch saw the object with this UID go. False where another has its name by now, or none had."""
        self._check_thread()
        address = Address(kind, namespace, name)
        if self._deleted.get(address) == uid:
            del self._deleted[address]
        known = self.get(*address)
        if known is None or known.uid != uid:
            return False
        self._replace(address, known, None)
        return True

    def deleted(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """We deleted the object with this UID: events about it that are still under way count no more."""
        self._check_thread()
        self._deleted[Address(kind, namespace, name)] = uid
        known = self.get(kind, namespace, name)
        if known is not None and known.uid == uid:
            self._replace(known.address, known, None)

    def complete(self, kind: str, listed: Iterable[str], version: str, namespace: str | None = None) -> int:
        """A listing of one namespace, or of all, is at its end; how many objects it knew to be gone.

        What it lacks by UID is gone, unless it is newer than the listing's resource ``version``.
        """
        self._check_thread()
        uids = frozenset(listed)
        gone = [
            entry
            for (found, space), entries in self._objects.items()
            if found == kind and namespace in (None, space)
            for entry in entries.values()
            if entry.uid not in uids and newer(version, entry.resource_version)
        ]
        for entry in gone:
            self._replace(entry.address, entry, None)
        for address, uid in list(self._deleted.items()):
            if address.kind == kind and namespace in (None, address.namespace) and uid not in uids:
                del self._deleted[address]
        return len(gone)

    def get(self, kind: str, namespace: str, name: str) -> Stored | None:
        """The object as last known."""
        return self._objects.get((kind, namespace), {}).get(name)

    def names(self, kind: str, namespace: str) -> list[str]:
        """Names of all objects of a kind in a namespace, sorted."""
        return sorted(self._objects.get((kind, namespace), {}))

    def owned(self, key: Key, kind: str) -> list[Stored]:
        """The objects of a kind that belong to a model, in order of name."""
        found = self._owned.get(key, {}).get(kind, {})
        return [found[name] for name in sorted(found)]

    def addresses(self, kind: str) -> list[Address]:
        """Addresses of all objects of a kind."""
        return [
            entry.address
            for (found, _), entries in self._objects.items()
            if found == kind
            for entry in entries.values()
        ]

    def _replace(self, address: Address, before: Stored | None, after: Stored | None) -> None:
        space = (address.kind, address.namespace)
        if after is None:
            del self._objects[space][address.name]
            if not self._objects[space]:
                del self._objects[space]
        else:
            self._objects.setdefault(space, {})[address.name] = after
        if before is not None and before.model is not None:
            self._disown(before.model, address)
        if after is not None and after.model is not None:
            self._owned.setdefault(after.model, {}).setdefault(address.kind, {})[address.name] = after
        self._listener(address, before, after)

    def _disown(self, key: Key, address: Address) -> None:
        kinds = self._owned[key]
        del kinds[address.kind][address.name]
        if not kinds[address.kind]:
            del kinds[address.kind]
        if not kinds:
            del self._owned[key]

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("the store belongs to the event loop's thread: call it from a coroutine")


class Doubts:
    """Objects whose last write ended without an answer, by the model whose pass made it: only that one waits."""

    def __init__(self) -> None:
        self._by_key: dict[Key, set[Address]] = {}

    def add(self, key: Key, address: Address) -> None:
        """The write failed, perhaps only on its way back: read the object before planning this model again."""
        self._by_key.setdefault(key, set()).add(address)

    def of(self, key: Key) -> list[Address]:
        """What must be read again before this model is planned."""
        return sorted(self._by_key.get(key, ()))

    def settled(self, key: Key, address: Address) -> None:
        """It was read."""
        left = self._by_key.get(key, set())
        left.discard(address)
        if not left:
            self._by_key.pop(key, None)

    def count(self) -> int:
        """How many objects are in doubt."""
        return sum(len(found) for found in self._by_key.values())
