"""From remembered objects to the frozen snapshot that planning reads, and the identities that its writes must find.

Nothing here decides, and nothing here scans: a snapshot costs what belongs to its own model, and for a foundation one
small value for each of its experts (:mod:`recast_operator.fleet`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.adapters.objects import Object
from recast_operator.child_objects import observed_children
from recast_operator.children.kinds import COMPANIONS
from recast_operator.fleet import Fleet
from recast_operator.keys import Key
from recast_operator.parsing import Parser
from recast_operator.planning.projections import foundation_view
from recast_operator.planning.snapshot import Children, FoundationView, ObservedExpert, ObservedFoundation
from recast_operator.store import Address, Store, Stored

ObservedT = TypeVar("ObservedT", ObservedFoundation, ObservedExpert)
OWNED_KINDS = ("ModelVersion", "Job", "Deployment", "Pod", *COMPANIONS)


@dataclass(frozen=True)
class Snapshot(Generic[ObservedT]):
    """What planning sees, and which objects in which states that was: writes go to these, or fail."""

    observed: ObservedT
    objects: Mapping[Address, Stored]
    """The model, its versions and its children."""


class Observer:
    """Makes snapshots from a :class:`Store` and the fleet beside it."""

    def __init__(self, store: Store, parser: Parser, fleet: Fleet) -> None:
        self._store = store
        self._parser = parser
        self._fleet = fleet

    def foundation(self, key: Key) -> Snapshot[ObservedFoundation] | None:
        """The snapshot for a foundation; None where it is gone. Raises :class:`Invalid` for one that cannot be read."""
        entry = self._store.get(*key)
        if entry is None:
            return None
        found = self._parser.read(FoundationModel, entry)
        versions, unreadable = self._versions(key)
        observed = ObservedFoundation(
            model=found.model,
            doubts=found.doubts,
            versions=versions,
            unreadable_versions=unreadable,
            children=self._children(key),
            experts=self._fleet.experts(key.namespace, key.name),
        )
        return Snapshot(observed, self._objects(key, entry))

    def expert(self, key: Key) -> Snapshot[ObservedExpert] | None:
        """The snapshot for an expert, without samples; None where it is gone. Raises :class:`Invalid`."""
        entry = self._store.get(*key)
        if entry is None:
            return None
        found = self._parser.read(ExpertModel, entry)
        model = found.model
        views, unreadable = self._views(key.namespace, foundations_of(model), key.name)
        versions, unreadable_versions = self._versions(key)
        observed = ObservedExpert(
            model=model,
            doubts=found.doubts,
            versions=versions,
            unreadable_versions=unreadable_versions,
            children=self._children(key),
            foundations=views,
            unreadable_foundations=frozenset(unreadable),
            foundation_names=tuple(self._store.names("FoundationModel", key.namespace)),
            foundation_versions=tuple(
                version
                for name in sorted(views)
                for version in self._versions(Key("FoundationModel", key.namespace, name))[0]
            ),
        )
        return Snapshot(observed, self._objects(key, entry))

    def _objects(self, key: Key, entry: Stored) -> Mapping[Address, Stored]:
        belonging = (item for kind in OWNED_KINDS for item in self._store.owned(key, kind))
        return {item.address: item for item in (entry, *belonging)}

    def _views(self, namespace: str, names: set[str], expert: str) -> tuple[dict[str, FoundationView], list[str]]:
        views: dict[str, FoundationView] = {}
        unreadable: list[str] = []
        for name in sorted(names):
            entry = self._store.get("FoundationModel", namespace, name)
            if entry is None:
                continue
            try:
                views[name] = foundation_view(self._parser.read(FoundationModel, entry).model, expert)
            except Invalid:
                unreadable.append(name)
        return views, unreadable

    def _versions(self, key: Key) -> tuple[tuple[ModelVersion, ...], tuple[str, ...]]:
        """Those that can be read, and the names of those that cannot: another's mistake must not stop a pass."""
        versions: list[ModelVersion] = []
        unreadable: list[str] = []
        for entry in self._store.owned(key, "ModelVersion"):
            try:
                versions.append(self._parser.read(ModelVersion, entry).model)
            except Invalid:
                unreadable.append(entry.address.name)
        return tuple(versions), tuple(unreadable)

    def _children(self, key: Key) -> Children:
        return observed_children(
            self._raw(key, "Job"), self._raw(key, "Deployment"), self._raw(key, *COMPANIONS), self._raw(key, "Pod")
        )

    def _raw(self, key: Key, *kinds: str) -> list[Object]:
        return [entry.raw() for kind in kinds for entry in self._store.owned(key, kind)]


def foundations_of(expert: ExpertModel) -> set[str]:
    """The foundations that an expert refers to, or is pinned to by what it serves."""
    served = (expert.status.stable, expert.status.canary)
    return {expert.spec.foundation_ref.name} | {item.foundation.name for item in served if item is not None}
