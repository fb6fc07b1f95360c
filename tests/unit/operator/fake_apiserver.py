"""An apiserver in memory, as strict as the real one about identities, and as hostile as a test scripts it.

A request first meets what is scripted for its like: somebody else writes before it, it is refused, or the line is cut
before its answer. What nothing is scripted for is carried out.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from recast_api.names import FIELD_MANAGER
from recast_operator.adapters.errors import Conflict, Invalid, NotFound, OutsideError, Transient
from recast_operator.adapters.kube import APPLY, BY_KIND, Request

Object = dict[str, Any]
BY_PLURAL = {resource.plural: resource for resource in BY_KIND.values()}
Before = Callable[[], Awaitable[None]]


class FakeApiserver:
    """A :class:`Requester`. ``log`` has every request as ``METHOD plural/name/subresource``."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.log: list[str] = []
        self._alone: dict[tuple[str, str, str], Object] = {}
        """Metadata of others' objects, as it was before we applied anything to them."""
        self._clock = itertools.count(100)
        self._uids = itertools.count(1)
        self._script: dict[str, list[tuple[str, Any]]] = {}

    def before(self, label: str, action: Before) -> None:
        """Await ``action`` before the next request of this label is carried out."""
        self._script.setdefault(label, []).append(("before", action))

    def refuse(self, label: str, error: OutsideError) -> None:
        """Answer the next request of this label with an error, and do nothing."""
        self._script.setdefault(label, []).append(("refuse", error))

    def lose_answer(self, label: str) -> None:
        """Carry the next request of this label out, and cut the line before its answer."""
        self._script.setdefault(label, []).append(("lose", None))

    def writes(self) -> list[str]:
        """What was to change something, events aside."""
        return [entry for entry in self.log if not entry.startswith("GET") and not entry.startswith("POST events")]

    def seed(self, kind: str, namespace: str, name: str, **parts: Any) -> Object:
        """Somebody else makes an object."""
        metadata = {"name": name, "namespace": namespace, **parts.pop("metadata", {})}
        return self._store(kind, {**parts, "metadata": metadata}, manager="somebody")

    def change(self, kind: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Somebody else writes."""
        raw = copy.deepcopy(self.objects[kind, namespace, name])
        change(raw)
        return self._store(kind, raw, manager="somebody")

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Somebody else deletes."""
        del self.objects[kind, namespace, name]

    async def send(self, request: Request) -> Any:
        """Answer."""
        kind, namespace, name, subresource = _split(request.path)
        label = " ".join([request.method, "/".join(part for part in (BY_KIND[kind].plural, name, subresource) if part)])
        self.log.append(label)
        waiting = self._script.get(label) or []
        lost = False
        if waiting:
            what, how = waiting.pop(0)
            if what == "before":
                await how()
            elif what == "refuse":
                raise how
            else:
                lost = True
        answer = copy.deepcopy(self._answer(request, kind, namespace, name, subresource))
        if lost:
            raise Transient(f"{label}: the answer was lost", unknown_outcome=True)
        return answer

    def _answer(self, request: Request, kind: str, namespace: str, name: str, subresource: str) -> Object:
        body = copy.deepcopy(request.body) or {}
        if request.method == "POST":
            if kind == "Event":
                name = f"event-{next(self._uids)}"
            return self._create(kind, namespace, body["metadata"].get("name", name), body)
        if request.method == "GET" and not name:
            return self._list(kind, namespace, (request.params or {}).get("labelSelector", ""))
        known = self.objects.get((kind, namespace, name))
        if request.method == "PATCH" and request.content_type == APPLY:
            return self._apply(request, kind, namespace, name, body)
        if known is None:
            raise NotFound(f"{kind} {namespace}/{name}", status=404)
        if request.method == "GET":
            return known
        if request.method == "DELETE":
            self._check(known, body["preconditions"]["uid"], None)
            del self.objects[kind, namespace, name]
            return {"kind": "Status"}
        metadata = body.get("metadata", {})
        self._check(known, metadata.get("uid"), metadata.get("resourceVersion"))
        changed = copy.deepcopy(known)
        if request.method == "PUT" and subresource == "status":
            changed["status"] = body["status"]
        else:
            changed["spec"] |= body.get("spec", {})
            changed["metadata"] |= {key: value for key, value in metadata.items() if key != "resourceVersion"}
        made = self._store(kind, changed)
        if made["metadata"].get("deletionTimestamp") and not made["metadata"].get("finalizers"):
            del self.objects[kind, namespace, name]
        return made

    def _list(self, kind: str, namespace: str, selector: str) -> Object:
        """All of a namespace on one page; a selector is one ``key=value``."""
        label, _, value = selector.partition("=")
        there = [raw for (found, space, _), raw in self.objects.items() if (found, space) == (kind, namespace)]
        items = [raw for raw in there if not label or (raw["metadata"].get("labels") or {}).get(label) == value]
        return {"metadata": {"resourceVersion": str(next(self._clock))}, "items": items}

    def _create(self, kind: str, namespace: str, name: str, body: Object) -> Object:
        if (kind, namespace, name) in self.objects:
            raise Conflict(f"{kind} {namespace}/{name} already exists", status=409)
        body["metadata"] |= {"name": name, "namespace": namespace}
        return self._store(kind, body)

    def _apply(self, request: Request, kind: str, namespace: str, name: str, body: Object) -> Object:
        known, uid = self.objects.get((kind, namespace, name)), body["metadata"].get("uid")
        if known is None:
            if uid is not None:
                raise Conflict("uid mismatch: no existing object was found", status=409)
            return self._create(kind, namespace, name, body)
        self._check(known, uid, None)
        spec = body.get("spec")
        theirs = [entry for entry in known["metadata"]["managedFields"] if entry["manager"] != FIELD_MANAGER]
        if theirs and spec is not None and spec != known.get("spec") and (request.params or {})["force"] == "false":
            raise Conflict("Apply failed with 1 conflict", status=409)
        changed = copy.deepcopy(known)
        if spec is None:  # nothing is applied: what only we managed goes
            alone = self._alone[kind, namespace, name]
            return self._store(kind, {**changed, "metadata": {**alone, "managedFields": theirs}}, manager=None)
        if FIELD_MANAGER not in {entry["manager"] for entry in known["metadata"]["managedFields"]}:
            self._alone[kind, namespace, name] = copy.deepcopy(known["metadata"])
        changed["spec"] = spec
        changed["metadata"] |= {key: value for key, value in body["metadata"].items() if key != "uid"}
        return self._store(kind, changed)

    def _check(self, known: Object, uid: str | None, version: str | None) -> None:
        if uid is not None and uid != known["metadata"]["uid"]:
            raise Conflict("Precondition failed: UID in precondition", status=409)
        if version is not None and version != known["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified", status=409)

    def _store(self, kind: str, raw: Object, manager: str | None = FIELD_MANAGER) -> Object:
        metadata = raw["metadata"]
        place = (kind, metadata["namespace"], metadata["name"])
        before = self.objects.get(place)
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata["resourceVersion"] = str(next(self._clock))
        metadata.setdefault("generation", 1)
        if before is not None and before.get("spec") != raw.get("spec"):
            metadata["generation"] += 1
        managers = metadata.setdefault("managedFields", [])
        if manager is not None and manager not in {entry["manager"] for entry in managers}:
            managers.append({"manager": manager})
        self.objects[place] = {**raw, "kind": kind, "apiVersion": BY_KIND[kind].api_version}
        return copy.deepcopy(self.objects[place])


def _split(path: str) -> tuple[str, str, str, str]:
    """Kind, namespace, name and subresource of a path below a namespace; the last two may be empty."""
    parts = path.split("/")
    start = parts.index("namespaces")
    namespace, plural, *rest = parts[start + 1 :]
    if plural not in BY_PLURAL:
        raise Invalid(f"no such kind: {path}")
    name, subresource = [*rest, "", ""][:2]
    return BY_PLURAL[plural].kind, namespace, name, subresource
