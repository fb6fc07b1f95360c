"""From a change of one object to the models that must be looked at again.

A model's own change, and one of its versions or children, wakes the model. The other side is woken only where its
*projection* has changed (:mod:`recast_operator.planning.projections`): a foundation where the expert's
:class:`FleetMember` differs, an expert where its :class:`FoundationView` does, or the verdict on a foundation version
that it may read. What changed for all experts alike is found once, and who gained or lost a slot is a set difference,
so that a foundation's write costs nothing for the experts that it does not concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_operator.adapters.errors import Invalid
from recast_operator.fleet import Fleet, foundations
from recast_operator.keys import Key
from recast_operator.parsing import Parser
from recast_operator.planning.projections import fleet_member, foundation_view, unreadable_member
from recast_operator.planning.snapshot import FleetMember, FoundationView
from recast_operator.planning.versions.verdict import rejected
from recast_operator.store import Address, Stored

NOBODY = ""
"""No expert has this name: a foundation as it looks to an expert that is no pilot and holds no slot."""


@dataclass(frozen=True)
class _Foundation:
    """What its experts read of a foundation, all at once."""

    shared: FoundationView | None
    """None: this operator cannot read it."""
    pilots: frozenset[str] = frozenset()
    granted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Version:
    """What experts read of a foundation's version beside what never changes."""

    uid: str
    number: int
    rejected: bool


class Wakeups:
    """Listens to a store, keeps its fleet up to date, and calls ``wake`` with each key that a change concerns."""

    def __init__(self, parser: Parser, fleet: Fleet, wake: Callable[[Key], None]) -> None:
        self._parser = parser
        self._fleet = fleet
        self._wake = wake
        self._foundations: dict[tuple[str, str], _Foundation] = {}
        self._versions: dict[Address, _Version] = {}

    def changed(self, address: Address, before: Stored | None, after: Stored | None) -> None:
        """The store's listener."""
        if address.kind == "FoundationModel":
            self._wake(Key("FoundationModel", address.namespace, address.name))
            self._foundation_changed(address, after)
        elif address.kind == "ExpertModel":
            self._wake(Key("ExpertModel", address.namespace, address.name))
            self._expert_changed(address, after)
        for model in {entry.model for entry in (before, after) if entry is not None} - {None}:
            assert model is not None
            self._wake(model)  # it may have belonged to another than it does now
            if address.kind == "ModelVersion" and model.kind == "FoundationModel":
                self._version_changed(address, model, after if after is not None and after.model == model else None)
        if before is not None and (after is None or after.uid != before.uid):
            self._parser.forget(address.kind, before.uid)

    def _expert_changed(self, address: Address, after: Stored | None) -> None:
        member = self._member(after) if after is not None else None
        before = self._fleet.put(address.namespace, address.name, member)
        if before == member:
            return
        sides = [entry for entry in (before, member) if entry is not None]
        concerned = {name for entry in sides for name in foundations(entry)}
        if not all(entry.readable for entry in sides):
            # Nobody knows which foundations it reads, so all of them wait for it.
            concerned |= {name for space, name in self._foundations if space == address.namespace}
        for name in sorted(concerned):
            self._wake(Key("FoundationModel", address.namespace, name))

    def _member(self, entry: Stored) -> FleetMember:
        try:
            return fleet_member(self._parser.read(ExpertModel, entry).model)
        except Invalid:
            return unreadable_member(entry.raw())

    def _foundation_changed(self, address: Address, after: Stored | None) -> None:
        place = (address.namespace, address.name)
        before, now = self._foundations.get(place), self._summary(after) if after is not None else None
        if now is None:
            self._foundations.pop(place, None)
        else:
            self._foundations[place] = now
        readers = self._fleet.readers(*place)
        if before is None or now is None:
            self._wake_experts(address.namespace, readers | self._lost(address.namespace))
        elif before.shared != now.shared:
            self._wake_experts(address.namespace, readers)
        else:
            moved = (before.pilots ^ now.pilots) | (before.granted ^ now.granted)
            self._wake_experts(address.namespace, readers & moved)

    def _summary(self, entry: Stored) -> _Foundation:
        try:
            model = self._parser.read(FoundationModel, entry).model
        except Invalid:
            return _Foundation(None)
        return _Foundation(
            foundation_view(model, NOBODY), frozenset(model.spec.fleet.pilots), frozenset(model.status.wave.granted)
        )

    def _lost(self, namespace: str) -> frozenset[str]:
        """Experts that read a foundation that is not there: their message names those that are."""
        lost = [name for name in self._fleet.read(namespace) if (namespace, name) not in self._foundations]
        return frozenset().union(*(self._fleet.readers(namespace, name) for name in lost))

    def _version_changed(self, address: Address, model: Key, after: Stored | None) -> None:
        before, now = self._versions.get(address), self._version(after) if after is not None else None
        if now is None:
            self._versions.pop(address, None)
        else:
            self._versions[address] = now
        if before == now or (before is None and not self._is_read(model, now)):
            return
        self._wake_experts(model.namespace, self._fleet.readers(model.namespace, model.name))

    def _version(self, entry: Stored) -> _Version | None:
        try:
            version = self._parser.read(ModelVersion, entry).model
        except Invalid:
            return None
        return _Version(entry.uid, version.spec.number, rejected(version))

    def _is_read(self, model: Key, version: _Version | None) -> bool:
        """Whether a version that has just appeared is one that an expert already looks for, or must not read."""
        foundation = self._foundations.get((model.namespace, model.name))
        if version is None:
            return False
        if version.rejected or foundation is None or foundation.shared is None:
            return True
        leading = {ref.version for ref in (foundation.shared.current, foundation.shared.candidate) if ref is not None}
        members = self._fleet.experts(model.namespace, model.name)
        return version.number in leading or any(
            (pin.name, pin.version) == (model.name, version.number) for entry in members for pin in entry.pins
        )

    def _wake_experts(self, namespace: str, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._wake(Key("ExpertModel", namespace, name))
