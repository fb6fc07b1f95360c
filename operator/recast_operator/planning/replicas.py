"""How many pods each revision gets, in the only order that is safe: ready endpoints → weight → shrink old.

The ready pods of all revisions together never go below R by our doing: stable shrinks by what *ready* canary pods
carry, and a revision that is neither stable nor canary keeps the ready pods that nobody else replaces yet, but grows
no more. Nothing here looks at the past: the numbers follow from status and from what is ready now.
"""

from __future__ import annotations

from recast_operator.planning.rollout import Course, Endpoints, Scene
from recast_operator.planning.weights import Split, stable_target, step_at


def targets(scene: Scene, course: Course) -> dict[str, int]:
    """Pods by revision, for stable, canary and every leftover that has a Deployment."""
    wanted = _tracks(scene, course)
    carried = sum(min(count, scene.endpoints.get(revision, Endpoints()).ready) for revision, count in wanted.items())
    return wanted | _leftovers(scene, wanted, max(0, scene.replicas - carried))


def _tracks(scene: Scene, course: Course) -> dict[str, int]:
    stable, canary = course.stable, course.canary
    if canary is None:
        return {stable.revision: scene.replicas} if stable else {}
    if stable is None:
        return {canary.revision: scene.replicas}
    step = _step(scene, canary.step_weight)
    ready = scene.of(canary).ready
    return {
        stable.revision: stable_target(scene.replicas, step.canary, ready, stable_floor=step.stable),
        canary.revision: scene.replicas if canary.state == "Promoting" else step.canary,
    }


def _step(scene: Scene, asked: int) -> Split:
    return scene.steps[step_at(scene.steps, asked)]


def _leftovers(scene: Scene, wanted: dict[str, int], needed: int) -> dict[str, int]:
    kept: dict[str, int] = {}
    for revision in sorted(set(scene.endpoints) - set(wanted)):
        have = scene.endpoints[revision]
        kept[revision] = min(have.replicas, have.ready, needed)
        needed -= kept[revision]
    return kept
