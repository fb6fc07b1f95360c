"""``kubectl recast status``: foundation, versions, the experts on each, their revisions, weights, reasons. Pure."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text
from rich.tree import Tree

from recast_api.resources import Condition, ExpertModel, FoundationModel, ModelVersion
from recast_cli import words
from recast_cli.world import World

_STYLES = {"True": "green", "False": "yellow"}


def render(world: World, now: datetime, only: str | None = None) -> list[Tree]:
    """One tree per foundation, then what cannot be read, and the experts whose foundation does not exist.

    ``only`` keeps the foundation of that name. Raises ``LookupError`` where there is none.
    """
    if only is not None and world.foundation(only) is None:
        raise words.unknown(world, "FoundationModel", only, world.foundations)
    wanted = [model for model in world.foundations if only in (None, model.metadata.name)]
    trees = [_foundation(world, model, now) for model in wanted]
    if only is not None:
        return trees
    for item in world.unreadable:
        tree = Tree(Text(str(item), style="red"))
        for expert in world.experts if item.kind == "FoundationModel" else ():
            if expert.spec.foundation_ref.name == item.name:
                _expert(tree, expert, now)
        trees.append(tree)
    orphans = [expert for expert in world.experts if not _foundation_exists(world, expert.spec.foundation_ref.name)]
    if orphans:
        tree = Tree(Text("experts without a foundation", style="red"))
        for expert in orphans:
            _expert(tree, expert, now)
        trees.append(tree)
    return trees


def _foundation_exists(world: World, name: str) -> bool:
    return world.foundation(name) is not None or world.cannot_read("FoundationModel", name) is not None


def _foundation(world: World, model: FoundationModel, now: datetime) -> Tree:
    status = model.status
    heading = [f"{model.metadata.name}", f"current {_ref(status.current)}"]
    if status.candidate:
        heading.append(f"candidate {_ref(status.candidate)}")
    if status.summary.experts:
        heading.append(f"experts {status.summary.experts}")
    tree = Tree(_line("   ".join(heading), model.status.conditions))
    if status.run:
        tree.add(f"v{status.run.number} {status.run.state}: {status.run.job_name}, attempt {status.run.attempt}")
    if status.wave.granted or status.wave.waiting:
        waiting = ", ".join(status.wave.waiting) or "nobody"
        slots = model.spec.fleet.max_concurrent_refreshes
        tree.add(
            f"refresh slots {len(status.wave.granted)}/{slots}: {', '.join(status.wave.granted)}; waiting: {waiting}"
        )
    experts = [expert for expert in world.experts if expert.spec.foundation_ref.name == model.metadata.name]
    placed: set[str] = set()
    for version in reversed(world.versions_of("FoundationModel", model.metadata.name)):
        branch = tree.add(_version(model, version, now))
        for expert in experts:
            stable = expert.status.stable
            if stable and stable.foundation.version == version.spec.number:
                placed.add(expert.metadata.name)
                _expert(branch, expert, now)
    for expert in experts:
        if expert.metadata.name not in placed:
            _expert(tree, expert, now)
    return tree


def _version(model: FoundationModel, version: ModelVersion, now: datetime) -> Text:
    number = version.spec.number
    parts = [f"v{number}", words.verdict_of(version), words.quality(version)]
    lineage = next((entry for entry in model.status.lineages if entry.version == number), None)
    if lineage:
        parts.append(f"servers {lineage.ready_replicas}/{lineage.replicas}")
        parts.append(f"pinned by {', '.join(lineage.pinned_by)}" if lineage.pinned_by else "pinned by nobody")
    if version.metadata.creation_timestamp:
        parts.append(f"landed {words.age(version.metadata.creation_timestamp, now)} ago")
    return Text("  ".join(part for part in parts if part))


def _expert(parent: Tree, expert: ExpertModel, now: datetime) -> None:
    status = expert.status
    branch = parent.add(_line(f"{expert.metadata.name}  (surface {expert.spec.surface})", status.conditions))
    if status.stable:
        share = 100 - (status.canary.actual_weight if status.canary else 0)
        branch.add(
            f"{words.pair(status.stable, expert)}  stable  {status.stable.revision}  {share}%  {words.ready(expert)}"
        )
    if status.canary:
        canary = status.canary
        role = "starting" if canary.state == "Initial" else "canary"
        weight = f"{canary.actual_weight}% (asked {canary.desired_weight}%)"
        branch.add(
            f"{words.pair(canary, expert)}  {role}  {canary.revision}  {weight}  "
            f"{canary.ready_replicas}/{canary.replicas} ready  {canary.message}".rstrip()
        )
    if status.run:
        branch.add(f"v{status.run.number} {status.run.state}: {status.run.job_name}, attempt {status.run.attempt}")
    stale = words.condition(status.conditions, "Stale")
    if stale and stale.status == "True":
        branch.add(Text(f"stale: {stale.reason}: {stale.message}", style="yellow"))
    if status.failed_revisions:
        failed = status.failed_revisions[-1]
        since = words.age(failed.time, now)
        pair = words.failed_pair(failed, expert)
        branch.add(Text(f"{pair}  {failed.revision}  rolled back {since} ago: {failed.reason}", style="red"))


def _line(text: str, conditions: list[Condition]) -> Text:
    found = words.condition(conditions, "Ready")
    if found is None:
        return Text(f"{text}   not seen by the operator yet", style="yellow")
    said = f"   Ready={found.status} {found.reason}"
    if found.status != "True" and found.message:
        said += f": {found.message}"
    return Text.assemble(text, (said, _STYLES.get(found.status, "yellow")))


def _ref(reference: object) -> str:
    version = getattr(reference, "version", None)
    return f"v{version}" if version is not None else "-"
