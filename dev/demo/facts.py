"""Yes-or-no questions about the state of the cluster that the demo waits for. Pure."""

from __future__ import annotations

from recast_api.resources import ExpertModel, FailedRevision, FoundationModel, ModelVersion
from recast_cli import words
from recast_cli.world import World


def version(world: World, kind: str, model: str, number: int) -> ModelVersion | None:
    """A model's version by number."""
    return next((v for v in world.versions_of(kind, model) if v.spec.number == number), None)


def accepted(world: World, kind: str, model: str, number: int) -> bool:
    """Whether the gates let the version through."""
    found = version(world, kind, model, number)
    return found is not None and words.holds(found.status.conditions, "Accepted")


def rejected(world: World, foundation: str, above: int) -> ModelVersion | None:
    """The first rejected version of a foundation with a number above the given one."""
    for found in world.versions_of("FoundationModel", foundation):
        verdict = words.condition(found.status.conditions, "Accepted")
        if found.spec.number > above and verdict is not None and verdict.status == "False":
            return found
    return None


def retired(world: World, foundation: str, number: int) -> bool:
    """Whether a foundation version serves nowhere any more and says so."""
    found = version(world, "FoundationModel", foundation, number)
    model = world.foundation(foundation)
    served = model is not None and any(entry.version == number for entry in model.status.lineages)
    return found is not None and words.holds(found.status.conditions, "Retired") and not served


def serving(world: World, expert: str, foundation_version: int | None = None) -> bool:
    """Whether an expert's stable revision has all its pods ready, on that foundation version if one is given."""
    found = world.expert(expert)
    stable = found.status.stable if found else None
    if stable is None or not 0 < stable.replicas == stable.ready_replicas:
        return False
    return foundation_version is None or stable.foundation.version == foundation_version


def settled(world: World, expert: str, foundation_version: int) -> bool:
    """Serving on that foundation version, with no canary and no run under way."""
    found = world.expert(expert)
    quiet = found is not None and found.status.canary is None and found.status.run is None
    return quiet and serving(world, expert, foundation_version)


def current(world: World, foundation: str) -> int | None:
    """The number of the foundation version that is current."""
    model: FoundationModel | None = world.foundation(foundation)
    return model.status.current.version if model and model.status.current else None


def failed_image(expert: ExpertModel | None, image: str) -> FailedRevision | None:
    """The failed revision with that serving image."""
    if expert is None:
        return None
    return next((entry for entry in reversed(expert.status.failed_revisions) if entry.image == image), None)


def observed(expert: ExpertModel | None) -> bool:
    """Whether the operator has seen the newest spec."""
    return expert is not None and expert.status.observed_generation == expert.metadata.generation
