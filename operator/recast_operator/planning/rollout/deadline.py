"""The clocks of a canary: how long it may go without progress, and when to look again.

The progress deadline holds a canary's own slowness against it. Two things stop its clock, since they say nothing of the
canary: Prometheus does not answer, or no pod of stable is ready although traffic needs one. When they are over, the
deadline has moved by as long as they lasted together.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from recast_api.resources import CanaryStatus, RevisionStatus
from recast_operator.planning.clock import elapsed, not_ahead, parse, stamp
from recast_operator.planning.rollout import analysis
from recast_operator.planning.rollout.state import RolloutInputs


def stop_or_start(inputs: RolloutInputs, stable: RevisionStatus | None, canary: CanaryStatus) -> CanaryStatus:
    """The same canary, with what holds its clock now, and with ``progressed_at`` moved where that is over."""
    held = [not_ahead(since, inputs.now) if since else None for since in _held_since(canary)]
    unanswered = (held[0] or stamp(inputs.now)) if _unanswered(inputs, stable, canary) else None
    down = (held[1] or stamp(inputs.now)) if _stable_is_down(inputs, stable, canary) else None
    before = [parse(since) for since in held if since]
    after = [parse(since) for since in (unanswered, down) if since]
    progressed = parse(not_ahead(canary.progressed_at, inputs.now))
    if before:
        held_from, held_until = max(min(before), progressed), min(after, default=inputs.now)
        progressed += max(timedelta(), held_until - held_from)
    return canary.model_copy(
        update={"unanswered_since": unanswered, "stable_down_since": down, "progressed_at": stamp(progressed)}
    )


def _held_since(canary: CanaryStatus) -> tuple[str | None, str | None]:
    return canary.unanswered_since, canary.stable_down_since


def seconds_left(inputs: RolloutInputs, canary: CanaryStatus) -> float | None:
    """Until the canary is late; None while the clock stands still."""
    if canary.unanswered_since is not None or canary.stable_down_since is not None:
        return None
    limit = inputs.step_of(canary).pause_seconds + inputs.rollout.progress_deadline_seconds
    return limit - elapsed(canary.progressed_at, inputs.now)


def waits(inputs: RolloutInputs, stable: RevisionStatus | None, canary: CanaryStatus) -> Iterator[float]:
    """Seconds until each moment at which time alone may change something: late, pause over, next look."""
    moments = [seconds_left(inputs, canary)]
    if canary.state == "Progressing" and canary.weight_since is not None:
        moments.append(inputs.step_of(canary).pause_seconds - elapsed(canary.weight_since, inputs.now))
        if inputs.metrics(stable, canary):
            moments.append(_next_look(inputs, canary.weight_since))
    yield from (moment for moment in moments if moment is not None and moment > 0)


def _next_look(inputs: RolloutInputs, weight_since: str) -> float:
    if inputs.evaluation is not None:
        return analysis.INTERVAL_SECONDS
    return analysis.MIN_WINDOW_SECONDS - elapsed(weight_since, inputs.now)


def _unanswered(inputs: RolloutInputs, stable: RevisionStatus | None, canary: CanaryStatus) -> bool:
    """Whether the last look got no answer; where nothing is asked, nothing is missing."""
    if canary.state != "Progressing" or canary.weight_since is None or not inputs.metrics(stable, canary):
        return False
    if inputs.evaluation is None:
        return canary.unanswered_since is not None
    return not inputs.evaluation.answered


def _stable_is_down(inputs: RolloutInputs, stable: RevisionStatus | None, canary: CanaryStatus) -> bool:
    """Whether stable should serve and has no ready pod. After a step of 100 % it has none because that was wanted."""
    if stable is None or inputs.of(stable).ready > 0:
        return False
    return canary.state == "Promoting" or canary.step_weight < 100
