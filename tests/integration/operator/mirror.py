"""The cluster as it is, in whole objects: what everybody but the operator looks at.

What others write reaches the operator's memory at once, as a watch without delay would tell it. What the operator wrote
reaches the operator by its own means alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from recast_operator.store import newer

Object = dict[str, Any]


class Mirror:
    """Whole objects of one namespace by kind and name. ``put_there`` and ``remove_there`` tell the operator."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Object]] = {}
        self.put_there: Callable[[str, Object], object] = lambda kind, raw: None
        self.remove_there: Callable[[str, str, str, str], object] = lambda kind, namespace, name, uid: None

    def note(self, kind: str, raw: Object) -> None:
        """The operator wrote or read this."""
        known = self.get(kind, raw["metadata"]["name"])
        if known is None or newer(raw["metadata"]["resourceVersion"], known["metadata"]["resourceVersion"]):
            self._objects.setdefault(kind, {})[raw["metadata"]["name"]] = raw

    def forget(self, kind: str, name: str) -> None:
        """The operator deleted this."""
        self._objects.get(kind, {}).pop(name, None)

    def put(self, kind: str, raw: Object) -> None:
        """Somebody else wrote this."""
        self.note(kind, raw)
        self.put_there(kind, raw)

    def remove(self, kind: str, name: str) -> None:
        """Somebody else deleted this."""
        raw = self._objects[kind].pop(name)
        self.remove_there(kind, raw["metadata"]["namespace"], name, raw["metadata"]["uid"])

    def get(self, kind: str, name: str) -> Object | None:
        return self._objects.get(kind, {}).get(name)

    def of(self, kind: str) -> Iterator[Object]:
        """All of a kind, in order of name."""
        found = self._objects.get(kind, {})
        return (found[name] for name in sorted(found))
