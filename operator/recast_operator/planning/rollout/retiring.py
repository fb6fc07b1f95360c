"""Revisions that left and whose pods are not gone: they still read their foundation, and may still answer requests.

An entry keeps the foundation's servers (:func:`planning.projections.fleet_member` reports its pin) until no Deployment
and no pod of the revision is left, and tells :mod:`planning.rollout.capacity` how dearly its pods are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from recast_api.resources import RetiringRevision, RevisionStatus
from recast_operator.planning.clock import elapsed, not_ahead, stamp
from recast_operator.planning.rollout.state import RolloutInputs, RolloutState
from recast_operator.planning.rollout.traffic import Leaving

REMEMBERED = 16


def retire(state: RolloutState, revision: RevisionStatus, now: datetime, *, failed: bool = False) -> RolloutState:
    """The same, with one more revision that leaves."""
    entry = RetiringRevision(
        revision=revision.revision,
        version=revision.version,
        foundation=revision.foundation,
        since=stamp(now),
        failed=failed,
    )
    others = tuple(old for old in state.retiring if old.revision != revision.revision)
    return replace(state, retiring=(*others, entry)[-REMEMBERED:])


def forget_gone(inputs: RolloutInputs, state: RolloutState) -> RolloutState:
    """The same, without those that are gone or serve again."""
    serving = {entry.revision for entry in (state.stable, state.canary) if entry is not None}
    kept = (entry for entry in state.retiring if entry.revision in inputs.remaining - serving)
    dated = (entry.model_copy(update={"since": not_ahead(entry.since, inputs.now)}) for entry in kept)
    return replace(state, retiring=tuple(dated))


def leaving(inputs: RolloutInputs, state: RolloutState) -> Mapping[str, Leaving]:
    """All that are known to be neither stable nor on trial, by revision."""
    known = {entry.revision: Leaving(True, _seconds(entry.time, inputs.now)) for entry in state.failed}
    known |= {entry.revision: Leaving(entry.failed, _seconds(entry.since, inputs.now)) for entry in state.retiring}
    serving = {entry.revision for entry in (state.stable, state.canary) if entry is not None}
    return {revision: entry for revision, entry in known.items() if revision not in serving}


def _seconds(since: str, now: datetime) -> float:
    """Since it left; not less than none where the clock was set back."""
    return max(0.0, elapsed(since, now))
