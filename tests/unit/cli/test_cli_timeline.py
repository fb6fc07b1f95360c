"""Every transition of the loop gives one line, and a status that changes without meaning gives none."""

from __future__ import annotations

from typing import Any

import pytest
from conftest_cli import T0, T1, canary, condition, metric, pin, revision

from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_cli.timeline import Timeline


def texts(timeline: Timeline, *states: ExpertModel | FoundationModel | ModelVersion) -> list[str]:
    """The lines of the last state only."""
    lines = [timeline.feed(state) for state in states]
    return [f"{line.subject}: {line.text}" for line in lines[-1]]


REF = {"digest": "sha256:" + "ab" * 32, "since": T0}
RUN = {"number": 2, "jobName": "em-reels-r2-a1", "inputsHash": "h", "startedAt": T0}


def moved(name: str, version: int) -> dict[str, Any]:
    """A revision that still reads another foundation than the spec refers to."""
    return revision(name, version, 9) | {"foundation": pin(9) | {"name": "old-fm"}}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"run": {**RUN, "state": "Reserved"}}, []),
        ({}, {"run": {**RUN, "state": "Running"}}, ["reels: v2 trains: Job em-reels-r2-a1"]),
        (
            {"run": {**RUN, "state": "Running"}},
            {"run": {**RUN, "attempt": 2, "state": "BackingOff", "retryAt": T1}},
            ["reels: v2: attempt 2 is to start until 2026-03-01T12:01:00Z"],
        ),
        (
            {"conditions": [condition("Stale", "False", "Fresh")]},
            {"conditions": [condition("Stale", "True", "FoundationMajor", "home-fm v2 starts a lineage")]},
            ["reels: stale: FoundationMajor: home-fm v2 starts a lineage"],
        ),
        ({}, {"stable": revision("aaa", 1, 1)}, ["reels: v1@fm1 serves, revision aaa"]),
        (
            {"stable": revision("aaa", 1, 1)},
            {"stable": revision("aaa", 1, 1), "canary": canary("bbb", 2, 2)},
            ["reels: v2@fm2 is a canary beside v1@fm1, revision bbb"],
        ),
        (
            {"canary": canary("bbb", 2, 2, desiredWeight=25)},
            {"canary": canary("bbb", 2, 2, desiredWeight=25, actualWeight=25, weightSince=T1)},
            ["reels: v2@fm2  25% asked, 25% of endpoints"],
        ),
        (
            {
                "canary": canary(
                    "bbb",
                    2,
                    2,
                    desiredWeight=25,
                    weightSince=T0,
                    measuredWeight="24.6",
                    results=[
                        metric("error-rate", "Success", "0", 412),
                        metric("fresh-tae-share", "Success", "1.0", 412),
                    ],
                )
            },
            {"canary": canary("bbb", 2, 2, step=1, desiredWeight=50, weightSince=None)},
            ["reels: v2@fm2  25% passed   24.6% measured   errors 0/412   fresh TAE 100%"],
        ),
        (
            {"stable": revision("aaa", 1, 1), "canary": canary("bbb", 2, 2, measuredWeight="49.8")},
            {"stable": revision("bbb", 2, 2)},
            ["reels: v2@fm2 PROMOTED (was v1@fm1)   49.8% measured"],
        ),
        (
            {},
            {
                "failedRevisions": [
                    {
                        "revision": "ccc",
                        "version": 3,
                        "foundationVersion": 2,
                        "reason": "AnalysisFailed",
                        "message": "error-rate 0.197 > 0.010",
                        "time": T1,
                    }
                ]
            },
            ["reels: v3@fm2 ROLLED BACK   AnalysisFailed: error-rate 0.197 > 0.010"],
        ),
        (
            {"stable": moved("aaa", 1)},
            {
                "stable": moved("aaa", 1),
                "canary": canary("bbb", 2, 2),
                "failedRevisions": [
                    {
                        "revision": "ccc",
                        "version": 3,
                        "foundationVersion": 7,
                        "foundationName": "old-fm",
                        "reason": "Aborted",
                        "message": "on request",
                        "time": T1,
                    }
                ],
            },
            [
                "reels: v3@old-fm/7 ROLLED BACK   Aborted: on request",
                "reels: v2@fm2 is a canary beside v1@old-fm/9, revision bbb",
            ],
        ),
        (
            {},
            {"conditions": [condition("Stalled", "True", "FoundationNotFound", 'did you mean "home-fm"?')]},
            ['reels: FoundationNotFound: did you mean "home-fm"?'],
        ),
        ({"replicas": 1}, {"replicas": 2}, []),
    ],
)
def test_a_transition_of_an_expert_is_one_line(
    expert: Any, before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    assert texts(Timeline(), expert(**before), expert(**after)) == expected


def test_a_changed_spec_is_told_with_its_generation(expert: Any) -> None:
    assert texts(Timeline(), expert(), expert(generation=2)) == [
        "reels: applied again: its spec changed (generation 2)"
    ]


def test_the_same_state_twice_says_nothing(expert: Any) -> None:
    state = expert(stable=revision("aaa", 1, 1), conditions=[condition("Ready", "False", "NoPods", "none ready")])
    assert texts(Timeline(), state, state) == []


def test_a_foundation_tells_of_candidate_current_and_slots(foundation: Any) -> None:
    timeline = Timeline()
    first = foundation(current={"version": 1, "lineage": 1, **REF}, lineages=[{"lineage": 1, "version": 1}])
    both = foundation(
        current={"version": 1, "lineage": 1, **REF},
        candidate={"version": 2, "lineage": 2, **REF},
        wave={"granted": ["reels", "ads"], "waiting": ["feed"]},
        lineages=[{"lineage": 1, "version": 1}, {"lineage": 2, "version": 2}],
    )
    last = foundation(current={"version": 2, "lineage": 2, **REF}, lineages=[{"lineage": 2, "version": 2}])
    assert texts(timeline, first, both) == [
        "home-fm: v2 is the candidate, served beside v1 on its own lineage",
        "home-fm: refresh slots 2/2: reels, ads; feed wait",
    ]
    assert texts(timeline, last) == ["home-fm: v2 is current (was v1)"]


def test_a_version_lands_is_judged_and_retires(version: Any) -> None:
    timeline = Timeline()
    summary = {"state": "Accepted", "ne": "0.7312", "change": "-0.0041"}
    yes = condition("Accepted", "True", "GatesPassed")
    assert texts(timeline, version(2)) == ["home-fm: v2 landed, trained up to 2026-01-02T00:00:00Z"]
    accepted = version(2, conditions=[yes], summary=summary)
    assert texts(timeline, accepted) == ["home-fm: v2 accepted   NE 0.7312 (-0.0041)"]
    gone = version(2, conditions=[yes, condition("Retired", "True", "Unpinned", "no expert pins it")])
    assert texts(timeline, gone) == ["home-fm: v2 retired   no expert pins it"]


def test_a_rejected_version_says_why(version: Any) -> None:
    no = condition("Accepted", "False", "QualityRegression", "click NE +0.31 > 0.005")
    told = texts(Timeline(), version(3, "feed", 2), version(3, "feed", 2, conditions=[no]))
    assert told == ["feed: v3 REJECTED   QualityRegression: click NE +0.31 > 0.005"]


def test_a_deleted_model_is_told_and_a_deleted_version_is_not(expert: Any, version: Any) -> None:
    timeline = Timeline()
    assert [line.text for line in timeline.feed(expert(), deleted=True)] == ["deleted"]
    assert timeline.feed(version(1), deleted=True) == []


def failed(**more: Any) -> dict[str, Any]:
    base = {"revision": "ccc", "version": 3, "foundationVersion": 2, "reason": "AnalysisFailed", "time": T1}
    return {**base, "message": "in other words. Do this", **more}


def test_a_roll_back_is_told_once_and_again_only_for_another(expert: Any) -> None:
    timeline = Timeline()
    state, again = (
        expert(failedRevisions=[failed()]),
        expert(failedRevisions=[failed(), failed(time="2026-03-01T12:09:00Z")]),
    )
    assert texts(timeline, expert(), state) == ["reels: v3@fm2 ROLLED BACK   AnalysisFailed: in other words"]
    assert texts(timeline, state) == []
    assert len(texts(timeline, again)) == 1


def test_a_roll_back_names_the_metrics_that_failed(expert: Any) -> None:
    results = [
        metric("error-rate", "Success", "0.001", 300, bound="max 0.01"),
        metric("slow-share", "Failure", "0.5", 300, bound="max 0.1"),
        metric("fresh-tae-share", "NoData", "", 0),
    ]
    assert texts(Timeline(), expert(), expert(failedRevisions=[failed(results=results)])) == [
        "reels: v3@fm2 ROLLED BACK   AnalysisFailed: slow-share 0.5 (max 0.1), 300 requests"
    ]


def test_a_verdict_for_another_reason_is_told(version: Any) -> None:
    first = version(2, conditions=[condition("Accepted", "False", "NotFinite", "infinite weights")])
    other = version(2, conditions=[condition("Accepted", "False", "Denied", "denied by spec.deny")])
    assert texts(Timeline(), first, other) == ["home-fm: v2 REJECTED   Denied: denied by spec.deny"]
    assert texts(Timeline(), first, first) == []


def test_a_promoted_revision_of_the_same_version_is_told(expert: Any) -> None:
    """A changed image or resource is a revision too."""
    states = expert(stable=revision("aaa", 1, 1)), expert(stable=revision("bbb", 1, 1))
    assert texts(Timeline(), *states) == ["reels: v1@fm1 PROMOTED (was v1@fm1)"]


def test_a_weight_is_told_once_for_as_long_as_it_lasts(expert: Any) -> None:
    weighed = canary("bbb", 2, 2, desiredWeight=25, actualWeight=25, weightSince=T0)
    timeline = Timeline()
    assert "reels: v2@fm2  25% asked, 25% of endpoints" in texts(timeline, expert(canary=weighed))
    assert texts(timeline, expert(canary={**weighed, "measuredWeight": "24.6"})) == []
    assert texts(timeline, expert(canary={**weighed, "weightSince": T1})) == [
        "reels: v2@fm2  25% asked, 25% of endpoints"
    ]


def test_figures_are_those_that_are_numbers_each_under_its_own_name(expert: Any) -> None:
    results = [
        metric("error-rate", "Success", "0.1", 50),
        metric("slow-share", "Success", "0.25", 50),
        metric("fresh-tae-share", "NoData", "", 0),
    ]
    before = canary("bbb", 2, 2, desiredWeight=25, weightSince=T0, results=results)
    after = canary("bbb", 2, 2, step=1, desiredWeight=50, weightSince=None)
    assert texts(Timeline(), expert(canary=before), expert(canary=after)) == [
        "reels: v2@fm2  25% passed   errors 5/50   slow 25%"
    ]
