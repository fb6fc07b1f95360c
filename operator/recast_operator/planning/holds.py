"""What stands still because a model says something that this version does not understand.

A newer operator wrote it, and this one was rolled back to. Guessing would train, promote or restart what nobody asked
for; so the decision that depends on it waits, what serves goes on serving, and ``Stalled`` says so. Read by the
pipelines :mod:`planning.expert` and :mod:`planning.foundation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recast_api.reading import Decision, Doubt
from recast_api.resources import ModelVersion
from recast_operator.planning.rollout.state import RolloutState
from recast_operator.planning.status.conditions import ConditionUpdate, find
from recast_operator.planning.versions.verdict import ACCEPTED


def held(doubts: Sequence[Doubt], decision: Decision) -> str:
    """Why a decision is not made; empty where nothing holds it."""
    return "; ".join(str(doubt) for doubt in doubts if decision in doubt.holds)


def judgeable(versions: Sequence[ModelVersion], doubts: Sequence[Doubt]) -> tuple[ModelVersion, ...]:
    """The versions without those that would be judged now by gates of which one is not known."""
    if not held(doubts, "Acceptance"):
        return tuple(versions)
    return tuple(entry for entry in versions if find(entry.status.conditions, ACCEPTED) is not None)


def standing_still(state: RolloutState, why: str) -> RolloutState:
    """The roll-out as it was, with the reason in its message."""
    if state.canary is None:
        return state
    return replace(state, canary=state.canary.model_copy(update={"message": why[:1024]}))


def stalled(doubts: Sequence[Doubt]) -> ConditionUpdate | None:
    """The condition, where anything is held."""
    why = "; ".join(str(doubt) for doubt in doubts if doubt.holds)
    if not why:
        return None
    text = f"{why}. What serves goes on; install the operator version that wrote it, or take it out"
    return ConditionUpdate("Stalled", "True", "NotUnderstood", text)
