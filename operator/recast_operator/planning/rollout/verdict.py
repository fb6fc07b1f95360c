"""Judging a canary by measurements: which queries to ask, and what the answers mean.

Series are selected by the labels that Prometheus takes from the pods, never by anything a pod reports. The window
begins when the step's weight took effect. Requests are counted, not rated: the counts are what a verdict's certainty
rests on, and ``NoData`` and ``Inconclusive`` never count as ``Success``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api import server
from recast_api.resources import AnalysisMetric, CanaryStatus, MetricName, MetricResult, Verdict
from recast_operator.children.labels import EXPERT_SERVER
from recast_operator.planning.clock import elapsed, stamp
from recast_operator.planning.rollout import statistics
from recast_operator.planning.snapshot import ObservedExpert, Sample

MIN_WINDOW_SECONDS = 6
"""Two scrapes at dev/cluster's interval. Where Prometheus scrapes more rarely the answer is NoData, which waits."""
INTERVAL_SECONDS = 5
"""How often a canary is judged: results stand in status, and judging at every pass would write at every pass."""
MIN_BAD = 3
"""A failure verdict rests on at least so many bad requests, or one blip in the first five would end a canary at 1 %."""

_BAD: dict[MetricName, tuple[str, str]] = {
    MetricName.ERROR_RATE: (server.REQUESTS_TOTAL, 'code=~"5.."'),
    MetricName.SLOW_SHARE: (server.SLOW_TOTAL, ""),
    MetricName.FRESH_TAE_SHARE: (server.TAE_TOTAL, f'state!="{server.TAE_FRESH}"'),
}
_ALL: dict[MetricName, str] = {
    MetricName.ERROR_RATE: server.REQUESTS_TOTAL,
    MetricName.SLOW_SHARE: server.REQUESTS_TOTAL,
    MetricName.FRESH_TAE_SHARE: server.TAE_TOTAL,
}


@dataclass(frozen=True)
class Evaluation:
    """What one look at a canary came to."""

    results: tuple[MetricResult, ...]
    """One for each metric of the spec that can be judged in this step."""
    measured_weight: str
    """The canary's share of requests in percent, one decimal; empty where nobody counted."""
    answered: bool
    """False: Prometheus did not answer. Such a look says nothing of the canary, and its time is not held against it."""


@dataclass(frozen=True)
class Counts:
    """Bad and all requests of one revision in the window; None where Prometheus had no answer."""

    bad: int | None
    total: int | None

    @property
    def share(self) -> float:
        """Bad ones per request; only asked where there are any."""
        return (self.bad or 0) / (self.total or 1)


@dataclass(frozen=True)
class Track:
    """One revision's series, over one window."""

    namespace: str
    model: str
    revision: str
    window_seconds: int

    def count(self, name: str, extra: str = "") -> str:
        """The query for how many there were."""
        labels = {"namespace": self.namespace, "kind": EXPERT_SERVER, "model": self.model, "revision": self.revision}
        selector = ",".join([f'{key}="{value}"' for key, value in labels.items()] + ([extra] if extra else []))
        return f"sum(increase({name}{{{selector}}}[{self.window_seconds}s]))"

    def bad(self, metric: MetricName) -> str:
        """The query for the metric's bad requests."""
        return self.count(*_BAD[metric])

    def all(self, metric: MetricName) -> str:
        """The query for the metric's requests."""
        return self.count(_ALL[metric])


def due(canary: CanaryStatus | None, now: datetime) -> bool:
    """Whether to judge the canary now: its weight took effect two scrapes ago, and the last verdicts are old."""
    if canary is None or canary.state != "Progressing" or canary.weight_since is None:
        return False
    if elapsed(canary.weight_since, now) < MIN_WINDOW_SECONDS:
        return False
    return all(elapsed(result.time, now) >= INTERVAL_SECONDS for result in canary.results)


def queries(observed: ObservedExpert, now: datetime) -> tuple[str, ...]:
    """The PromQL instant queries whose answers planning wants for this snapshot; empty where no canary is judged."""
    status = observed.model.status
    if status.canary is None or not due(status.canary, now):
        return ()
    canary, stable = tracks(observed, status.canary, now)
    asked = [canary.count(server.REQUESTS_TOTAL)]
    if stable is not None:
        asked.append(stable.count(server.REQUESTS_TOTAL))
    for entry in observed.model.spec.rollout.analysis:
        asked += [canary.bad(entry.metric), canary.all(entry.metric)]
        if entry.max_over_stable is not None and stable is not None:
            asked += [stable.bad(entry.metric), stable.all(entry.metric)]
    return tuple(dict.fromkeys(asked))


def tracks(observed: ObservedExpert, canary: CanaryStatus, now: datetime) -> tuple[Track, Track | None]:
    """The canary's series and stable's, over the window since the weight took effect."""
    meta, stable = observed.model.metadata, observed.model.status.stable
    window = max(1, int(elapsed(canary.weight_since, now))) if canary.weight_since else 1
    own = Track(meta.namespace, meta.name, canary.revision, window)
    return own, Track(meta.namespace, meta.name, stable.revision, window) if stable else None


def measured_weight(observed: ObservedExpert, canary: CanaryStatus, now: datetime) -> str:
    """The canary's share of requests in percent, one decimal; empty where nobody counted."""
    own, other = tracks(observed, canary, now)
    mine = _count(observed.samples, own.count(server.REQUESTS_TOTAL))
    theirs = _count(observed.samples, other.count(server.REQUESTS_TOTAL)) if other else 0
    if mine is None or theirs is None or mine + theirs == 0:
        return ""
    return f"{100 * mine / (mine + theirs):.1f}"


def evaluate(observed: ObservedExpert, canary: CanaryStatus, *, stable_serves: bool, now: datetime) -> Evaluation:
    """One look. Comparisons are left out in a step where stable serves nothing."""
    return Evaluation(
        results=tuple(_results(observed, canary, stable_serves, now)),
        measured_weight=measured_weight(observed, canary, now),
        answered=not any(sample.error for sample in observed.samples.values()),
    )


def _results(
    observed: ObservedExpert, canary: CanaryStatus, stable_serves: bool, now: datetime
) -> Iterator[MetricResult]:
    own, other = tracks(observed, canary, now)
    for entry in observed.model.spec.rollout.analysis:
        if entry.max_over_stable is None:
            yield _against_limit(entry, own, observed.samples, now)
        elif stable_serves and other is not None:
            yield _against_stable(entry, own, other, observed.samples, now)


def overall(results: Sequence[MetricResult], expected: int) -> Verdict:
    """Failure of one is failure; success needs all of them."""
    verdicts = {result.verdict for result in results}
    if Verdict.FAILURE in verdicts:
        return Verdict.FAILURE
    if Verdict.NO_DATA in verdicts or len(results) < expected:
        return Verdict.NO_DATA
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Verdict.SUCCESS


def judge_share(counts: Counts, limit: float) -> Verdict:
    """A share that must not rise above ``limit``."""
    if counts.bad is None or not counts.total:
        return Verdict.NO_DATA
    if counts.bad >= MIN_BAD and statistics.exceeds(counts.bad, counts.total, limit):
        return Verdict.FAILURE
    enough = counts.total >= statistics.samples_for(limit)
    return Verdict.SUCCESS if enough and counts.share <= limit else Verdict.INCONCLUSIVE


def judge_difference(canary: Counts, stable: Counts, limit: float) -> Verdict:
    """A share that must not rise above stable's at the same time by more than ``limit``."""
    if canary.bad is None or not canary.total or stable.bad is None or not stable.total:
        return Verdict.NO_DATA
    low = statistics.difference_low(canary.bad, canary.total, stable.bad, stable.total)
    if canary.bad >= MIN_BAD and low > limit:
        return Verdict.FAILURE
    needed = statistics.samples_for(limit)
    enough = canary.total >= needed and stable.total >= needed
    return Verdict.SUCCESS if enough and canary.share - stable.share <= limit else Verdict.INCONCLUSIVE


def _against_limit(entry: AnalysisMetric, own: Track, samples: Mapping[str, Sample], now: datetime) -> MetricResult:
    counts = _counts(entry.metric, own, samples)
    rising = entry.max is not None
    limit = float(entry.max or 0) if rising else 1.0 - float(entry.min or 0)
    verdict = judge_share(counts, max(0.0, limit))
    shown = counts.share if rising else 1.0 - counts.share
    bound = f"max {entry.max}" if rising else f"min {entry.min}"
    return _result(entry, own, counts, verdict, shown, bound, statistics.samples_for(limit), samples, now)


def _against_stable(
    entry: AnalysisMetric, own: Track, other: Track, samples: Mapping[str, Sample], now: datetime
) -> MetricResult:
    counts, beside = _counts(entry.metric, own, samples), _counts(entry.metric, other, samples)
    limit = float(entry.max_over_stable or 0)
    verdict = judge_difference(counts, beside, limit)
    needed = statistics.samples_for(limit)
    result = _result(
        entry, own, counts, verdict, counts.share, f"stable + {entry.max_over_stable}", needed, samples, now
    )
    if not beside.total:
        return result.model_copy(
            update={"message": f"no requests reach the stable revision to compare with; {result.message}"}
        )
    return result.model_copy(update={"stable_value": f"{beside.share:.4f}"})


def _result(
    entry: AnalysisMetric,
    own: Track,
    counts: Counts,
    verdict: Verdict,
    shown: float,
    bound: str,
    needed: int,
    samples: Mapping[str, Sample],
    now: datetime,
) -> MetricResult:
    bad, total = own.bad(entry.metric), own.all(entry.metric)
    known = counts.bad is not None and bool(counts.total)
    errors = [samples[query].error for query in (bad, total) if query in samples and samples[query].error]
    return MetricResult(
        metric=entry.metric,
        verdict=verdict,
        value=f"{shown:.4f}" if known else "",
        bound=bound,
        samples=counts.total or 0,
        min_samples=needed,
        query=f"{bad} / {total}"[:1024],
        time=stamp(now),
        message=_words(entry.metric, verdict, shown, bound, counts.total or 0, needed, own.window_seconds, errors),
    )


def _words(
    metric: MetricName,
    verdict: Verdict,
    shown: float,
    bound: str,
    total: int,
    needed: int,
    window: int,
    errors: list[str],
) -> str:
    if errors:
        return f"{metric}: Prometheus did not answer: {errors[0][:200]}"
    if verdict is Verdict.NO_DATA:
        return f"{metric}: no requests counted in {window} s; send traffic or check that Prometheus scrapes the pods"
    if verdict is Verdict.FAILURE:
        kind, _, limit = bound.partition(" ")
        beyond = {"max": f"> {limit}", "min": f"< {limit}"}.get(kind, f"> {bound}")
        return f"{metric} {shown:.3f} {beyond} ({total} requests, {window}s)"
    text = f"{metric} {shown:.3f}, {bound} ({total} requests, {window}s)"
    if verdict is Verdict.INCONCLUSIVE and total < needed:
        return f"{text}; {needed} requests are needed"
    return text


def _counts(metric: MetricName, track: Track, samples: Mapping[str, Sample]) -> Counts:
    total = _count(samples, track.all(metric))
    bad = _count(samples, track.bad(metric))
    if bad is not None and total is not None:
        bad = min(bad, total)
    return Counts(bad, total)


def _count(samples: Mapping[str, Sample], query: str) -> int | None:
    sample = samples.get(query)
    return None if sample is None or sample.value is None else max(0, round(sample.value))
