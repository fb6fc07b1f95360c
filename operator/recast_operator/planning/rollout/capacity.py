"""How many pods each revision gets, in the only order that is safe: ready endpoints → weight → shrink old.

The ready pods of all revisions together never go below R by our doing: stable shrinks by what *ready* canary pods
carry, and a revision that is neither stable nor canary keeps the ready pods that nobody else replaces yet, but grows
no more. Nothing here looks at the past: the numbers follow from status and from what is ready now.
"""

from __future__ import annotations

from recast_operator.planning.rollout.state import Endpoints, RolloutInputs, RolloutState
from recast_operator.planning.rollout.steps import Split, stable_target, step_at


def targets(inputs: RolloutInputs, state: RolloutState) -> dict[str, int]:
    """Pods by revision, for stable, canary and every leftover that has a Deployment."""
    wanted = _tracks(inputs, state)
    carried = sum(min(count, inputs.endpoints.get(revision, Endpoints()).ready) for revision, count in wanted.items())
    return wanted | _leftovers(inputs, wanted, max(0, inputs.replicas - carried))


def _tracks(inputs: RolloutInputs, state: RolloutState) -> dict[str, int]:
    stable, canary = state.stable, state.canary
    if canary is None:
        return {stable.revision: inputs.replicas} if stable else {}
    if stable is None:
        return {canary.revision: inputs.replicas}
    step = _step(inputs, canary.step_weight)
    ready = inputs.of(canary).ready
    return {
        stable.revision: stable_target(inputs.replicas, step.canary, ready, stable_floor=step.stable),
        canary.revision: inputs.replicas if canary.state == "Promoting" else step.canary,
    }


def _step(inputs: RolloutInputs, asked: int) -> Split:
    return inputs.steps[step_at(inputs.steps, asked)]


def _leftovers(inputs: RolloutInputs, wanted: dict[str, int], needed: int) -> dict[str, int]:
    kept: dict[str, int] = {}
    for revision in sorted(set(inputs.endpoints) - set(wanted)):
        have = inputs.endpoints[revision]
        kept[revision] = min(have.replicas, have.ready, needed)
        needed -= kept[revision]
    return kept
