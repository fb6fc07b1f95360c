"""``status`` and ``why`` as people read them: whole screens, compared with what is written here."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest_cli import T0, T1, canary, condition, metric, pin, revision
from rich.console import Console

from recast_cli import tree, why, words
from recast_cli.main import parser
from recast_cli.world import World, parse

NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
REF = {"digest": "sha256:" + "ab" * 32, "since": T0}


def screen(world: World, only: str | None = None) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    for entry in tree.render(world, NOW, only):
        console.print(entry)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


@pytest.fixture
def world(expert: Any, foundation: Any, version: Any) -> World:
    accepted = condition("Accepted", "True", "GatesPassed")
    lineages = [
        {"lineage": 1, "version": 1, "replicas": 1, "readyReplicas": 1, "pinnedBy": ["feed", "reels"], "pins": 2},
        {"lineage": 2, "version": 2, "replicas": 1, "readyReplicas": 1, "pinnedBy": ["reels"], "pins": 1},
    ]
    model = foundation(
        current={"version": 1, "lineage": 1, **REF},
        candidate={"version": 2, "lineage": 2, **REF},
        lineages=lineages,
        wave={"granted": ["reels"], "waiting": ["feed"]},
        summary={"experts": "0/2 on v2"},
        conditions=[condition("Ready", "True", "RefreshInProgress")],
    )
    reels = expert(
        stable=revision("aaa", 1, 1, replicas=3, readyReplicas=3),
        canary=canary(
            "bbb",
            2,
            2,
            desiredWeight=25,
            actualWeight=25,
            measuredWeight="24.6",
            weightSince=T1,
            results=[
                metric("error-rate", "NoData", "0", 12, minSamples=100, bound="max 0.03", query="sum(errors)"),
                metric("slow-share", "Success", "0.01", 400, stableValue="0.02", bound="<= stable + 0.25"),
            ],
        ),
        conditions=[condition("Ready", "True", "CanaryAnalysing")],
    )
    feed = expert(
        "feed",
        stable=revision("ddd", 1, 1),
        refresh={"reason": "FoundationMajor", "since": T0, "foundationVersion": 2},
        conditions=[
            condition("Ready", "True", "WaitingForSlot"),
            condition("Stale", "True", "FoundationMajor", "home-fm v2 starts a new lineage"),
        ],
    )
    versions = [
        version(1, conditions=[accepted], summary={"state": "Accepted", "ne": "0.7353"}),
        version(2, conditions=[accepted], summary={"state": "Accepted", "ne": "0.7312", "change": "-0.0041"}),
    ]
    return World.of([model, reels, feed, *versions])


def test_status_is_a_tree_from_the_foundation_down_to_weights_and_reasons(world: World) -> None:
    assert screen(world) == "\n".join(
        [
            "home-fm   current v1   candidate v2   experts 0/2 on v2   Ready=True RefreshInProgress",
            "├── refresh slots 1/2: reels; waiting: feed",
            "├── v2  Accepted  NE 0.7312 (-0.0041)  servers 1/1  pinned by reels  landed 5m ago",
            "└── v1  Accepted  NE 0.7353  servers 1/1  pinned by feed, reels  landed 5m ago",
            "    ├── feed  (surface feed)   Ready=True WaitingForSlot",
            "    │   ├── v1@fm1  stable  ddd  100%  4/4 ready",
            "    │   └── stale: FoundationMajor: home-fm v2 starts a new lineage",
            "    └── reels  (surface reels)   Ready=True CanaryAnalysing",
            "        ├── v1@fm1  stable  aaa  75%  3/3 ready",
            "        └── v2@fm2  canary  bbb  25% (asked 25%)  1/1 ready",
        ]
    )


def test_status_shows_an_expert_whose_foundation_does_not_exist(expert: Any) -> None:
    lost = expert(conditions=[condition("Ready", "False", "FoundationNotFound", "no home-fm here")])
    assert screen(World.of([lost])) == "\n".join(
        [
            "experts without a foundation",
            "└── reels  (surface reels)   Ready=False FoundationNotFound: no home-fm here",
        ]
    )


def test_status_of_an_unknown_foundation_names_the_known_ones(world: World) -> None:
    with pytest.raises(LookupError, match=r'"hone-fm" not found in this namespace; known: home-fm'):
        screen(world, "hone-fm")


def test_why_gives_the_measurement_its_query_and_what_has_to_happen_next(world: World) -> None:
    assert why.render(world, "reels", NOW).splitlines() == [
        "Expert     reels (surface reels)",
        "Serves     v1@fm1, revision aaa, 3/3 ready, for 5m",
        "Ready      True  CanaryAnalysing",
        "Stale      not judged yet",
        "Canary     v2@fm2, revision bbb, step 1: 25% asked, 25% of endpoints, 24.6% of requests measured",
        "           analysed since 4m",
        "           error-rate NoData: 0 (max 0.03), 12 of at least 100 requests",
        "             query sum(errors)",
        "           slow-share Success: 0.01 vs stable 0.02 (<= stable + 0.25), 400 requests",
        "           verdicts and figures written 4m ago; --prometheus-url (or RECAST_PROMETHEUS_URL) or"
        " --prometheus-service reads them live",
        "Next       more requests for error-rate (12/100 requests); without them it is rolled back after 600s",
    ]


def test_a_pair_names_the_foundation_where_the_expert_has_moved_to_another(expert: Any) -> None:
    failed = {"revision": "ccc", "version": 3, "foundationVersion": 7, "foundationName": "old-fm"}
    world = World.of(
        [
            expert(
                stable=revision("aaa", 1, 9) | {"foundation": pin(9) | {"name": "old-fm"}},
                canary=canary("bbb", 2, 1),
                failedRevisions=[failed | {"reason": "Aborted", "message": "on request", "time": T0}],
            )
        ]
    )
    for text in (screen(world), why.render(world, "reels", NOW)):
        assert "v1@old-fm/9" in text
        assert "v2@fm1" in text
        assert "v3@old-fm/7" in text


def test_why_gives_the_policy_and_the_place_in_the_queue(world: World) -> None:
    assert why.render(world, "feed", NOW).splitlines() == [
        "Expert     feed (surface feed)",
        "Serves     v1@fm1, revision ddd, 4/4 ready, for 5m",
        "Ready      True  WaitingForSlot",
        "Stale      yes, by policy FoundationMajor: home-fm v2 starts a new lineage",
        "           waits since 5m, towards foundation v2",
        "           place 1 in the queue; reels hold the slots",
        "Canary     none",
        "Next       a refresh slot of home-fm becomes free",
    ]


def test_why_keeps_the_reason_and_the_query_of_a_rollback(expert: Any, foundation: Any) -> None:
    failed = {
        "revision": "ccc",
        "version": 3,
        "foundationVersion": 2,
        "reason": "AnalysisFailed",
        "message": "error-rate 0.197 > 0.010",
        "time": T1,
        "results": [metric("error-rate", "Failure", "0.197", 312, bound="max 0.010", query="sum(bad) / sum(all)")],
    }
    text = why.render(World.of([foundation(), expert(failedRevisions=[failed])]), "reels", NOW)
    assert "Rolled back v3@fm2, revision ccc, 4m ago" in text
    assert "AnalysisFailed: error-rate 0.197 > 0.010" in text
    assert "error-rate Failure: 0.197 (max 0.010), 312 requests" in text
    assert "query sum(bad) / sum(all)" in text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "home-fm lands its first version"),
        (
            {"run": {"number": 1, "jobName": "em-reels-r1-a1", "inputsHash": "h", "startedAt": T0}},
            "v1 lands and is judged, then it becomes a canary",
        ),
        ({"stable": revision("aaa", 1, 1)}, "nothing: what serves is what is asked for"),
        (
            {"canary": canary("bbb", 2, 2, weightSince=None)},
            "1 canary pod becomes ready, then stable shrinks",
        ),
        (
            {"canary": canary("bbb", 2, 2, weightSince=T1, results=[metric("error-rate", "Success", "0", 400)])},
            "the step's pause ends, then the next step or promotion",
        ),
    ],
)
def test_why_names_the_next_event(expert: Any, foundation: Any, status: dict[str, Any], expected: str) -> None:
    text = why.render(World.of([foundation(), expert(**status)]), "reels", NOW)
    assert text.splitlines()[-1] == f"Next       {expected}"


def test_why_says_that_a_person_has_to_act_where_what_is_asked_for_is_not_tried_again(
    expert: Any, foundation: Any
) -> None:
    model = expert(stable=revision("aaa", 1, 1), conditions=[condition("Stalled", "True", "Aborted", "rolled back")])
    text = why.render(World.of([foundation(), model]), "reels", NOW)
    assert text.splitlines()[-1] == "Next       nothing until somebody acts on Aborted, as its message says"


def test_why_promises_no_slot_to_a_stale_expert_that_asks_for_none(expert: Any, foundation: Any) -> None:
    conditions = [condition("Stale", "True", "TrainingSpecChanged"), condition("Stalled", "True", "TrainerFailed")]
    text = why.render(World.of([foundation(), expert(conditions=conditions)]), "reels", NOW)
    assert text.splitlines()[-1] == "Next       nothing until somebody acts on TrainerFailed, as its message says"


def test_why_threatens_no_roll_back_while_prometheus_is_away(expert: Any, foundation: Any) -> None:
    away = canary("bbb", 2, 2, weightSince=T1, unansweredSince=T1, results=[metric("error-rate", "NoData", "", 0)])
    text = why.render(World.of([foundation(), expert(canary=away)]), "reels", NOW)
    assert text.splitlines()[-1] == (
        "Next       Prometheus answers; until then the canary keeps its weight and its progress deadline stands still"
    )


def test_why_of_an_unknown_expert_names_the_known_ones(world: World) -> None:
    with pytest.raises(LookupError, match=r'"reel" not found in this namespace; known: feed, reels'):
        why.render(world, "reel", NOW)


@pytest.mark.parametrize("arguments", [["-n", "shop", "status"], ["status", "-n", "shop"]])
def test_connection_flags_stand_before_or_after_the_verb(arguments: list[str]) -> None:
    assert parser().parse_args(arguments).namespace == "shop"


def test_a_kind_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="'Pod' is not one of FoundationModel"):
        parse({"kind": "Pod"})


def test_versions_are_of_one_kind_and_name_oldest_first(version: Any) -> None:
    world = World.of(
        [version(10), version(2), version(1, "other-fm"), version(3, "home-fm", 1), version(4, "reels", 1)]
    )
    assert [v.spec.number for v in world.versions_of("FoundationModel", "home-fm")] == [2, 10]
    assert [v.spec.number for v in world.versions_of("ExpertModel", "home-fm")] == [3]


def test_status_shows_the_share_that_is_so_the_newest_roll_back_and_what_was_not_judged(
    expert: Any, foundation: Any, version: Any
) -> None:
    failed = [
        {"revision": name, "version": number, "foundationVersion": 1, "reason": reason, "message": "m", "time": T1}
        for name, number, reason in (("old", 2, "Old"), ("new", 3, "New"))
    ]
    model = expert(
        stable=revision("aaa", 1, 1),
        canary=canary("bbb", 4, 1, desiredWeight=50, actualWeight=20),
        failedRevisions=failed,
    )
    text = screen(World.of([foundation(), model, version(1)]))
    assert "v1@fm1  stable  aaa  80%  4/4 ready" in text
    assert "v4@fm1  canary  bbb  20% (asked 50%)" in text
    assert "v3@fm1  new  rolled back 4m ago: New" in text
    assert "Old" not in text
    assert "v1  Landed  landed 5m ago" in text


def test_status_of_one_foundation_shows_no_other(foundation: Any, expert: Any) -> None:
    other = foundation().model_copy(update={"metadata": foundation().metadata.model_copy(update={"name": "other-fm"})})
    world = World.of([foundation(), other, expert()])
    assert len(screen(world).splitlines()) == 3
    assert screen(world, "home-fm").splitlines()[0].startswith("home-fm ")
    assert "other-fm" not in screen(world, "home-fm")
    assert screen(world, "other-fm").splitlines() == ["other-fm   current -   not seen by the operator yet"]


def test_why_tells_the_newest_failure_and_the_roll_backs_newest_first(expert: Any, foundation: Any) -> None:
    failures = [
        {"inputsHash": "h", "number": number, "reason": reason, "message": "m", "time": T1}
        for number, reason in ((1, "Old"), (2, "New"))
    ]
    revisions = [
        {"revision": name, "version": 1, "foundationVersion": 1, "reason": "X", "message": "m", "time": T1}
        for name in ("first", "second")
    ]
    text = why.render(World.of([foundation(), expert(failures=failures, failedRevisions=revisions)]), "reels", NOW)
    assert "Failed     v2 4m ago: New: m" in text
    assert "Old" not in text
    assert text.index("second") < text.index("first")


ENOUGH = metric("error-rate", "Success", "0", 400)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (
            [ENOUGH, metric("slow-share", "Inconclusive", "0.1", 400, minSamples=300)],
            "more requests for slow-share (400/300 requests); without them it is rolled back after 600s",
        ),
        ([ENOUGH, metric("slow-share", "Failure", "0.9", 400)], "the analysis sees enough requests of this step"),
        ([], "the analysis sees enough requests of this step"),
    ],
)
def test_why_never_promises_a_promotion_that_the_analysis_does_not(
    expert: Any, foundation: Any, results: list[dict[str, Any]], expected: str
) -> None:
    model = expert(canary=canary("bbb", 2, 2, weightSince=T1, results=results))
    assert why.render(World.of([foundation(), model]), "reels", NOW).splitlines()[-1] == f"Next       {expected}"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172799, "47h"),
        (172800, "2d"),
        (864000, "10d"),
    ],
)
def test_an_age_is_short_and_exact_to_its_unit(seconds: int, expected: str) -> None:
    assert (
        words.age("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=seconds)) == expected
    )


@pytest.mark.parametrize(("status", "holds"), [("True", True), ("False", False), ("Unknown", False)])
def test_a_condition_holds_only_where_it_is_true(expert: Any, status: str, holds: bool) -> None:
    conditions = expert(conditions=[condition("Stale", status, "X")]).status.conditions
    assert words.holds(conditions, "Stale") is holds
    assert words.holds(conditions, "Ready") is False


def test_a_measurement_says_how_many_requests_are_missing_only_where_some_are(expert: Any) -> None:
    results = [metric("error-rate", "Success", "0", samples, minSamples=100) for samples in (99, 100, 101)]
    said = [
        words.measured(result) for result in expert(canary=canary("b", 1, 1, results=results)).status.canary.results
    ]
    assert said == [
        "error-rate Success: 0, 99 of at least 100 requests",
        "error-rate Success: 0, 100 requests",
        "error-rate Success: 0, 101 requests",
    ]
