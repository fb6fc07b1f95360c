"""From counts to verdicts: which questions are asked, what answers and missing answers mean, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from planning_simulator import digest_of, expert

from recast_api.resources import CanaryStatus, FoundationPin, MetricName, MetricResult, RevisionStatus, Rollout, Verdict
from recast_operator.planning import rollout as rollout_package
from recast_operator.planning.clock import stamp
from recast_operator.planning.rollout import analysis
from recast_operator.planning.rollout.questions import Answer, Count, Question
from recast_operator.planning.rollout.verdict import (
    Counts,
    Doubt,
    Evaluation,
    judge_difference,
    judge_share,
    merge_results,
    overall,
    to_remember,
)
from recast_operator.planning.snapshot import ObservedExpert

SINCE = datetime(2026, 11, 21, 12, tzinfo=UTC)
NOW = SINCE + timedelta(seconds=60)
DOUBT = Doubt(0.05 / 6, 0.05)
ANALYSIS = [
    {"metric": "error-rate", "max": "0.01"},
    {"metric": "slow-share", "maxOverStable": "0.05"},
    {"metric": "fresh-tae-share", "min": "0.95"},
]
GOOD: dict[str, dict[Count, float | None]] = {
    "new": {
        Count.REQUESTS: 1000,
        Count.ERRORS: 0,
        Count.SLOW: 0,
        Count.TAE_ANSWERS: 900,
        Count.TAE_NOT_FRESH: 0,
    },
    "old": {Count.REQUESTS: 3000, Count.SLOW: 30},
}


def revision(name: str, **more: Any) -> dict[str, Any]:
    pin = FoundationPin(name="home-fm", version=1, lineage=1, digest=digest_of("fm"))
    return {
        "revision": name,
        "version": 1,
        "digest": digest_of(name),
        "path": "p",
        "foundation": pin,
        "serving": expert("reels").spec.serving,
        "since": stamp(SINCE),
    } | more


def observed(**changes: Any) -> ObservedExpert:
    """An expert whose canary ``new`` took its weight beside ``old`` a minute ago."""
    canary = CanaryStatus(
        **revision("new", progressed_at=stamp(SINCE), weight_since=stamp(SINCE)) | changes.pop("canary", {})
    )
    model = expert("reels", rollout={"analysis": ANALYSIS} | changes.pop("rollout", {}))
    status = model.status.model_copy(update={"canary": canary, "stable": RevisionStatus(**revision("old"))} | changes)
    return ObservedExpert(model=model.model_copy(update={"status": status}))


def answered(seen: ObservedExpert, answers: Mapping[str, Mapping[Count, float | None]], **errors: str) -> Evaluation:
    """One look with these counts; ``errors`` by the name of a count of the canary's."""
    found: dict[Question, Answer] = {}
    for question in analysis.questions(seen, NOW):
        error = errors.get(question.count.name, "") if question.revision == "new" else ""
        count = None if error else answers[question.revision][question.count]
        found[question] = Answer(count, error, f"{question.count.name}({question.revision})")
    canary = seen.model.status.canary
    assert canary is not None
    return analysis.evaluate(replace(seen, answers=found), canary, stable_serves=True, now=NOW)


def changed(revision: str, **counts: float | None) -> dict[str, dict[Count, float | None]]:
    return GOOD | {revision: GOOD[revision] | {Count[name]: count for name, count in counts.items()}}


def by_metric(evaluation: Evaluation) -> dict[str, MetricResult]:
    return {str(entry.metric): entry for entry in evaluation.results}


def test_each_question_is_asked_once_about_the_window_since_the_weight_took_effect() -> None:
    asked = [(entry.revision, entry.count) for entry in analysis.questions(observed(), NOW)]
    assert asked == [
        ("new", Count.REQUESTS),
        ("old", Count.REQUESTS),
        ("new", Count.ERRORS),
        ("new", Count.SLOW),
        ("old", Count.SLOW),
        ("new", Count.TAE_NOT_FRESH),
        ("new", Count.TAE_ANSWERS),
    ]
    assert {(entry.namespace, entry.model, entry.window_seconds) for entry in analysis.questions(observed(), NOW)} == {
        ("demo", "reels", 60)
    }


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        (observed(), 5),
        (observed(canary={"weight_since": None}), 60),
        (observed(canary={"state": "Promoting"}), 60),
        (observed(rollout={"analysis": []}), 60),
    ],
    ids=["two-scrapes-are-not-over", "no-weight-yet", "promoting", "nothing-to-judge"],
)
def test_nothing_is_asked_where_nothing_is_judged(seen: ObservedExpert, seconds: int) -> None:
    assert analysis.questions(seen, SINCE + timedelta(seconds=seconds)) == ()
    assert not analysis.due(seen, SINCE + timedelta(seconds=seconds))


def test_a_look_is_due_after_two_scrapes() -> None:
    assert analysis.due(observed(), SINCE + timedelta(seconds=6))


def test_a_good_canary_succeeds_in_every_metric() -> None:
    evaluation = answered(observed(), GOOD)
    assert evaluation.answered
    assert evaluation.measured_weight == "25.0"
    assert overall(evaluation.results, 3) is Verdict.SUCCESS
    errors, slow, fresh = evaluation.results
    assert (errors.value, errors.bound, errors.samples, errors.min_samples) == ("0.0000", "max 0.01", 1000, 296)
    assert (slow.value, slow.stable_value, slow.bound) == ("0.0000", "0.0100", "stable + 0.05")
    assert (slow.samples, slow.min_samples) == (1000, 69)
    assert (fresh.value, fresh.bound, fresh.samples, fresh.min_samples) == ("1.0000", "min 0.95", 900, 56)
    assert errors.query == "ERRORS(new) / REQUESTS(new)"
    assert errors.message == "error-rate 0.000, max 0.01 (1000 requests, 60s)"
    assert slow.message == "slow-share 0.000, stable + 0.05 (1000 requests, 60s)"
    assert errors.time == stamp(NOW)


@pytest.mark.parametrize(
    ("counts", "metric", "message"),
    [
        (changed("new", ERRORS=50), "error-rate", "error-rate 0.050 > 0.01 (1000 requests, 60s)"),
        (changed("new", SLOW=300), "slow-share", "slow-share 0.300 > stable 0.010 + 0.05 (1000 requests, 60s)"),
        (changed("new", TAE_NOT_FRESH=270), "fresh-tae-share", "fresh-tae-share 0.700 < 0.95 (900 requests, 60s)"),
    ],
    ids=["error-rate", "slow-share", "fresh-tae-share"],
)
def test_a_canary_is_failed_by_the_metric_that_is_bad_and_by_no_other(
    counts: dict[str, dict[Count, float | None]], metric: str, message: str
) -> None:
    evaluation = answered(observed(), counts)
    assert {name for name, entry in by_metric(evaluation).items() if entry.verdict is Verdict.FAILURE} == {metric}
    assert by_metric(evaluation)[metric].message == message
    assert overall(evaluation.results, 3) is Verdict.FAILURE


def test_an_absolute_limit_on_slow_requests_does_not_look_at_stable() -> None:
    analysis_ = [{"metric": "slow-share", "max": "0.1"}]
    seen = observed(rollout={"analysis": analysis_})
    assert ("old", Count.SLOW) not in {(entry.revision, entry.count) for entry in analysis.questions(seen, NOW)}
    (result,) = answered(seen, changed("new", SLOW=400)).results
    assert result.message == "slow-share 0.400 > 0.1 (1000 requests, 60s)"
    assert (result.verdict, result.stable_value) == (Verdict.FAILURE, "")


def test_a_canary_as_slow_as_a_slow_stable_passes() -> None:
    counts = changed("new", SLOW=400) | {"old": {Count.REQUESTS: 3000, Count.SLOW: 1200}}
    assert by_metric(answered(observed(), counts))["slow-share"].verdict is Verdict.SUCCESS


def test_comparisons_are_left_out_where_stable_serves_nothing() -> None:
    seen = observed()
    assert seen.model.status.canary is not None
    evaluation = analysis.evaluate(seen, seen.model.status.canary, stable_serves=False, now=NOW)
    assert [entry.metric for entry in evaluation.results] == [MetricName.ERROR_RATE, MetricName.FRESH_TAE_SHARE]


@pytest.mark.parametrize("lost", ["ERRORS", "SLOW", "REQUESTS", "TAE_ANSWERS", "TAE_NOT_FRESH"])
def test_one_failed_query_of_seven_reads_neither_as_success_nor_as_failure(lost: str) -> None:
    evaluation = answered(observed(), GOOD, **{lost: "HTTP 503: overloaded"})
    assert not evaluation.answered
    assert overall(evaluation.results, 3) is Verdict.NO_DATA
    silent = [entry for entry in evaluation.results if entry.verdict is Verdict.NO_DATA]
    assert all("no usable answer from Prometheus: HTTP 503: overloaded" in entry.message for entry in silent)
    assert {entry.value for entry in silent} == {""}
    others = {entry.verdict for entry in evaluation.results if entry not in silent}
    assert others <= {Verdict.SUCCESS}


def test_a_metric_that_is_proven_bad_fails_the_canary_though_another_has_no_answer() -> None:
    evaluation = answered(observed(), changed("new", ERRORS=200), TAE_ANSWERS="timeout")
    assert overall(evaluation.results, 3) is Verdict.FAILURE
    assert not evaluation.answered


def test_prometheus_away_says_so_for_every_metric_and_is_not_the_canarys_time() -> None:
    errors = {entry.name: "http://p: Cannot connect" for entry in Count}
    evaluation = answered(observed(), changed("old", REQUESTS=None), **errors)
    assert not evaluation.answered
    assert evaluation.measured_weight == ""
    assert [entry.verdict for entry in evaluation.results] == [Verdict.NO_DATA] * 3
    assert all("http://p: Cannot connect" in entry.message for entry in evaluation.results)


def test_a_snapshot_without_answers_is_no_data() -> None:
    seen = observed()
    assert seen.model.status.canary is not None
    evaluation = analysis.evaluate(seen, seen.model.status.canary, stable_serves=True, now=NOW)
    assert not evaluation.answered
    assert {entry.verdict for entry in evaluation.results} == {Verdict.NO_DATA}
    assert evaluation.results[0].query == ""


@pytest.mark.parametrize("nothing", [0, None])
def test_a_canary_without_traffic_is_no_data_and_its_time_counts(nothing: float | None) -> None:
    counts = GOOD | {"new": dict.fromkeys(GOOD["new"], nothing)}
    evaluation = answered(observed(), counts)
    assert evaluation.answered
    assert [entry.verdict for entry in evaluation.results] == [Verdict.NO_DATA] * 3
    assert evaluation.results[0].message == (
        "error-rate: no requests counted in 60 s; send traffic or check that Prometheus scrapes the pods"
    )


@pytest.mark.parametrize("nothing", [0, None])
def test_a_comparison_without_traffic_to_stable_is_no_data(nothing: float | None) -> None:
    evaluation = answered(observed(), GOOD | {"old": dict.fromkeys(GOOD["old"], nothing)})
    slow = by_metric(evaluation)["slow-share"]
    assert (slow.verdict, slow.stable_value) == (Verdict.NO_DATA, "")
    assert slow.message.endswith("no requests reach the stable revision to compare with")
    assert evaluation.answered


def test_more_bad_requests_than_requests_cannot_be_and_are_no_data() -> None:
    evaluation = answered(observed(), changed("new", ERRORS=1012))
    assert not evaluation.answered
    errors = by_metric(evaluation)["error-rate"]
    assert errors.verdict is Verdict.NO_DATA
    assert errors.message == ("error-rate: no usable answer from Prometheus: 1012 errors of 1000, which cannot be")


def test_two_counters_a_scrape_apart_are_still_all_bad() -> None:
    errors = by_metric(answered(observed(), changed("new", ERRORS=1011)))["error-rate"]
    assert (errors.verdict, errors.value) == (Verdict.FAILURE, "1.0000")


def test_an_impossible_count_of_stables_is_no_data_too() -> None:
    evaluation = answered(observed(), changed("old", SLOW=9000))
    assert not evaluation.answered
    assert "9000 slow of 3000, which cannot be" in by_metric(evaluation)["slow-share"].message


def test_fewer_requests_than_before_are_no_data_once_and_then_counted_anew() -> None:
    before = answered(observed(), GOOD)
    lost = changed("new", REQUESTS=400, SLOW=0)
    evaluation = answered(observed(canary={"results": list(before.results)}), lost)
    assert not evaluation.answered
    errors, _, fresh = evaluation.results
    assert errors.verdict is Verdict.NO_DATA
    assert errors.message.endswith("400 requests counted, where there were 1000 before")
    assert fresh.verdict is Verdict.SUCCESS
    again = answered(observed(canary={"results": list(evaluation.results)}), lost)
    assert again.answered
    assert overall(again.results, 3) is Verdict.SUCCESS


def test_a_series_that_vanished_is_not_taken_for_a_canary_without_traffic() -> None:
    before = answered(observed(), GOOD)
    evaluation = answered(observed(canary={"results": list(before.results)}), changed("new", REQUESTS=None))
    assert not evaluation.answered


@pytest.mark.parametrize(
    ("counts", "ending"),
    [
        (changed("new", REQUESTS=295), "(295 requests, 60s); at least 296 requests are needed"),
        (changed("new", REQUESTS=296, ERRORS=1), "it takes more requests to tell: the nearer to the limit, the more"),
        (changed("new", ERRORS=12), "it takes more requests to tell: the nearer to the limit, the more"),
    ],
    ids=["too-few", "enough-for-a-clean-one", "too-near"],
)
def test_an_open_question_says_what_it_waits_for(counts: dict[str, dict[Count, float | None]], ending: str) -> None:
    errors = by_metric(answered(observed(), counts))["error-rate"]
    assert errors.verdict is Verdict.INCONCLUSIVE
    assert errors.message.endswith(ending)


def test_a_share_that_must_be_all_allows_not_one_bad_request() -> None:
    seen = observed(rollout={"analysis": [{"metric": "fresh-tae-share", "min": "1"}]})
    verdicts = [answered(seen, changed("new", TAE_NOT_FRESH=bad)).results[0].verdict for bad in (0, 1)]
    assert verdicts == [Verdict.SUCCESS, Verdict.FAILURE]


@pytest.mark.parametrize(
    ("canary", "stable", "weight"),
    [(0, 3000, "0.0"), (500, 0, "100.0"), (0, 0, ""), (None, 3000, ""), (1000, None, "")],
)
def test_the_measured_weight_is_the_canarys_share_of_requests(
    canary: float | None, stable: float | None, weight: str
) -> None:
    counts = changed("new", REQUESTS=canary) | {"old": {Count.REQUESTS: stable, Count.SLOW: 0}}
    assert answered(observed(), counts).measured_weight == weight


def test_a_tiny_share_is_not_shown_as_none() -> None:
    seen = observed(rollout={"analysis": [{"metric": "error-rate", "max": "0.000001"}]})
    errors = by_metric(answered(seen, {"new": {Count.REQUESTS: 200_000.0, Count.ERRORS: 20.0}, "old": GOOD["old"]}))[
        "error-rate"
    ]
    assert errors.message == "error-rate 0.0001 > 0.000001 (200000 requests, 60s)"
    assert errors.value == "0.0001"


@pytest.mark.parametrize(
    ("bad", "total", "limit", "verdict"),
    [
        (0, 0, 0.01, Verdict.NO_DATA),
        (0, 295, 0.01, Verdict.INCONCLUSIVE),
        (0, 296, 0.01, Verdict.SUCCESS),
        (3, 300, 0.01, Verdict.INCONCLUSIVE),
        (3, 504, 0.01, Verdict.SUCCESS),
        (6, 6, 0.01, Verdict.INCONCLUSIVE),
        (7, 7, 0.01, Verdict.FAILURE),
        (12, 312, 0.01, Verdict.FAILURE),
        (10, 312, 0.01, Verdict.INCONCLUSIVE),
        (5, 5, 1.0, Verdict.SUCCESS),
    ],
)
def test_a_share_is_judged_by_its_count(bad: int, total: int, limit: float, verdict: Verdict) -> None:
    assert judge_share(Counts(bad, total), limit, DOUBT) is verdict


@pytest.mark.parametrize(
    ("canary", "stable", "verdict"),
    [
        ((0, 0), (0, 100), Verdict.NO_DATA),
        ((0, 100), (0, 0), Verdict.NO_DATA),
        ((0, 68), (0, 500), Verdict.INCONCLUSIVE),
        ((0, 69), (0, 500), Verdict.SUCCESS),
        ((0, 69), (0, 1), Verdict.SUCCESS),
        ((8, 100), (0, 300), Verdict.INCONCLUSIVE),
        ((40, 100), (2, 300), Verdict.FAILURE),
        ((50, 100), (50, 100), Verdict.INCONCLUSIVE),
        ((500, 1000), (500, 1000), Verdict.INCONCLUSIVE),
        ((900, 2000), (3000, 6000), Verdict.SUCCESS),
    ],
)
def test_a_difference_needs_both_revisions_at_once(
    canary: tuple[int, int], stable: tuple[int, int], verdict: Verdict
) -> None:
    assert judge_difference(Counts(*canary), Counts(*stable), 0.05, DOUBT) is verdict


def test_an_error_is_no_data_whatever_was_counted() -> None:
    broken = Counts(500, 500, "it cannot be")
    assert judge_share(broken, 0.01, DOUBT) is Verdict.NO_DATA
    assert judge_difference(Counts(500, 500), broken, 0.01, DOUBT) is Verdict.NO_DATA
    assert judge_difference(broken, Counts(500, 500), 0.01, DOUBT) is Verdict.NO_DATA


@pytest.mark.parametrize(("metrics", "steps", "each"), [(3, 2, 0.05 / 6), (1, 1, 0.05), (0, 4, 0.05), (2, 5, 0.005)])
def test_metrics_and_steps_share_what_may_be_failed_by_chance(metrics: int, steps: int, each: float) -> None:
    rollout = Rollout.model_validate({"analysis": ANALYSIS[:metrics], "steps": [{"setWeight": 10}] * steps})
    assert Doubt.of(rollout) == Doubt(pytest.approx(each), 0.05)


def results(*verdicts: str, at: datetime = NOW, **more: Any) -> list[MetricResult]:
    return [
        MetricResult(metric=metric, verdict=Verdict(verdict), time=stamp(at), **more)
        for metric, verdict in zip(MetricName, verdicts, strict=False)
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected", "verdict"),
    [
        (["Success", "Success"], 2, "Success"),
        (["Success"], 2, "NoData"),
        ([], 1, "NoData"),
        (["Success", "Inconclusive"], 2, "Inconclusive"),
        (["NoData", "Inconclusive"], 2, "NoData"),
        (["Failure", "NoData"], 2, "Failure"),
        (["Failure", "Success"], 2, "Failure"),
    ],
)
def test_all_must_succeed_and_one_failure_decides(verdicts: list[str], expected: int, verdict: str) -> None:
    assert overall(results(*verdicts), expected) is Verdict(verdict)


@pytest.mark.parametrize(
    ("previous", "fresh", "after", "written"),
    [
        (results("Success", samples=1), results("Success", samples=9), 59, False),
        (results("Success", samples=1), results("Success", samples=9), 60, True),
        (results("Inconclusive", samples=1), results("Success", samples=9), 1, True),
        ([], results("NoData"), 0, True),
        (results("Success"), results("Success", "NoData"), 1, True),
        (results("Success", bound="max 0.1"), results("Success", bound="max 0.2"), 1, True),
        (results("Success"), results("Success"), -1, True),
    ],
    ids=["same", "a-minute-old", "changed", "first", "one-more-metric", "another-bound", "clock-set-back"],
)
def test_figures_are_written_when_a_verdict_changes_and_else_once_a_minute(
    previous: list[MetricResult], fresh: list[MetricResult], after: int, written: bool
) -> None:
    merged = merge_results(previous, fresh, NOW + timedelta(seconds=after))
    assert merged is (fresh if written else previous)


def test_a_look_that_is_not_written_changes_no_field_of_the_canary() -> None:
    canary = CanaryStatus(
        **revision("new", progressed_at=stamp(SINCE), measured_weight="24.0"), results=results("Success")
    )
    later = NOW + timedelta(seconds=30)
    look = Evaluation(tuple(results("Success", at=later, samples=99)), "25.1", True)
    assert to_remember(canary, look, later) == {}
    failing = Evaluation(tuple(results("Failure", at=later)), "25.1", True)
    assert to_remember(canary, failing, later) == {"results": list(failing.results), "measured_weight": "25.1"}
    silent = Evaluation(tuple(results("NoData", at=later)), "", False)
    assert to_remember(canary, silent, later)["measured_weight"] == "24.0"


def test_planning_knows_nothing_of_the_query_language() -> None:
    folder = Path(str(rollout_package.__file__)).parents[1]
    words = ("PromQL", "increase(", "_over_time", "resets(", 'revision="', "REQUESTS_TOTAL", "SLOW_TOTAL", "TAE_TOTAL")
    for path in folder.rglob("*.py"):
        assert not [word for word in words if word in path.read_text()], path
