"""How many pods each revision gets, in the only order that is safe: ready endpoints → weight → shrink old.

:class:`Surge` takes the room of up to k pods more than R while a canary of k pods starts. Nothing in it looks at the
past: the numbers follow from the target and from what is ready now, so that a pass after a crash comes to the same.
A capacity without spare room (shrink first) is another implementation of :class:`Capacity`.

*Who serves is not taken away.* Stable shrinks by what *ready* canary pods carry, and a canary that has more pods than
its weight gives them back only as stable's get ready: together they never go below R by our doing.

*Who left goes as soon as it may.* A revision that was merely replaced keeps the ready pods that nobody else makes up
for yet, up to R in all. One that *failed* answers wrongly, and each second of it is harm; but without its pods
stable's few would drown. It is kept only as far as stable would otherwise carry more than twice its share,
``ceil(R/2)`` pods in all, and goes at once from there on; without a stable revision there is nothing to wait for.
Neither ever grows.

*That converges in any cluster.* What a failed revision frees is the room in which stable grows: with room for R ≥ 2
pods at least one place is free until stable has half of them, and then all are. Where room has become even less,
nobody frees any by itself: once stable's pods have found no node for :data:`ROOM_SECONDS` and none of them is
starting, those who left step down one rung each such time, from R to half of R to nothing. A stable revision of which
no pod is ready gives its room to the canary in the same way: its fix must not wait for the place of what is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from recast_operator.planning.rollout.traffic import Endpoints, Leaving, Target, split

ROOM_SECONDS = 30
"""How long pods may find no node before others make room. The scheduler's own back-off is at most 10 s."""


class Capacity(Protocol):
    """One way of finding room for a canary."""

    def pods(self, target: Target, endpoints: Mapping[str, Endpoints]) -> dict[str, int]:
        """Pods by revision: stable, canary and every other that has a Deployment."""

    def next_change(self, target: Target, endpoints: Mapping[str, Endpoints]) -> float | None:
        """Seconds until time alone changes the pods; None where it does not."""


@dataclass(frozen=True)
class Surge:
    """New pods beside the old ones."""

    def pods(self, target: Target, endpoints: Mapping[str, Endpoints]) -> dict[str, int]:
        """What serves first, then what of the others is still needed."""
        wanted = _serving(target, endpoints)
        return wanted | _leftovers(target, endpoints, wanted)

    def next_change(self, target: Target, endpoints: Mapping[str, Endpoints]) -> float | None:
        """Until the next rung for whoever holds room that others need."""
        waits: list[float] = []
        if target.stable_down_seconds is not None and endpoints.get(target.canary, Endpoints()).unschedulable:
            waits.append(ROOM_SECONDS - target.stable_down_seconds)
        if _without_room(target, endpoints):
            waits += [
                rung * ROOM_SECONDS - entry.seconds
                for revision, entry in target.leaving.items()
                if endpoints.get(revision, Endpoints()).replicas
                for rung in ((1,) if entry.failed else (1, 2))
            ]
        return min((wait for wait in waits if wait > 0), default=None)


def _serving(target: Target, endpoints: Mapping[str, Endpoints]) -> dict[str, int]:
    if not target.canary:
        return {target.stable: target.replicas} if target.stable else {}
    if not target.stable:
        return {target.canary: target.replicas}
    own, other = endpoints.get(target.canary, Endpoints()), endpoints.get(target.stable, Endpoints())
    share, rest = split(target.replicas, target.weight)
    stable = max(rest, target.replicas - min(share, own.ready))
    if target.stable_down_seconds is None:
        canary = max(share, min(own.ready, target.replicas - other.ready))
    else:
        canary = target.replicas
        if own.unschedulable and target.stable_down_seconds >= ROOM_SECONDS:
            stable = 0
    return {target.stable: stable, target.canary: canary}


def _leftovers(target: Target, endpoints: Mapping[str, Endpoints], wanted: Mapping[str, int]) -> dict[str, int]:
    """Who was replaced is asked first: its pods spare those of who failed."""
    serving = sum(min(count, endpoints.get(revision, Endpoints()).ready) for revision, count in wanted.items())
    without_room = _without_room(target, endpoints)
    left = {revision: target.leaving.get(revision, Leaving()) for revision in sorted(set(endpoints) - set(wanted))}
    kept: dict[str, int] = {}
    for revision, leaving in sorted(left.items(), key=lambda entry: entry[1].failed):
        have, floor = endpoints[revision], _floor(target, leaving, without_room)
        kept[revision] = max(0, min(have.replicas, have.ready, floor - serving))
        serving += kept[revision]
    return kept


def _floor(target: Target, leaving: Leaving, without_room: bool) -> int:
    """The ready pods, of all revisions together, up to which this one's are needed."""
    if leaving.failed and not target.stable:
        return 0
    rungs = (target.replicas, (target.replicas + 1) // 2, 0)
    waited = int(leaving.seconds // ROOM_SECONDS) if without_room else 0
    return rungs[min(int(leaving.failed) + waited, len(rungs) - 1)]


def _without_room(target: Target, endpoints: Mapping[str, Endpoints]) -> bool:
    """Pods of who should serve find no node, and no other of them is starting."""
    serving = [endpoints.get(revision, Endpoints()) for revision in (target.stable, target.canary) if revision]
    return any(entry.unschedulable for entry in serving) and not any(entry.starting for entry in serving)
