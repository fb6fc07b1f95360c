"""Whether one child is written now, and why: it is missing, made from other input, or somebody has changed it.

What somebody changed is put back as it was applied, not as this operator would render it. Where the other side changes
it again and again, each repair waits twice as long as the one before: the count stands on the child, the time in its
managed fields, so that a restart forgets nothing. Used by :mod:`planning.child_changes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from recast_operator.children.kinds import ChildKind
from recast_operator.children.labels import Object
from recast_operator.children.record import ChildRecord, fits, recorded
from recast_operator.children.why import MISSING, inputs, why_changed, why_scaled
from recast_operator.planning.clock import earliest, elapsed
from recast_operator.planning.plan import Apply, Deletion, Event, Scale
from recast_operator.planning.snapshot import ObservedCompanion, ObservedDeployment

REPAIR_SECONDS = 10
REPAIR_CAP_SECONDS = 600
REPAIR_MEMORY_SECONDS = 3600
"""A child that stayed as it was for so long is not the field of a fight any more."""
SENTENCES_SHOWN = 5
HASH_REMOVED = "annotation recast.dev/template-hash was removed"
TAKEN_OVER = "it carries no record of what was applied, and is as it would be applied now"


@dataclass(frozen=True)
class ChildChanges:
    """What has to happen to the children."""

    apply: tuple[Apply, ...] = ()
    scales: tuple[Scale, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    requeue_after: float | None = None
    """Seconds until a repair that waits is due."""

    def __add__(self, other: ChildChanges) -> ChildChanges:
        return ChildChanges(
            self.apply + other.apply,
            self.scales + other.scales,
            self.deletions + other.deletions,
            earliest(self.requeue_after, other.requeue_after),
        )

    @property
    def events(self) -> tuple[Event, ...]:
        """What these writes tell."""
        writes: tuple[Apply | Scale, ...] = (*self.apply, *self.scales)
        return tuple(event for write in writes for event in write.events)


@dataclass(frozen=True)
class Wanted:
    """A child as it should be."""

    kind: ChildKind
    name: str
    owner_uid: str
    template_hash: str
    build: Callable[[], Object]
    """Renders it, as this operator does."""
    replicas: int | None = None
    """Of a Deployment."""
    replicas_reason: str = ""


def child_writes(
    existing: ObservedDeployment | ObservedCompanion | None, wanted: Wanted, now: datetime
) -> ChildChanges:
    """Create, rewrite, repair or scale; nothing for a child that is as it should be.

    Another owner's child of the name is in the way: the writer refuses to apply onto it, writes nothing, and says so.
    """
    if existing is None or existing.owner_uid != wanted.owner_uid:
        return ChildChanges(apply=(Apply(recorded(wanted.build()), MISSING),))
    record = existing.record
    if record.drift or not existing.template_hash:
        return _repair(existing, wanted, now)
    if existing.template_hash != wanted.template_hash:
        return _rewrite(existing, wanted, now)
    if record.unrecorded and fits(body := wanted.build(), record):
        return _limited(existing, wanted, ChildChanges(apply=(Apply(recorded(body), TAKEN_OVER),)), now)
    return _scaled(existing, wanted, now)


def scale(existing: ObservedDeployment, replicas: int, reason: str, now: datetime) -> ChildChanges:
    """Bring a Deployment to so many replicas. What somebody else has set stands for some seconds, then is put back."""
    if existing.replicas == replicas:
        return ChildChanges()
    record = existing.record
    why = why_scaled(existing.replicas, replicas, reason)
    if not record.scaled_by:
        return ChildChanges(scales=(Scale(existing.name, replicas, why),))
    wait = REPAIR_SECONDS - _since(record.scaled_at, now)
    if wait > 0:
        return ChildChanges(requeue_after=wait)
    told = f"replicas is {existing.replicas}, set by {record.scaled_by}; put back to {replicas}"
    drifted = _drifted("Deployment", existing.name, told)
    return ChildChanges(scales=(Scale(existing.name, replicas, why, (drifted,)),))


def _scaled(existing: ObservedDeployment | ObservedCompanion, wanted: Wanted, now: datetime) -> ChildChanges:
    if isinstance(existing, ObservedCompanion) or wanted.replicas is None:
        return ChildChanges()
    return scale(existing, wanted.replicas, wanted.replicas_reason, now)


def _rewrite(existing: ObservedDeployment | ObservedCompanion, wanted: Wanted, now: datetime) -> ChildChanges:
    body = wanted.build()
    why = why_changed(existing.record.inputs, inputs(body))
    return _limited(existing, wanted, ChildChanges(apply=(Apply(recorded(body), why),)), now)


def _repair(existing: ObservedDeployment | ObservedCompanion, wanted: Wanted, now: datetime) -> ChildChanges:
    record = existing.record
    body = _as_applied(record, wanted) or wanted.build()
    repairs = 1 + (record.repairs if _since(record.applied_at, now) < REPAIR_MEMORY_SECONDS else 0)
    told = _told(record.drift or (HASH_REMOVED,), repairs)
    drifted = _drifted(wanted.kind, wanted.name, told)
    change = ChildChanges(apply=(Apply(recorded(body, repairs=repairs), told, (drifted,)),))
    return _limited(existing, wanted, change, now)


def _as_applied(record: ChildRecord, wanted: Wanted) -> Object | None:
    """What was applied, with the replicas of now; None where the input has changed since, or the record is lost."""
    if not record.applied or record.template_hash != wanted.template_hash:
        return None
    body: Object = json.loads(record.applied)
    if wanted.replicas is not None:
        body["spec"]["replicas"] = wanted.replicas
    return body


def _limited(
    existing: ObservedDeployment | ObservedCompanion, wanted: Wanted, change: ChildChanges, now: datetime
) -> ChildChanges:
    """The change if it may be made now. Only a new input, known from the record, never waits."""
    record = existing.record
    if record.recorded and record.template_hash != wanted.template_hash:
        return change
    wait = min(REPAIR_CAP_SECONDS, REPAIR_SECONDS * 2 ** min(record.repairs, 8)) - _since(record.applied_at, now)
    if wait <= 0:
        return change
    return _scaled(existing, wanted, now) + ChildChanges(requeue_after=wait)


def _since(time: str, now: datetime) -> float:
    """Seconds since an instant by the apiserver's clock; infinite where there is none.

    The clocks may disagree either way: one that is far ahead must not keep a repair waiting for ever.
    """
    return abs(elapsed(time, now)) if time else float("inf")


def _told(drift: tuple[str, ...], repairs: int) -> str:
    shown = "; ".join(drift[:SENTENCES_SHOWN])
    more = f"; and {len(drift) - SENTENCES_SHOWN} more" if len(drift) > SENTENCES_SHOWN else ""
    again = f", for the {repairs}. time in a row: who changes it?" if repairs > 1 else ""
    return f"{shown}{more}; put back{again}"


def _drifted(kind: ChildKind, name: str, text: str) -> Event:
    return Event("Warning", "ChildDrifted", f"{kind} {name}: {text}")
