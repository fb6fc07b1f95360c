"""The roll-out machine as a table: a state and what is seen, and the state that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rollout_values import (
    AT,
    NO_REQUEST,
    ago,
    canary,
    failed,
    inputs,
    look,
    pin,
    result,
    revision,
    wanting,
)

from recast_api.resources import CanaryStatus, RetiringRevision, RevisionStatus, Rollout, Step
from recast_operator.planning.rollout import machine
from recast_operator.planning.rollout.candidates import FAILED, RevisionCandidate, Selection
from recast_operator.planning.rollout.request import RequestDecision
from recast_operator.planning.rollout.state import RolloutState
from recast_operator.planning.rollout.traffic import Leaving, Target
from recast_operator.planning.status.pod_diagnosis import Trouble

STABLE, TRIAL, NEWER = revision(), revision("c", 2), revision("n", 3)
BROKEN = Trouble("ArtifactTruncated", "12 of 900 bytes", final=True)
SLOW = Trouble("ImagePullBackOff", 'image "x" cannot be pulled')
ABORT, PROMOTE = (RequestDecision(action, "c", ("r",)) for action in ("Abort", "Promote"))
AT_25 = {"s": (3, 3), "c": (1, 1)}
GOOD = look("Success", "Success", "Success")
PASSED = [result("Success", metric) for metric in ("error-rate", "slow-share", "fresh-tae-share")]
HELD = {"weight_since": ago(15)}


def move(
    trial: CanaryStatus | None,
    endpoints: dict[str, tuple[int, ...]],
    *,
    stable: RevisionStatus | None = STABLE,
    selection: Selection | None = None,
    decision: RequestDecision = NO_REQUEST,
    **seen: Any,
) -> RolloutState:
    state = RolloutState(stable, trial, (failed("bad"),))
    return machine.advance(inputs(endpoints, **seen), state, selection or wanting(TRIAL, STABLE), decision)


def told(state: RolloutState) -> list[str]:
    return [event.reason for event in state.events]


def summary(state: RolloutState) -> tuple[str, str, str, int]:
    """(stable, canary, its state, its weight)."""
    trial = state.canary
    return (
        state.stable.revision if state.stable else "",
        trial.revision if trial else "",
        trial.state if trial else "",
        trial.step_weight if trial else 0,
    )


Case = tuple[CanaryStatus | None, dict[str, tuple[int, ...]], dict[str, Any], tuple[str, str, str, int], list[str]]
HERE, GONE = ("s", "c", "Progressing", 25), ("s", "", "", 0)
CASES: dict[str, Case] = {
    "nothing new": (None, {"s": (4, 4)}, {"selection": wanting(STABLE)}, GONE, []),
    "nothing may serve": (None, {"s": (4, 4)}, {"selection": wanting()}, GONE, []),
    "a newer one begins": (None, {"s": (4, 4)}, {}, HERE, ["CanaryStarted"]),
    "the very first begins": (
        None,
        {},
        {"stable": None, "selection": wanting(TRIAL)},
        ("", "c", "Initial", 100),
        ["CanaryStarted"],
    ),
    "Initial waits": (
        canary(state="Initial"),
        {"c": (4, 3)},
        {"stable": None},
        ("", "c", "Initial", 100),
        [],
    ),
    "Initial is whole": (canary(state="Initial"), {"c": (4, 4)}, {"stable": None}, ("c", "", "", 0), ["Promoted"]),
    "Initial is late": (
        canary(state="Initial", progressed_at=ago(600)),
        {"c": (4, 3)},
        {"stable": None},
        ("", "", "", 0),
        ["ProgressDeadlineExceeded"],
    ),
    "Initial is superseded": (
        canary(state="Initial"),
        {"c": (4, 3)},
        {"stable": None, "selection": wanting(NEWER, TRIAL)},
        ("", "n", "Initial", 100),
        ["CanaryDropped", "CanaryStarted"],
    ),
    "Initial is aborted": (
        canary(state="Initial"),
        {"c": (4, 3)},
        {"stable": None, "decision": ABORT},
        ("", "", "", 0),
        ["Aborted"],
    ),
    "the weight is not there yet": (canary(), {"s": (4, 4), "c": (1, 0)}, {}, HERE, []),
    "the weight is there": (canary(), AT_25, {}, HERE, ["CanaryWeight"]),
    "the pause is not over": (canary(weight_since=ago(9)), AT_25, {"evaluation": GOOD}, HERE, []),
    "the step has passed": (
        canary(**HELD),
        AT_25,
        {"evaluation": GOOD},
        ("s", "c", "Progressing", 50),
        ["CanaryStep"],
    ),
    "the step has passed by the last look": (
        canary(**HELD, results=PASSED),
        AT_25,
        {},
        ("s", "c", "Progressing", 50),
        ["CanaryStep"],
    ),
    "one metric is not sure": (
        canary(**HELD),
        AT_25,
        {"evaluation": look("Success", "Inconclusive", "Success")},
        HERE,
        [],
    ),
    "one metric has no data": (canary(**HELD), AT_25, {"evaluation": look("Success", "Success", "NoData")}, HERE, []),
    "one metric is missing": (canary(**HELD), AT_25, {"evaluation": look("Success", "Success")}, HERE, []),
    "nobody has looked": (canary(**HELD), AT_25, {}, HERE, []),
    "a new look revokes the last": (
        canary(**HELD, results=PASSED),
        AT_25,
        {"evaluation": look("Success", "Inconclusive", "Success")},
        HERE,
        [],
    ),
    "one metric fails": (
        canary(**HELD),
        AT_25,
        {"evaluation": look("Success", "Success", "Failure")},
        GONE,
        ["AnalysisFailed"],
    ),
    "one metric fails during the pause": (
        canary(weight_since=ago(7)),
        AT_25,
        {"evaluation": look("Failure")},
        GONE,
        ["AnalysisFailed"],
    ),
    "a pod of the canary went": (canary(**HELD, results=PASSED), {"s": (3, 3), "c": (1, 0)}, {}, HERE, []),
    "a pod of stable went": (canary(**HELD, results=PASSED), {"s": (3, 2), "c": (1, 1)}, {}, HERE, []),
    "nothing is to be asked": (
        canary(**HELD),
        AT_25,
        {"rollout": Rollout(analysis=[])},
        ("s", "c", "Progressing", 50),
        ["CanaryStep"],
    ),
    "the last step has passed": (
        canary(**HELD, step_weight=50, desired_weight=50),
        {"s": (2, 2), "c": (2, 2)},
        {"evaluation": GOOD},
        ("s", "c", "Promoting", 50),
        ["Promoting"],
    ),
    "Progressing is promoted by request": (
        canary(),
        {"s": (4, 4), "c": (1, 0)},
        {"decision": PROMOTE},
        ("s", "c", "Promoting", 25),
        ["Promoting"],
    ),
    "Progressing is aborted": (canary(**HELD), AT_25, {"decision": ABORT, "evaluation": GOOD}, GONE, ["Aborted"]),
    "Progressing is superseded": (
        canary(**HELD),
        AT_25,
        {"selection": wanting(NEWER, TRIAL, STABLE), "evaluation": GOOD},
        ("s", "n", "Progressing", 25),
        ["CanaryDropped", "CanaryStarted"],
    ),
    "Progressing is taken back": (canary(), AT_25, {"selection": wanting(STABLE)}, GONE, ["CanaryDropped"]),
    "Progressing has lost its foundation": (canary(), AT_25, {"selection": wanting()}, GONE, ["CanaryDropped"]),
    "Progressing is rejected": (
        canary(),
        AT_25,
        {"selection": wanting(STABLE, against="home-fm v2 is rejected")},
        GONE,
        ["CanaryDropped"],
    ),
    "a pod says its last word": (
        canary(),
        {"s": (4, 4), "c": (1, 0)},
        {"trouble": BROKEN},
        GONE,
        ["ArtifactTruncated"],
    ),
    "a pod is slow": (canary(), {"s": (4, 4), "c": (1, 0)}, {"trouble": SLOW}, HERE, []),
    "Progressing is late": (
        canary(progressed_at=ago(610)),
        {"s": (4, 4), "c": (1, 0)},
        {"trouble": SLOW},
        GONE,
        ["ProgressDeadlineExceeded"],
    ),
    "late, but stable is down": (
        canary(progressed_at=ago(610)),
        {"s": (4, 0), "c": (1, 0)},
        {"trouble": SLOW},
        HERE,
        [],
    ),
    "late, but Prometheus is silent": (
        canary(**HELD, progressed_at=ago(610)),
        AT_25,
        {"evaluation": look("NoData", "NoData", "NoData", answered=False)},
        HERE,
        [],
    ),
    "stable is down, the canary is ready": (canary(), {"s": (4, 0), "c": (4, 1)}, {}, HERE, ["CanaryWeight"]),
    "stable is down, the rest is good": (
        canary(**HELD, stable_down_since=ago(15)),
        {"s": (3, 0), "c": (4, 2)},
        {"evaluation": look("Success", "Success")},
        ("s", "c", "Progressing", 50),
        ["CanaryStep"],
    ),
    "stable is down, the canary fails": (
        canary(**HELD, stable_down_since=ago(15)),
        {"s": (3, 0), "c": (4, 2)},
        {"evaluation": look("Failure", "Success")},
        GONE,
        ["AnalysisFailed"],
    ),
    "stable is down, a pod says its last word": (
        canary(stable_down_since=ago(15)),
        {"s": (3, 0), "c": (4, 0)},
        {"trouble": BROKEN},
        GONE,
        ["ArtifactTruncated"],
    ),
    "Promoting waits": (canary(state="Promoting"), {"s": (1, 1), "c": (4, 3)}, {}, ("s", "c", "Promoting", 100), []),
    "Promoting is whole": (canary(state="Promoting"), {"s": (1, 1), "c": (4, 4)}, {}, ("c", "", "", 0), ["Promoted"]),
    "Promoting is late": (
        canary(state="Promoting", progressed_at=ago(600)),
        {"s": (1, 1), "c": (4, 3)},
        {},
        GONE,
        ["ProgressDeadlineExceeded"],
    ),
    "Promoting is finished before a newer one": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 3)},
        {"selection": wanting(NEWER, STABLE)},
        ("s", "c", "Promoting", 100),
        [],
    ),
    "Promoting is finished where nothing else may serve": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 3)},
        {"selection": wanting()},
        ("s", "c", "Promoting", 100),
        [],
    ),
    "Promoting is taken back": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 3)},
        {"selection": wanting(STABLE)},
        GONE,
        ["CanaryDropped"],
    ),
    "Promoting is rejected": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 4)},
        {"selection": wanting(STABLE, against="home-fm v2 is rejected")},
        GONE,
        ["CanaryDropped"],
    ),
    "Promoting is aborted": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 4)},
        {"decision": ABORT},
        GONE,
        ["Aborted"],
    ),
    "Promoting says its last word": (
        canary(state="Promoting"),
        {"s": (1, 1), "c": (4, 4)},
        {"trouble": BROKEN},
        GONE,
        ["ArtifactTruncated"],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_state_and_event_make_the_next_state(case: Case) -> None:
    trial, endpoints, seen, expected, events = case
    after = move(trial, endpoints, **seen)
    assert (summary(after), told(after)) == (expected, events)


@pytest.mark.parametrize(
    ("trial", "seen", "expected"),
    [
        (canary(version=1), {}, "v1@fm1 (c) has 25% of the ready pods"),
        (canary(version=1, **HELD), {"evaluation": GOOD}, "v1@fm1 (c) passed 25%, next 50%"),
        (canary(version=1), {"decision": PROMOTE}, "v1@fm1 (c): by request; growing to 4 pods"),
        (canary(version=2), {}, "v2@fm1 has 25% of the ready pods"),
    ],
)
def test_events_name_the_revision_where_version_and_foundation_are_those_of_stable(
    trial: CanaryStatus, seen: dict[str, Any], expected: str
) -> None:
    assert move(trial, AT_25, **seen).events[0].message == expected


@pytest.mark.parametrize(
    ("trial", "seen", "gone"),
    [
        (canary(state="Promoting"), {"endpoints": {"s": (1, 1), "c": (4, 4)}}, ("s", False)),
        (canary(), {"endpoints": AT_25, "selection": wanting(NEWER, TRIAL)}, ("c", False)),
        (canary(), {"endpoints": AT_25, "selection": wanting(STABLE, against="rejected")}, ("c", True)),
        (canary(), {"endpoints": AT_25, "decision": ABORT}, ("c", True)),
        (canary(), {"endpoints": AT_25, "trouble": BROKEN}, ("c", True)),
    ],
)
def test_who_leaves_is_remembered_while_pods_of_it_are_left(
    trial: CanaryStatus, seen: dict[str, Any], gone: tuple[str, bool]
) -> None:
    (entry,) = move(trial, **seen).retiring
    assert (entry.revision, entry.failed, entry.since) == (*gone, AT)
    assert (entry.version, entry.foundation) == (1 if gone[0] == "s" else 2, pin())
    assert move(trial, **seen, remaining=frozenset({"x"})).retiring == ()


def test_who_serves_again_or_is_gone_leaves_the_list_and_it_is_bounded() -> None:
    def entry(name: str) -> RetiringRevision:
        return RetiringRevision(revision=name, version=1, foundation=pin(), since=ago(50))

    names = [f"x{number}" for number in range(16)]
    state = RolloutState(STABLE, canary(), retiring=tuple(entry(name) for name in [*names, "c", "s", "lost"]))
    seen = inputs(AT_25, remaining=frozenset({"s", "c", *names}))
    kept = machine.advance(seen, state, wanting(TRIAL, STABLE), NO_REQUEST).retiring
    assert [old.revision for old in kept] == names
    state = replace(state, retiring=tuple(entry(name) for name in names))
    dropped = machine.advance(seen, state, wanting(STABLE), NO_REQUEST).retiring
    assert [old.revision for old in dropped] == [*names[1:], "c"]


def test_who_leaves_again_is_listed_once_since_it_left_last() -> None:
    before = RetiringRevision(revision="c", version=2, foundation=pin(), since=ago(50))
    state = RolloutState(STABLE, canary(), retiring=(before,))
    (entry,) = machine.advance(inputs(AT_25), state, wanting(TRIAL), ABORT).retiring
    assert (entry.revision, entry.since, entry.failed) == ("c", AT, True)


def test_a_promoted_revision_takes_over_whole_and_the_one_before_is_kept() -> None:
    trial = canary(state="Promoting", replicas=4, ready_replicas=3)
    after = move(trial, {"s": (1, 1), "c": (4, 4)})
    assert after.stable == TRIAL.model_copy(update={"since": AT, "replicas": 4, "ready_replicas": 3})
    assert after.previous == STABLE
    assert after.events[0].message == "v2@fm1 (c) is the stable revision now, was v1@fm1 (s)"
    assert move(canary(state="Initial"), {"c": (4, 4)}, stable=None).previous is None


def test_a_rolled_back_revision_is_remembered_with_what_was_measured() -> None:
    look_ = look("Failure", "Success", "NoData")
    after = move(canary(**HELD), AT_25, evaluation=look_, stable=revision(foundation=pin(7, "old-fm")))
    old, entry = after.failed
    assert (old.revision, entry.revision, entry.version, entry.reason) == ("bad", "c", 2, "AnalysisFailed")
    assert (entry.foundation_name, entry.foundation_version, entry.time) == ("home-fm", 1, AT)
    assert entry.results == list(look_.results)
    assert entry.serving_changed is False
    assert entry.message == (
        "reels v2@fm1 rolled back at 25%: error-rate is Failure. Traffic goes back to stable v1@old-fm/7. "
        'It will not be tried again; land a new version, change spec.serving, or request "Retry" of c.'
    )
    assert (after.events[0].type, after.events[0].message) == ("Warning", entry.message)


def test_a_revision_that_fails_again_is_remembered_once_and_no_more_than_sixteen_are() -> None:
    state = RolloutState(STABLE, canary(), (failed("c"), *(failed(f"x{number}") for number in range(16))))
    after = machine.advance(inputs(AT_25), state, wanting(TRIAL), ABORT).failed
    assert [entry.revision for entry in after] == [*(f"x{number}" for number in range(1, 16)), "c"]
    state = RolloutState(STABLE, canary(), (failed("c"), failed("x")))
    after = machine.advance(inputs(AT_25), state, wanting(TRIAL), ABORT).failed
    assert [entry.revision for entry in after] == ["x", "c"]


def test_changed_serving_is_noted_of_a_failure() -> None:
    serving = STABLE.serving.model_copy(update={"image": "server:2"})
    after = move(canary(serving=serving), AT_25, decision=ABORT)
    assert (after.failed[-1].serving_changed, after.failed[-1].image) == (True, "server:2")
    assert move(canary(serving=serving), {}, decision=ABORT, stable=None).failed[-1].serving_changed is False


@pytest.mark.parametrize(
    ("trial", "endpoints", "seen", "why"),
    [
        (canary(progressed_at=ago(610)), {"s": (4, 4), "c": (1, 0)}, {"trouble": SLOW}, 'image "x" cannot be pulled'),
        (canary(progressed_at=ago(610)), {"s": (4, 4), "c": (1, 0)}, {}, "v2@fm1: 0 of 1 pods ready"),
        (canary(progressed_at=ago(610)), {"s": (3, 2), "c": (1, 1)}, {}, "v1@fm1: 2 of 3 pods ready"),
        (
            canary(progressed_at=ago(610), **HELD, results=[result("NoData")]),
            AT_25,
            {},
            "error-rate is NoData",
        ),
        (canary(progressed_at=ago(610), **HELD), {**AT_25, "old": (1, 1)}, {}, "the weight did not take effect"),
        (
            canary(state="Promoting", progressed_at=ago(600)),
            {"s": (2, 2), "c": (4, 2)},
            {},
            "v2@fm1: 2 of 4 pods ready",
        ),
    ],
)
def test_a_late_canary_says_what_held_it_back(
    trial: CanaryStatus, endpoints: dict[str, tuple[int, ...]], seen: dict[str, Any], why: str
) -> None:
    assert f": {why} for 600 s. " in move(trial, endpoints, **seen).failed[-1].message


def test_a_step_begins_with_a_clean_slate() -> None:
    after = move(canary(**HELD, results=PASSED, actual_weight=25), AT_25).canary
    assert after is not None
    assert (after.step, after.step_weight, after.desired_weight) == (1, 50, 50)
    assert (after.weight_since, after.results, after.progressed_at) == (None, [], AT)


@pytest.mark.parametrize(
    ("replicas", "weight", "reset"), [(4, 25, False), (8, 25, False), (2, 50, True), (3, 33, True)]
)
def test_other_replicas_begin_a_step_anew_where_they_change_its_weight(replicas: int, weight: int, reset: bool) -> None:
    after = move(canary(**HELD, results=[result("Inconclusive")]), AT_25, replicas=replicas).canary
    assert after is not None
    assert (after.desired_weight, after.weight_since is None, after.results == []) == (weight, reset, reset)


@pytest.mark.parametrize(
    ("trial", "seen", "notes"),
    [
        (canary(), {"endpoints": AT_25}, ""),
        (canary(), {"endpoints": {"s": (4, 4), "c": (1, 0)}, "trouble": SLOW}, 'image "x" cannot be pulled'),
        (
            canary(),
            {"endpoints": AT_25, "replicas": 2},
            "steps 25%, 50% are one: 2 replicas can express 50%",
        ),
        (
            canary(),
            {"endpoints": AT_25, "rollout": Rollout(steps=[Step(set_weight=30)])},
            "30% asked, 25% is what 4 replicas can express",
        ),
        (
            canary(**HELD, unanswered_since=ago(8)),
            {"endpoints": AT_25},
            f"Prometheus has not answered since {ago(8)}: the step waits, and the progress deadline stands still",
        ),
        (
            canary(),
            {"endpoints": {"s": (4, 0)}, "trouble": SLOW},
            'image "x" cannot be pulled; no pod of stable v1@fm1 is ready: this revision gets all the pods it can, '
            "is not compared with stable, and is not rolled back for being late",
        ),
    ],
)
def test_the_message_says_what_is_out_of_the_ordinary(trial: CanaryStatus, seen: dict[str, Any], notes: str) -> None:
    after = move(trial, **seen).canary
    assert after is not None
    assert after.message == notes


def test_what_is_measured_is_kept_until_it_is_measured_again() -> None:
    after = move(canary(**HELD), AT_25, evaluation=look("Inconclusive")).canary
    assert after is not None
    assert (after.measured_weight, after.actual_weight) == ("24.9", 25)
    nothing = replace(look("NoData"), measured_weight="")
    after = move(after, {"s": (2, 2), "c": (2, 2)}, evaluation=nothing).canary
    assert after is not None
    assert (after.measured_weight, after.actual_weight) == ("24.9", 50)


@pytest.mark.parametrize(
    ("stable", "trial", "expected"),
    [
        (STABLE, None, Target(4, "s")),
        (None, None, Target(4)),
        (None, canary(state="Initial"), Target(4, "", "c", 100)),
        (STABLE, canary(), Target(4, "s", "c", 25)),
        (STABLE, canary(step_weight=50), Target(4, "s", "c", 50)),
        (STABLE, canary(state="Promoting", step_weight=50), Target(4, "s", "c", 100)),
        (STABLE, canary(stable_down_since=ago(7)), Target(4, "s", "c", 25, stable_down_seconds=7)),
    ],
)
def test_each_state_wants_one_weight(
    stable: RevisionStatus | None, trial: CanaryStatus | None, expected: Target
) -> None:
    assert machine.target(inputs(), RolloutState(stable, trial)) == expected


def test_the_weight_that_was_asked_is_the_target_and_not_what_a_route_makes_of_it() -> None:
    seen = inputs(rollout=Rollout(steps=[Step(set_weight=30)]))
    assert machine.target(seen, RolloutState(STABLE, canary(step_weight=30))).weight == 30


def test_who_left_is_known_by_why_and_since_when() -> None:
    left = RetiringRevision(revision="x", version=1, foundation=pin(), since=ago(50))
    state = RolloutState(STABLE, canary(), (failed("bad"), failed("x"), failed("s")), retiring=(left,))
    assert machine.target(inputs(), state).leaving == {"bad": Leaving(True, 5), "x": Leaving(False, 50)}


def test_a_retry_clears_that_failure_alone() -> None:
    state = RolloutState(STABLE, None, (failed("a"), failed("b")))
    cleared = machine.clear_failure(state, RequestDecision("Retry", "a", ()))
    assert [entry.revision for entry in cleared.failed] == ["b"]
    assert machine.clear_failure(state, RequestDecision("Abort", "a", ())) == state


def test_a_selection_names_what_is_desired_blocked_and_held_back() -> None:
    found = tuple(
        RevisionCandidate(revision(name), objection)
        for name, objection in [("a", "no server"), ("b", FAILED), ("c", "no claim"), ("d", ""), ("e", "old")]
    )
    selection = Selection(found)
    assert selection.desired == revision("d")
    assert selection.blocked == revision("b")
    assert [entry.revision.revision for entry in selection.held_back] == ["a", "c"]
    assert Selection(found[3:]).blocked is None
    assert Selection(found[:1]).desired is None
    assert Selection(()).blocked is None
