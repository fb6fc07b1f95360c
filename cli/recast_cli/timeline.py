"""What changed between two states of a resource, as lines for people. Pure: objects in, lines out.

The live views (``kubectl recast timeline`` and the demo) feed it from watches only: a line says what the cluster holds,
never what a script meant to do. One line per transition; a change that means nothing prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from recast_api.resources import (
    CanaryStatus,
    Condition,
    ExpertModel,
    ExpertModelStatus,
    FailedRevision,
    FoundationModel,
    FoundationModelStatus,
    MetricName,
    ModelVersion,
    RunStatus,
    Verdict,
)
from recast_cli import words
from recast_cli.world import Resource

Tone = Literal["plain", "good", "bad", "wait"]

_NOTABLE: dict[str, str] = {"Ready": "False", "Stalled": "True", "Trained": "False"}
"""Conditions that get a line when they take this status, or a new reason with it."""

_QUIET_REASONS = frozenset(
    {
        "CanaryAnalysing",
        "FirstRevisionStarting",
        "FoundationNotReady",
        "NoVersionYet",
        "RefreshInProgress",
        "ServersStarting",
        "Training",
        "WaitingForSlot",
    }
)
"""Reasons of a passing state that other lines already show."""


@dataclass(frozen=True)
class Line:
    """One transition: who, what, and whether it is good news."""

    subject: str
    text: str
    tone: Tone = "plain"


@dataclass
class Timeline:
    """Remembers the last state of each resource and turns the next one into lines."""

    seen: dict[tuple[str, str], Resource] = field(default_factory=dict)

    def feed(self, resource: Resource, *, deleted: bool = False) -> list[Line]:
        """The lines that this state adds, in the order they should be read."""
        key = (resource.kind, resource.metadata.name)
        before = self.seen.get(key)
        if deleted:
            self.seen.pop(key, None)
            return [] if isinstance(resource, ModelVersion) else [Line(resource.metadata.name, "deleted", "wait")]
        self.seen[key] = resource
        match resource:
            case FoundationModel():
                return foundation_lines(before if isinstance(before, FoundationModel) else None, resource)
            case ExpertModel():
                return expert_lines(before if isinstance(before, ExpertModel) else None, resource)
            case ModelVersion():
                return version_lines(before if isinstance(before, ModelVersion) else None, resource)


def foundation_lines(before: FoundationModel | None, after: FoundationModel) -> list[Line]:
    """What happened to a foundation."""
    name, old, new = after.metadata.name, before.status if before else FoundationModelStatus(), after.status
    lines = _applied(name, before.metadata.generation if before else None, after.metadata.generation)
    lines += _run_lines(name, old.run, new.run)
    if new.candidate and (not old.candidate or old.candidate.version != new.candidate.version):
        beside = f" beside v{new.current.version}" if new.current else ""
        lines.append(Line(name, f"v{new.candidate.version} is the candidate, served{beside} on its own lineage"))
    if new.current and (not old.current or old.current.version != new.current.version):
        was = f" (was v{old.current.version})" if old.current else ""
        lines.append(Line(name, f"v{new.current.version} is current{was}", "good"))
    if new.wave.granted != old.wave.granted and (new.wave.granted or new.wave.waiting):
        slots = after.spec.fleet.max_concurrent_refreshes
        waiting = f"; {', '.join(new.wave.waiting)} wait" if new.wave.waiting else ""
        holders = ", ".join(new.wave.granted) or "nobody"
        lines.append(Line(name, f"refresh slots {len(new.wave.granted)}/{slots}: {holders}{waiting}", "wait"))
    return lines + _condition_lines(lines, name, old.conditions, new.conditions)


def expert_lines(before: ExpertModel | None, after: ExpertModel) -> list[Line]:
    """What happened to an expert."""
    name, old, new = after.metadata.name, before.status if before else ExpertModelStatus(), after.status
    lines = _applied(name, before.metadata.generation if before else None, after.metadata.generation)
    lines += _run_lines(name, old.run, new.run)
    stale, was_stale = words.condition(new.conditions, "Stale"), words.condition(old.conditions, "Stale")
    if (
        stale
        and stale.status == "True"
        and stale.reason not in _QUIET_REASONS
        and (not was_stale or (was_stale.status, was_stale.reason) != ("True", stale.reason))
    ):
        lines.append(Line(name, f"stale: {stale.reason}: {stale.message}", "wait"))
    lines += _canary_lines(after, old)
    return lines + _condition_lines(lines, name, old.conditions, new.conditions)


def version_lines(before: ModelVersion | None, after: ModelVersion) -> list[Line]:
    """What happened to a version: it landed, was judged, was retired."""
    name, number = after.spec.model.name, after.spec.number
    old = before.status.conditions if before else []
    lines = []
    if before is None:
        pin = f"@fm{after.spec.foundation.version}" if after.spec.foundation else ""
        lines.append(Line(name, f"v{number}{pin} landed, trained up to {after.spec.watermark}"))
    for entry in after.status.conditions:
        known = words.condition(old, entry.type)
        if known and (known.status, known.reason) == (entry.status, entry.reason):
            continue
        if entry.type == "Accepted" and entry.status == "True":
            detail = words.quality(after) or entry.message
            lines.append(Line(name, f"v{number} accepted   {detail}", "good"))
        elif entry.type == "Accepted" and entry.status == "False":
            lines.append(Line(name, f"v{number} REJECTED   {entry.reason}: {words.headline(entry.message)}", "bad"))
        elif entry.type == "Retired" and entry.status == "True":
            lines.append(Line(name, f"v{number} retired   {words.headline(entry.message)}"))
    return lines


def _applied(name: str, before: int | None, after: int) -> list[Line]:
    if before is None:
        return [Line(name, "applied")]
    return [Line(name, f"applied again: its spec changed (generation {after})")] if after > before else []


def _run_lines(name: str, old: RunStatus | None, new: RunStatus | None) -> list[Line]:
    if new is None:
        return []
    same = old is not None and (old.number, old.attempt, old.state) == (new.number, new.attempt, new.state)
    if same or new.state == "Reserved":
        return []
    if new.state == "BackingOff":
        until = f" until {new.retry_at}" if new.retry_at else ""
        return [Line(name, f"v{new.number}: attempt {new.attempt} is to start{until}", "wait")]
    attempt = f", attempt {new.attempt}" if new.attempt > 1 else ""
    return [Line(name, f"v{new.number} trains{attempt}: Job {new.job_name}")]


def _canary_lines(expert: ExpertModel, old: ExpertModelStatus) -> list[Line]:
    name, new = expert.metadata.name, expert.status
    lines = []
    known = {(entry.revision, entry.time) for entry in old.failed_revisions}
    for failed in new.failed_revisions:
        if (failed.revision, failed.time) not in known:
            text = f"{words.failed_pair(failed, expert)} ROLLED BACK   {failed.reason}: {_verdicts(failed)}"
            lines.append(Line(name, text, "bad"))
    canary, was = new.canary, old.canary
    if canary:
        if was is None or was.revision != canary.revision:
            beside = f"is a canary beside {words.pair(new.stable, expert)}" if new.stable else "starts"
            lines.append(Line(name, f"{words.pair(canary, expert)} {beside}, revision {canary.revision}"))
            was = None
        if was and canary.step > was.step:
            lines.append(Line(name, f"{words.pair(was, expert)}  {was.desired_weight}% passed   {_figures(was)}"))
        if canary.state == "Promoting" and was and was.state != "Promoting":
            lines.append(
                Line(name, f"{words.pair(canary, expert)}  passed all steps, grows to {canary.serving.replicas} pods")
            )
        trial = canary.state == "Progressing" and canary.weight_since
        if trial and (was is None or was.weight_since != canary.weight_since):
            text = f"{canary.desired_weight}% asked, {canary.actual_weight}% of endpoints"
            lines.append(Line(name, f"{words.pair(canary, expert)}  {text}"))
    if new.stable and (old.stable is None or old.stable.revision != new.stable.revision):
        if old.stable is None:
            lines.append(Line(name, f"{words.pair(new.stable, expert)} serves, revision {new.stable.revision}", "good"))
        else:
            last = f"   {_figures(old.canary)}" if old.canary and old.canary.revision == new.stable.revision else ""
            lines.append(
                Line(
                    name,
                    f"{words.pair(new.stable, expert)} PROMOTED (was {words.pair(old.stable, expert)}){last}",
                    "good",
                )
            )
    return lines


def _verdicts(failed: FailedRevision) -> str:
    """``error-rate 0.197 (max 0.01), 312 requests`` for what failed; else the message's first sentence."""
    failing = [
        f"{result.metric.value} {result.value} ({result.bound}), {result.samples} requests"
        for result in failed.results
        if result.verdict is Verdict.FAILURE
    ]
    return "; ".join(failing) or words.headline(failed.message)


def _figures(canary: CanaryStatus) -> str:
    """``24.6% measured   errors 0/412   fresh TAE 100%`` from what the operator judged last."""
    parts = [f"{canary.measured_weight}% measured"] if canary.measured_weight else []
    for result in canary.results:
        try:
            value = float(result.value)
        except ValueError:
            continue
        if result.metric is MetricName.ERROR_RATE:
            parts.append(f"errors {round(value * result.samples)}/{result.samples}")
        elif result.metric is MetricName.FRESH_TAE_SHARE:
            parts.append(f"fresh TAE {100 * value:.4g}%")
        else:
            parts.append(f"slow {100 * value:.3g}%")
    return "   ".join(parts)


def _condition_lines(before: Sequence[Line], name: str, old: list[Condition], new: list[Condition]) -> list[Line]:
    """Conditions that newly hold, unless ``before`` has their reason already."""
    lines: list[Line] = []
    for entry in new:
        if _NOTABLE.get(entry.type) != entry.status or entry.reason in _QUIET_REASONS:
            continue
        known = words.condition(old, entry.type)
        fresh = known is None or (known.status, known.reason) != (entry.status, entry.reason)
        rejection = "is rejected: " in entry.message  # the version has a line of its own
        if fresh and not rejection and not any(entry.reason in line.text for line in (*before, *lines)):
            lines.append(
                Line(
                    name, f"{entry.reason}: {words.headline(entry.message)}", "bad" if entry.type != "Ready" else "wait"
                )
            )
    return lines
