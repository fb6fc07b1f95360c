"""Experts by the foundation that they read: what a foundation's pass sees of its fleet, kept up to date by changes.

A foundation's pass reads the :class:`FleetMember` of each of its experts, and parses none of them.
"""

from __future__ import annotations

from recast_operator.planning.snapshot import FleetMember


class Fleet:
    """All experts, as their foundations see them."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], FleetMember] = {}
        self._readers: dict[tuple[str, str], dict[str, FleetMember]] = {}
        self._unreadable: dict[str, dict[str, FleetMember]] = {}

    def put(self, namespace: str, name: str, member: FleetMember | None) -> FleetMember | None:
        """An expert as it is now, None where it is gone; as it was before."""
        before = self._members.pop((namespace, name), None)
        if before is not None:
            for foundation in foundations(before):
                del self._readers[namespace, foundation][name]
                if not self._readers[namespace, foundation]:
                    del self._readers[namespace, foundation]
            self._unreadable.get(namespace, {}).pop(name, None)
        if member is not None:
            self._members[namespace, name] = member
            for foundation in foundations(member):
                self._readers.setdefault((namespace, foundation), {})[name] = member
            if not member.readable:
                self._unreadable.setdefault(namespace, {})[name] = member
        return before

    def experts(self, namespace: str, foundation: str) -> tuple[FleetMember, ...]:
        """Those that refer to a foundation or are pinned to it, and all that cannot be read; in order of name."""
        found = {**self._readers.get((namespace, foundation), {}), **self._unreadable.get(namespace, {})}
        return tuple(found[name] for name in sorted(found))

    def readers(self, namespace: str, foundation: str) -> frozenset[str]:
        """Names of the experts that refer to a foundation or are pinned to it."""
        return frozenset(self._readers.get((namespace, foundation), {}))

    def read(self, namespace: str) -> list[str]:
        """Names of all foundations that an expert of the namespace refers to or is pinned to."""
        return [name for space, name in self._readers if space == namespace]


def foundations(member: FleetMember) -> frozenset[str]:
    """The foundations that an expert refers to, or is pinned to."""
    return frozenset({member.foundation, *(pin.name for pin in member.pins)} - {""})
