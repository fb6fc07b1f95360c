"""What counted requests say of a canary, and the promise that a verdict keeps.

The counts run from the moment the step's weight took effect. They are looked at every few seconds, and the promise
holds however often that is (:mod:`planning.rollout.statistics` has the tests):

* a revision that is at its limits or better in every metric is failed by its analysis in at most
  :data:`FALSE_ROLLBACK` of all roll-outs, over all metrics, steps and looks together;
* a revision that is at twice a limit or worse is promoted in at most :data:`FALSE_PROMOTION` of them.

In between either verdict is right, and it takes longest. What is shown neither good nor bad is Inconclusive, and ends
at the progress deadline. An answer that is missing, or that cannot be true, is NoData. Neither of the two ever counts
as Success or as Failure. How a look comes about is told in :mod:`planning.rollout.analysis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recast_api.resources import CanaryStatus, MetricResult, Rollout, Verdict
from recast_operator.planning.clock import elapsed
from recast_operator.planning.rollout import statistics

FALSE_ROLLBACK = 0.05
FALSE_PROMOTION = 0.05
WRITE_SECONDS = 60
"""Verdicts are written when they change; figures that came to the same verdicts, only so often."""


@dataclass(frozen=True)
class Evaluation:
    """What one look at a canary came to."""

    results: tuple[MetricResult, ...]
    """One for each metric of the spec that can be judged in this step."""
    measured_weight: str
    """The canary's share of requests in percent, one decimal; empty where nobody counted."""
    answered: bool
    """False: a question has no answer, or one that cannot be true. That says nothing of the canary, and the time is not
    held against it."""


@dataclass(frozen=True)
class Doubt:
    """How often one metric may be wrong in one step."""

    false_worse: float
    false_good: float

    @classmethod
    def of(cls, rollout: Rollout) -> Doubt:
        """Each metric of each step may fail the canary, so they share what is allowed. A bad canary must pass all."""
        return cls(FALSE_ROLLBACK / max(1, len(rollout.analysis) * len(rollout.steps)), FALSE_PROMOTION)


@dataclass(frozen=True)
class Counts:
    """Bad and all requests of one revision in the window; none at all where nothing is known of its servers."""

    bad: float
    total: float
    error: str = ""
    """Why there is no count that can be used."""

    @property
    def known(self) -> bool:
        """Whether there are requests to judge by."""
        return not self.error and self.total > 0

    @property
    def share(self) -> float:
        """Bad ones per request; 0 where there are none."""
        return self.bad / self.total if self.total else 0.0


def overall(results: Sequence[MetricResult], expected: int) -> Verdict:
    """Failure of one is failure; success needs all of them."""
    verdicts = {result.verdict for result in results}
    if Verdict.FAILURE in verdicts:
        return Verdict.FAILURE
    if Verdict.NO_DATA in verdicts or len(results) < expected:
        return Verdict.NO_DATA
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Verdict.SUCCESS


def merge_results(
    previous: Sequence[MetricResult], fresh: Sequence[MetricResult], now: datetime
) -> Sequence[MetricResult]:
    """What status says: the fresh results where a verdict has changed or a minute is over, else the previous ones."""
    changed = [_judgement(entry) for entry in previous] != [_judgement(entry) for entry in fresh]
    old = any(not 0 <= elapsed(entry.time, now) < WRITE_SECONDS for entry in previous)
    return fresh if changed or old else previous


def to_remember(canary: CanaryStatus, evaluation: Evaluation, now: datetime) -> dict[str, object]:
    """The fields of the canary's status that a look changes."""
    merged = merge_results(canary.results, evaluation.results, now)
    if merged is canary.results:
        return {}
    weight = evaluation.measured_weight or canary.measured_weight
    return {"results": list(merged), "measured_weight": weight}


_VERDICTS: dict[statistics.Answer, Verdict] = {
    "worse": Verdict.FAILURE,
    "good": Verdict.SUCCESS,
    "open": Verdict.INCONCLUSIVE,
}


def judge_share(counts: Counts, limit: float, doubt: Doubt) -> Verdict:
    """A share that must not rise above ``limit``."""
    if not counts.known:
        return Verdict.NO_DATA
    answer = statistics.judge_share(
        counts.bad, counts.total, limit, false_worse=doubt.false_worse, false_good=doubt.false_good
    )
    return _VERDICTS[answer]


def judge_difference(canary: Counts, stable: Counts, limit: float, doubt: Doubt) -> Verdict:
    """A share that must not rise above stable's at the same time by more than ``limit``."""
    if not canary.known or not stable.known:
        return Verdict.NO_DATA
    answer = statistics.judge_difference(
        canary.bad,
        canary.total,
        stable.bad,
        stable.total,
        limit,
        false_worse=doubt.false_worse,
        false_good=doubt.false_good,
    )
    return _VERDICTS[answer]


def _judgement(result: MetricResult) -> tuple[str, str, str]:
    return result.metric, result.verdict, result.bound
