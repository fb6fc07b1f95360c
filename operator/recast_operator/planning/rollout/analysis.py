"""One look at a canary: which counts to ask for, and what the answers come to, metric by metric.

A look is made at every pass while a step is measured. It remembers nothing but what stands in status: the counts since
the step's weight took effect are asked for anew each time. What they mean is judged in :mod:`planning.rollout.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from recast_api.resources import AnalysisMetric, CanaryStatus, MetricResult, Verdict
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.rollout import statistics
from recast_operator.planning.rollout.questions import BAD, Answer, Count, Question, Track
from recast_operator.planning.rollout.verdict import Counts, Doubt, Evaluation, judge_difference, judge_share
from recast_operator.planning.snapshot import ObservedExpert

MIN_WINDOW_SECONDS = 6
"""Two scrapes at dev/cluster's interval. Where Prometheus scrapes more rarely the answer is NoData, which waits."""
INTERVAL_SECONDS = 5
"""A canary is judged at every pass, and a pass comes at least so often."""

_UNASKED = Answer(None, "it was not asked")


def due(observed: ObservedExpert, now: datetime) -> bool:
    """Whether there is a canary to judge, whose weight took effect two scrapes ago."""
    canary = observed.model.status.canary
    if canary is None or canary.state != "Progressing" or canary.weight_since is None:
        return False
    return bool(observed.model.spec.rollout.analysis) and elapsed(canary.weight_since, now) >= MIN_WINDOW_SECONDS


def questions(observed: ObservedExpert, now: datetime) -> tuple[Question, ...]:
    """What planning wants to know for this snapshot; nothing where no canary is judged."""
    canary = observed.model.status.canary
    if canary is None or not due(observed, now):
        return ()
    own, stable = tracks(observed, canary, now)
    asked = [track.ask(Count.REQUESTS) for track in (own, stable) if track is not None]
    for entry in observed.model.spec.rollout.analysis:
        compared = [own, stable] if entry.max_over_stable is not None else [own]
        for track in compared:
            asked += [track.bad(entry.metric), track.all(entry.metric)] if track is not None else []
    return tuple(dict.fromkeys(asked))


def tracks(observed: ObservedExpert, canary: CanaryStatus, now: datetime) -> tuple[Track, Track | None]:
    """The canary and stable, over the window since the weight took effect."""
    meta, stable = observed.model.metadata, observed.model.status.stable
    window = max(1, int(elapsed(canary.weight_since, now))) if canary.weight_since else 1
    own = Track(meta.namespace, meta.name, canary.revision, window)
    return own, Track(meta.namespace, meta.name, stable.revision, window) if stable else None


def evaluate(observed: ObservedExpert, canary: CanaryStatus, *, stable_serves: bool, now: datetime) -> Evaluation:
    """One look. Comparisons are left out in a step where stable serves nothing."""
    own, stable = tracks(observed, canary, now)
    looks = tuple(_looks(observed, canary, stable if stable_serves else None, now))
    return Evaluation(
        results=tuple(look.result() for look in looks),
        measured_weight=_measured_weight(observed.answers, own, stable),
        answered=not any(look.error for look in looks),
    )


@dataclass(frozen=True)
class _Look:
    """One metric at one moment, with all that its result says."""

    entry: AnalysisMetric
    counts: Counts
    beside: Counts | None
    """Stable's, where the metric is compared with them."""
    doubt: Doubt
    window_seconds: int
    query: str
    now: datetime

    @property
    def error(self) -> str:
        """Why one of its answers cannot be used."""
        return self.counts.error or (self.beside.error if self.beside else "")

    @property
    def limit(self) -> float:
        """The share of bad requests that is allowed, alone or above stable's."""
        if self.entry.min is not None:
            return 1.0 - float(self.entry.min)
        return float(self.entry.max or self.entry.max_over_stable or 0)

    @property
    def bound(self) -> str:
        """The limit as the spec has it."""
        if self.entry.min is not None:
            return f"min {self.entry.min}"
        return f"max {self.entry.max}" if self.entry.max is not None else f"stable + {self.entry.max_over_stable}"

    @property
    def verdict(self) -> Verdict:
        """What the counts say."""
        if self.beside is None:
            return judge_share(self.counts, self.limit, self.doubt)
        return judge_difference(self.counts, self.beside, self.limit, self.doubt)

    @property
    def needed(self) -> int:
        """Requests after which a canary without a bad one succeeds."""
        doubt = self.doubt.false_good / (1 if self.beside is None else 2)
        return statistics.requests_needed(self.limit, doubt)

    @property
    def shown(self) -> float:
        """The share that the metric is named after."""
        return 1.0 - self.counts.share if self.entry.min is not None else self.counts.share

    def result(self) -> MetricResult:
        """What is written of it."""
        return MetricResult(
            metric=self.entry.metric,
            verdict=self.verdict,
            value=_number(self.shown, 4) if self.counts.known else "",
            stable_value=_number(self.beside.share, 4) if self.beside and self.beside.known else "",
            bound=self.bound,
            samples=int(self.counts.total),
            min_samples=self.needed,
            query=self.query,
            time=stamp(self.now),
            message=self._message(),
        )

    def _message(self) -> str:
        metric, seconds = self.entry.metric, self.window_seconds
        if self.error:
            return f"{metric}: no usable answer from Prometheus: {self.error}"
        if not self.counts.known:
            return (
                f"{metric}: no requests counted in {seconds} s; send traffic or check that Prometheus scrapes the pods"
            )
        counted = f"({self.counts.total:.0f} requests, {seconds}s)"
        if self.beside is not None and not self.beside.known:
            return f"{metric} {_number(self.shown)} {counted}: no requests reach the stable revision to compare with"
        if self.verdict is Verdict.FAILURE:
            return f"{metric} {_number(self.shown)} {self._beyond()} {counted}"
        text = f"{metric} {_number(self.shown)}, {self.bound} {counted}"
        if self.verdict is Verdict.SUCCESS:
            return text
        if self.counts.total < self.needed:
            return f"{text}; at least {self.needed} requests are needed"
        return f"{text}; it takes more requests to tell: the nearer to the limit, the more"

    def _beyond(self) -> str:
        if self.beside is not None:
            return f"> stable {_number(self.beside.share)} + {self.entry.max_over_stable}"
        return f"< {self.entry.min}" if self.entry.min is not None else f"> {self.entry.max}"


def _looks(observed: ObservedExpert, canary: CanaryStatus, stable: Track | None, now: datetime) -> Iterator[_Look]:
    own, _ = tracks(observed, canary, now)
    rollout = observed.model.spec.rollout
    before = {entry.metric: entry.samples for entry in canary.results}
    for entry in rollout.analysis:
        if entry.max_over_stable is not None and stable is None:
            continue
        yield _Look(
            entry=entry,
            counts=_not_fewer(_counts(entry, own, observed.answers), before.get(entry.metric, 0)),
            beside=_counts(entry, stable, observed.answers) if stable and entry.max_over_stable is not None else None,
            doubt=Doubt.of(rollout),
            window_seconds=own.window_seconds,
            query=_query(entry, own, observed.answers),
            now=now,
        )


def _counts(entry: AnalysisMetric, track: Track, answers: Mapping[Question, Answer]) -> Counts:
    bad, total = (answers.get(asked, _UNASKED) for asked in (track.bad(entry.metric), track.all(entry.metric)))
    if bad.count is None or total.count is None:
        return Counts(0, 0, bad.error or total.error)
    if bad.count > total.count + _slack(total.count):
        return Counts(0, 0, f"{bad.count:.0f} {BAD[entry.metric]} of {total.count:.0f}, which cannot be")
    return Counts(min(bad.count, total.count), total.count)


def _slack(total: float) -> float:
    """Where a container has restarted, two counters may be a scrape apart."""
    return 1 + total / 100


def _not_fewer(counts: Counts, before: int) -> Counts:
    """Since the weight took effect there can only be more: data that went, or are old, are not judged by."""
    if counts.error or counts.total >= before:
        return counts
    return replace(counts, error=f"{counts.total:.0f} requests counted, where there were {before} before")


def _query(entry: AnalysisMetric, track: Track, answers: Mapping[Question, Answer]) -> str:
    texts = [answers.get(asked, _UNASKED).query for asked in (track.bad(entry.metric), track.all(entry.metric))]
    return " / ".join(text for text in texts if text)


def _measured_weight(answers: Mapping[Question, Answer], own: Track, stable: Track | None) -> str:
    mine = answers.get(own.ask(Count.REQUESTS), _UNASKED).count
    theirs = answers.get(stable.ask(Count.REQUESTS), _UNASKED).count if stable else 0.0
    if mine is None or theirs is None or mine + theirs == 0:
        return ""
    return f"{100 * mine / (mine + theirs):.1f}"


def _number(share: float, digits: int = 3) -> str:
    return f"{share:.{digits}f}" if share == 0 or share >= 0.001 else f"{share:.2g}"
