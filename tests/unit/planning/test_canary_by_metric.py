"""Canaries through whole passes: failed by each metric, and never by a Prometheus that is away, slow or lying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import FailedRevision, MetricName, MetricResult, RevisionStatus, Verdict
from recast_operator.planning.rollout.questions import Answer, Count, Question

STEPS = [{"setWeight": 25, "pause": "10s"}, {"setWeight": 50, "pause": "10s"}]
DEFAULT = [
    {"metric": "error-rate", "max": "0.01"},
    {"metric": "slow-share", "maxOverStable": "0.05"},
    {"metric": "fresh-tae-share", "min": "0.95"},
]


def on_trial(analysis: list[dict[str, str]] = DEFAULT, **rollout: Any) -> Cluster:
    """Given a stable revision of image server:1, when server:2 is on trial and has its first weight."""
    cluster = Cluster(foundation(), expert("reels", rollout={"steps": STEPS, "analysis": analysis} | rollout))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None and weighed(c))
    return cluster


def weighed(cluster: Cluster) -> bool:
    canary = cluster.em("reels").status.canary
    return canary is not None and canary.weight_since is not None


def stable(cluster: Cluster) -> RevisionStatus:
    found = cluster.em("reels").status.stable
    assert found is not None
    return found


def promoted(cluster: Cluster) -> bool:
    return stable(cluster).serving.image == "server:2"


def failed(cluster: Cluster) -> FailedRevision:
    cluster.until(lambda c: bool(c.em("reels").status.failed_revisions), limit=900)
    return cluster.em("reels").status.failed_revisions[0]


def results(cluster: Cluster) -> list[MetricResult]:
    canary = cluster.em("reels").status.canary
    return canary.results if canary else []


@pytest.mark.parametrize(
    ("analysis", "metric", "canary", "beside", "says"),
    [
        (DEFAULT, MetricName.ERROR_RATE, 0.2, 0.0, "error-rate 0.200 > 0.01 ("),
        ([{"metric": "slow-share", "max": "0.1"}], MetricName.SLOW_SHARE, 0.3, 0.3, "slow-share 0.300 > 0.1 ("),
        (DEFAULT, MetricName.SLOW_SHARE, 0.3, 0.1, "slow-share 0.300 > stable 0.100 + 0.05 ("),
        (DEFAULT, MetricName.FRESH_TAE_SHARE, 0.3, 0.0, "fresh-tae-share 0.700 < 0.95 ("),
    ],
    ids=["error-rate", "slow-share", "slow-share-over-stable", "fresh-tae-share"],
)
def test_a_canary_is_rolled_back_by_each_metric(
    analysis: list[dict[str, str]], metric: MetricName, canary: float, beside: float, says: str
) -> None:
    cluster = on_trial(analysis)
    cluster.set_share("reels", "server:2", metric, canary)
    cluster.set_share("reels", "server:1", metric, beside)
    entry = failed(cluster)
    assert entry.reason == "AnalysisFailed"
    assert f"rolled back at 25%: {says}" in entry.message
    assert [result.metric for result in entry.results if result.verdict is Verdict.FAILURE] == [metric]
    assert stable(cluster).serving.image == "server:1"
    cluster.run(30)
    assert list(cluster.revision_ready("reels")) == [stable(cluster).revision]


@pytest.mark.parametrize("metric", list(MetricName))
def test_what_stable_does_not_better_is_no_fault_where_the_bound_is_stable_itself(metric: MetricName) -> None:
    """Stable is bad by this metric, the canary is not: it is the way out, and is promoted."""
    cluster = on_trial()
    cluster.set_share("reels", "server:1", metric, 0.6)
    cluster.until(promoted, limit=300)


def test_a_canary_as_slow_as_stable_is_promoted() -> None:
    cluster = on_trial()
    for image in ("server:1", "server:2"):
        cluster.set_share("reels", image, MetricName.SLOW_SHARE, 0.4)
    cluster.until(promoted, limit=300)


def test_a_canary_between_the_limit_and_twice_the_limit_waits_until_its_deadline() -> None:
    """1.44 % against 1 % is where the evidence stands still."""
    cluster = on_trial([{"metric": "error-rate", "max": "0.01"}], progressDeadlineSeconds=120)
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.01443)
    entry = failed(cluster)
    assert entry.reason == "ProgressDeadlineExceeded"
    assert "it takes more requests to tell" in entry.message


def test_two_passes_with_the_same_verdicts_leave_an_identical_status() -> None:
    cluster = on_trial([{"metric": "error-rate", "max": "0.000001"}])
    cluster.until(lambda c: bool(results(c)))
    before = cluster.em("reels").status
    cluster.run(59)
    assert cluster.em("reels").status == before
    assert results(cluster)[0].verdict is Verdict.INCONCLUSIVE
    cluster.run(2)
    after = cluster.em("reels").status
    assert after != before
    assert results(cluster)[0].samples > before.canary.results[0].samples  # type: ignore[union-attr]
    cluster.run(58)
    assert cluster.em("reels").status == after


def test_a_verdict_that_changes_is_acted_on_at_the_next_look() -> None:
    cluster = on_trial([{"metric": "error-rate", "max": "0.01"}], steps=[{"setWeight": 25, "pause": "300s"}])
    cluster.until(lambda c: [entry.verdict for entry in results(c)] == [Verdict.SUCCESS])
    cluster.run(100)
    cluster.set_share("reels", "server:2", MetricName.ERROR_RATE, 0.5)
    cluster.run(6)
    assert cluster.em("reels").status.failed_revisions[0].reason == "AnalysisFailed"


@pytest.mark.parametrize("pause", ["10s", "1h"])
def test_a_canary_is_first_looked_at_after_two_scrapes_and_then_every_five_seconds(pause: str) -> None:
    cluster = on_trial([{"metric": "error-rate", "max": "0.000001"}], steps=[{"setWeight": 25, "pause": pause}])
    cluster.run(2)
    assert cluster.plan("reels").requeue_after == 4
    cluster.run(18)
    assert cluster.plan("reels").requeue_after == 5
    assert not cluster.plan("reels").events


def test_a_pause_that_ends_before_the_next_look_is_waited_for() -> None:
    cluster = on_trial([{"metric": "error-rate", "max": "0.000001"}], steps=[{"setWeight": 25, "pause": "22s"}])
    cluster.run(20)
    assert cluster.plan("reels").requeue_after == 2


def test_a_metric_that_is_taken_out_of_the_spec_holds_the_canary_no_more() -> None:
    cluster = on_trial([{"metric": "error-rate", "max": "0.000001"}])
    cluster.until(lambda c: bool(results(c)))
    cluster.edit("reels", rollout={"steps": STEPS, "analysis": []})
    cluster.until(promoted, limit=60)


def test_a_step_of_all_traffic_has_no_stable_to_compare_with() -> None:
    cluster = on_trial(steps=[{"setWeight": 100, "pause": "10s"}])
    cluster.until(lambda c: bool(results(c)))
    assert [entry.metric for entry in results(cluster)] == [MetricName.ERROR_RATE, MetricName.FRESH_TAE_SHARE]
    cluster.until(promoted, limit=60)


def test_a_step_without_analysis_is_not_looked_at_until_its_pause_is_over() -> None:
    cluster = on_trial([], steps=[{"setWeight": 25, "pause": "100s"}])
    cluster.run(20)
    waits = cluster.plan("reels").requeue_after
    assert waits is not None
    assert 70 < waits <= 80
    cluster.until(promoted, limit=120)


@pytest.mark.parametrize("scrape", [1.0, 2.0, 30.0, 60.0])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_rare_scrapes_lead_to_waiting_and_never_to_a_wrong_verdict(scrape: float, share: float) -> None:
    cluster = on_trial()
    cluster.scrape_seconds = scrape
    cluster.set_share("reels", "server:2", MetricName.SLOW_SHARE, share)
    seen: set[tuple[int, Verdict]] = set()
    cluster.until(
        lambda c: promoted(c) or bool(c.em("reels").status.failed_revisions),
        limit=600,
        watch=lambda c: seen.update((entry.samples, entry.verdict) for entry in results(c)),
    )
    assert promoted(cluster) is (share == 0.0)
    assert {verdict for samples, verdict in seen if samples == 0} <= {Verdict.NO_DATA}
    if scrape >= 30:
        assert (0, Verdict.NO_DATA) in seen


def silent(question: Question) -> Answer:
    return Answer(None, "http://prometheus: Cannot connect")


def lying(question: Question) -> Answer | None:
    """Every request is an error, and then some."""
    return Answer(1e6) if question.count in (Count.ERRORS, Count.SLOW, Count.TAE_NOT_FRESH) else None


def half_silent(question: Question) -> Answer | None:
    return Answer(None, "HTTP 503: busy") if question.count is Count.TAE_ANSWERS else None


@pytest.mark.parametrize("garble", [silent, lying, half_silent])
def test_a_prometheus_that_gives_no_usable_answer_fails_and_promotes_nobody(
    garble: Callable[[Question], Answer | None],
) -> None:
    cluster = on_trial(progressDeadlineSeconds=3600)
    cluster.garble = garble
    cluster.run(120)
    assert not promoted(cluster)
    assert cluster.em("reels").status.failed_revisions == []
    assert any(
        entry.verdict is Verdict.NO_DATA and "no usable answer from Prometheus" in entry.message
        for entry in results(cluster)
    )
    cluster.garble = None
    cluster.until(promoted, limit=300)


def test_requests_of_one_experts_canary_do_not_judge_anothers() -> None:
    cluster = on_trial()
    cluster.set_share("feed", "server:2", MetricName.ERROR_RATE, 1.0)
    cluster.until(promoted, limit=300)
