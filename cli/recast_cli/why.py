"""``kubectl recast why <expert>``: which policy, which measurement, what next. Pure.

It judges nothing that the operator has not judged: it puts the status in the order in which a person asks, and beside
the figures of the last write those of now, where Prometheus was asked (:mod:`recast_cli.live`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from recast_api.resources import CanaryStatus, ExpertModel, FailedRevision, FoundationModel, MetricResult, Verdict
from recast_cli import words
from recast_cli.live import Figure, Live
from recast_cli.world import World

HOW_TO_READ_LIVE = "--prometheus-url (or RECAST_PROMETHEUS_URL) or --prometheus-service reads them live"


def found(world: World, name: str) -> ExpertModel:
    """The expert of that name. Raises ``LookupError`` where there is none."""
    expert = world.expert(name)
    if expert is None:
        raise words.unknown(world, "ExpertModel", name, world.experts)
    return expert


def render(world: World, name: str, now: datetime, live: Live | None = None) -> str:
    """The explanation, as lines of text; ``live`` is None where Prometheus was not asked.

    Raises ``LookupError`` where no such expert exists.
    """
    expert = found(world, name)
    foundation = world.foundation(expert.spec.foundation_ref.name)
    sections = [
        _serving(expert, now),
        _policy(expert, foundation, now),
        _training(expert, now),
        _canary(expert, now, live),
        *(_failed(failed, expert, now) for failed in reversed(expert.status.failed_revisions)),
        _next(world, expert, foundation),
    ]
    return "\n".join(line for section in sections for line in section)


def _row(heading: str, text: str) -> str:
    return f"{heading:<11}{text}"


def _serving(expert: ExpertModel, now: datetime) -> list[str]:
    stable = expert.status.stable
    ready = words.condition(expert.status.conditions, "Ready")
    lines = [_row("Expert", f"{expert.metadata.name} (surface {expert.spec.surface})")]
    if stable is None:
        lines.append(_row("Serves", "nothing yet"))
    else:
        since = words.age(stable.since, now)
        lines.append(
            _row(
                "Serves",
                f"{words.pair(stable, expert)}, revision {stable.revision}, {words.ready(expert)}, for {since}",
            )
        )
    if ready:
        message = f": {ready.message}" if ready.message else ""
        lines.append(_row("Ready", f"{ready.status}  {ready.reason}{message}"))
    return lines


def _policy(expert: ExpertModel, foundation: FoundationModel | None, now: datetime) -> list[str]:
    stale = words.condition(expert.status.conditions, "Stale")
    if stale is None:
        return [_row("Stale", "not judged yet")]
    if stale.status != "True":
        return [_row("Stale", f"no  {stale.message}".rstrip())]
    lines = [_row("Stale", f"yes, by policy {stale.reason}: {stale.message}")]
    refresh = expert.status.refresh
    if refresh:
        lines.append(
            _row("", f"waits since {words.age(refresh.since, now)}, towards foundation v{refresh.foundation_version}")
        )
    if foundation and expert.metadata.name in foundation.status.wave.granted:
        lines.append(_row("", f"holds a refresh slot of {foundation.metadata.name}"))
    elif foundation and expert.metadata.name in foundation.status.wave.waiting:
        place = foundation.status.wave.waiting.index(expert.metadata.name) + 1
        holders = ", ".join(foundation.status.wave.granted)
        lines.append(_row("", f"place {place} in the queue; {holders} hold the slots"))
    return lines


def _training(expert: ExpertModel, now: datetime) -> list[str]:
    run = expert.status.run
    lines = []
    if run:
        began = words.age(run.started_at, now)
        lines.append(
            _row("Training", f"v{run.number} {run.state}, Job {run.job_name}, attempt {run.attempt}, began {began} ago")
        )
    for failure in expert.status.failures[-1:]:
        lines.append(
            _row("Failed", f"v{failure.number} {words.age(failure.time, now)} ago: {failure.reason}: {failure.message}")
        )
        lines.append(_row("", "the same inputs are not trained again; change the spec or the data"))
    return lines


def _canary(expert: ExpertModel, now: datetime, live: Live | None) -> list[str]:
    canary = expert.status.canary
    if canary is None:
        return [_row("Canary", "none")]
    measured = f", {canary.measured_weight}% of requests measured" if canary.measured_weight else ""
    weight = f"{canary.desired_weight}% asked, {canary.actual_weight}% of endpoints{measured}"
    lines = [
        _row("Canary", f"{words.pair(canary, expert)}, revision {canary.revision}, step {canary.step + 1}: {weight}")
    ]
    if canary.message:
        lines.append(_row("", canary.message))
    if canary.weight_since:
        lines.append(_row("", f"analysed since {words.age(canary.weight_since, now)}"))
    for result in canary.results:
        lines += _result(result, live.figures.get(result.metric) if live else None)
    if canary.results:
        lines.append(_row("", _age(canary.results, now, live)))
    return lines


def _age(results: Sequence[MetricResult], now: datetime, live: Live | None) -> str:
    written = f"verdicts and figures written {words.age(results[0].time, now)} ago"
    if live is None:
        return f"{written}; {HOW_TO_READ_LIVE}"
    return f"{written}; no live figures: {live.error}" if live.error else written


def _failed(failed: FailedRevision, expert: ExpertModel, now: datetime) -> list[str]:
    since = words.age(failed.time, now)
    title = f"{words.failed_pair(failed, expert)}, revision {failed.revision}, {since} ago"
    lines = [_row("Rolled back", f" {title}"), _row("", f"{failed.reason}: {failed.message}")]
    for result in failed.results:
        lines += _result(result)
    return lines


def _result(result: MetricResult, live: Figure | None = None) -> list[str]:
    lines = [_row("", words.measured(result))]
    if live is not None:
        beside = f" vs stable {live.stable:.4f}" if live.stable is not None else ""
        lines.append(_row("", f"  now   {live.share:.4f}{beside}, {live.requests:.0f} requests"))
    if result.query:
        lines.append(_row("", f"  query {result.query}"))
    return lines


def _next(world: World, expert: ExpertModel, foundation: FoundationModel | None) -> list[str]:
    """The one thing that has to happen for the next transition."""
    status = expert.status
    if unreadable := world.cannot_read("FoundationModel", expert.spec.foundation_ref.name):
        return [_row("Next", f"unknown: {unreadable}")]
    if foundation is None:
        return [_row("Next", f'nothing until FoundationModel "{expert.spec.foundation_ref.name}" exists')]
    if status.canary:
        return [_row("Next", _canary_next(status.canary, expert))]
    if status.run:
        return [_row("Next", f"v{status.run.number} lands and is judged, then it becomes a canary")]
    if expert.spec.suspend:
        return [_row("Next", "nothing: spec.suspend is set")]
    if status.refresh:
        if expert.metadata.name in foundation.status.wave.granted:
            return [_row("Next", "its training Job is made")]
        return [_row("Next", f"a refresh slot of {foundation.metadata.name} becomes free")]
    stalled = words.condition(status.conditions, "Stalled")
    if stalled and stalled.status == "True":
        return [_row("Next", f"nothing until somebody acts on {stalled.reason}, as its message says")]
    if status.stable is None and foundation.status.current is None:
        return [_row("Next", f"{foundation.metadata.name} lands its first version")]
    return [_row("Next", "nothing: what serves is what is asked for")]


def _canary_next(canary: CanaryStatus, expert: ExpertModel) -> str:
    if canary.weight_since is None:
        pods = "1 canary pod becomes" if canary.replicas == 1 else f"{canary.replicas} canary pods become"
        return f"{pods} ready, then stable shrinks"
    if canary.unanswered_since:
        return "Prometheus answers; until then the canary keeps its weight and its progress deadline stands still"
    waiting = [result for result in canary.results if result.verdict in (Verdict.NO_DATA, Verdict.INCONCLUSIVE)]
    if waiting:
        needs = ", ".join(f"{r.metric.value} ({r.samples}/{r.min_samples} requests)" for r in waiting)
        deadline = expert.spec.rollout.progress_deadline_seconds
        return f"more requests for {needs}; without them it is rolled back after {deadline}s"
    if canary.results and all(result.verdict is Verdict.SUCCESS for result in canary.results):
        return "the step's pause ends, then the next step or promotion"
    return "the analysis sees enough requests of this step"
