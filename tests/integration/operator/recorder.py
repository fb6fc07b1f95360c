"""The operator's line to the apiserver in a test: counts every write, and cuts the operator down at the wished ones."""

from __future__ import annotations

from typing import Any

from recast_operator.adapters.errors import Transient
from recast_operator.adapters.kube import BY_KIND, Request, Requester
from tests.integration.operator.mirror import Mirror

Object = dict[str, Any]
Point = tuple[str, int, str]


class Crash(Exception):  # noqa: N818
    """The operator's process ends here."""


class Recorder:
    """The operator's line to the apiserver: remembers every write, and cuts it at the wished points.

    A point is ``(label, occurrence, when)``: the n-th write of that kind on that object. ``before`` or ``after`` it the
    operator dies; where it is ``lost``, the write is made, and the operator lives on without having heard of it.
    """

    def __init__(self, requester: Requester, namespace: str, cuts: frozenset[Point], mirror: Mirror) -> None:
        self._requester = requester
        self._namespace = namespace
        self._cuts = set(cuts)
        self._mirror = mirror
        self._counts: dict[str, int] = {}
        self.writes: list[tuple[str, int]] = []
        self.jobs_created: list[str] = []
        self.events: list[tuple[str, str, str]] = []

    @property
    def left(self) -> set[Point]:
        """Points that were never reached."""
        return self._cuts

    async def send(self, request: Request) -> Any:
        method, path, body = request.method, request.path, request.body
        if method == "GET" or path.endswith("/events"):
            made = await self._requester.send(request)
            if path.endswith("/events") and body is not None:
                self.events.append((body["regarding"]["name"], body["reason"], body["note"]))
            return made
        name = body["metadata"]["name"] if body and method == "POST" else ""
        label = f"{method} {path.replace(self._namespace, '*')}{'/' + name if name else ''}"
        occurrence = self._counts.get(label, 0)
        self._cut(label, occurrence, "before")
        made = await self._requester.send(request)
        await self._reflect(request, made)
        self._counts[label] = occurrence + 1
        self.writes.append((label, occurrence))
        if method == "POST" and path.endswith("/jobs"):
            self.jobs_created.append(name)
        self._cut(label, occurrence, "after")
        if (label, occurrence, "lost") in self._cuts:
            self._cuts.discard((label, occurrence, "lost"))
            raise Transient(f"the answer to {label} was lost", unknown_outcome=True)
        return made

    async def _reflect(self, request: Request, made: Any) -> None:
        """Show everybody else what was written."""
        if request.path.endswith("/scale"):
            made = await self._requester.send(Request("GET", request.path.removesuffix("/scale")))
        kind, name = made.get("kind"), made.get("metadata", {}).get("name") or request.path.rpartition("/")[2]
        if request.method == "DELETE":
            plural = request.path.split("/")[-2]
            self._mirror.forget(next(item.kind for item in BY_KIND.values() if item.plural == plural), name)
        elif kind in BY_KIND:
            self._mirror.note(kind, made)

    def _cut(self, label: str, occurrence: int, when: str) -> None:
        if (label, occurrence, when) in self._cuts:
            self._cuts.discard((label, occurrence, when))
            raise Crash(f"{when} {label}")
