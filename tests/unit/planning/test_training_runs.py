"""The life of a run: what each state does with each thing that can be seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fleet_values import landed, observed, ref
from planning_simulator import START, Cluster, expert, foundation
from run_values import WANTED, attempt_seen, failed, inputs, remembered_run, run, state_of

from recast_api.resources import ModelVersion, Training
from recast_api.run import Optimization, TerminationMessage
from recast_operator.planning.freshness.target import FoundationTarget, foundation_target
from recast_operator.planning.plan import Plan
from recast_operator.planning.snapshot import DISRUPTED, ObservedPod, ObservedRun
from recast_operator.planning.training.attempts import backoff_seconds
from recast_operator.planning.training.known import is_due
from recast_operator.planning.training.lifecycle import advance, reserve
from recast_operator.planning.training.run_spec import expert_run, foundation_run
from recast_operator.planning.versions.verdict import judge_all


def test_a_reservation_that_is_observed_is_submitted_until_its_job_is_seen() -> None:
    after = advance(inputs(), state_of(run(state="Reserved")))
    assert after.submit
    assert after.run is not None
    assert after.run.state == "Reserved"
    after = advance(inputs(attempt_seen()), state_of(run(state="Reserved")))
    assert not after.submit
    assert after.run is not None
    assert after.run.state == "Running"


def test_a_reservation_made_in_this_pass_is_not_submitted_in_it() -> None:
    after = reserve(inputs(), state_of(), [])
    assert after.run is not None
    assert (after.run.number, after.run.state, after.submit) == (5, "Reserved", False)


@pytest.mark.parametrize(
    ("last", "versions", "jobs", "expected"),
    [(0, [], [], 1), (4, [], [], 5), (0, [7], [], 8), (0, [], [9], 10), (4, [3], [2], 5), (2, [6], [9], 10)],
)
def test_a_number_is_higher_than_any_ever_seen(last: int, versions: list[int], jobs: list[int], expected: int) -> None:
    cluster = Cluster(foundation())
    cluster.until(lambda c: bool(c.versions))
    landed = cluster.versions["fm-home-fm-v1"]
    seen: list[ModelVersion] = [
        landed.model_copy(update={"spec": landed.spec.model_copy(update={"number": number})}) for number in versions
    ]
    kept = tuple(replace(attempt_seen(), number=number) for number in jobs)
    after = reserve(inputs(*kept), state_of(last_number=last), seen)
    assert after.last_number == expected
    assert after.run is not None
    assert after.run.job_name == f"fm-home-fm-r{expected}-a1"


def test_a_failure_that_says_do_not_retry_ends_the_run_and_is_remembered_by_its_inputs() -> None:
    after = advance(inputs(failed()), state_of(run()))
    assert after.run is None
    assert [(entry.inputs_hash, entry.reason) for entry in after.failures] == [(WANTED, "CorruptSegment")]
    assert "segment 12 has no footer" in after.failures[0].message
    assert not is_due(inputs(), after)
    assert is_due(inputs(wanted="bbbb.11"), after), "other inputs are a new chance"
    assert is_due(inputs(wanted="aaaa.22"), after), "so are more resources"


def test_a_retryable_failure_waits_then_tries_again_under_the_next_name() -> None:
    waiting = advance(inputs(failed(retryable=True)), state_of(run()))
    assert waiting.run is not None
    assert (waiting.run.state, waiting.run.retry_at, waiting.requeue) == ("BackingOff", "2026-11-21T03:00:10Z", 10.0)
    early = advance(inputs(failed(retryable=True), now=START + timedelta(seconds=9)), waiting)
    assert early.run == waiting.run
    later = advance(inputs(failed(retryable=True), now=START + timedelta(seconds=10)), waiting)
    assert later.run is not None
    assert (later.run.state, later.run.attempt, later.run.job_name) == ("Reserved", 2, "fm-home-fm-r4-a2")


def test_the_next_attempt_never_meets_the_pods_of_the_last() -> None:
    lingering = replace(failed(retryable=True), pods=(ObservedPod("p", gone=False),))
    waiting = run(state="BackingOff", retry_at="2026-11-21T03:00:00Z")
    after = advance(inputs(lingering), state_of(waiting))
    assert after.run == waiting
    assert "to be gone" in after.note


def test_back_off_doubles_and_is_capped() -> None:
    delays = []
    for attempt in range(1, 9):
        at = inputs(failed(retryable=True, attempt=attempt), training=Training(image="t", max_attempts=10))
        after = advance(at, state_of(run(attempt=attempt, job_name=f"fm-home-fm-r4-a{attempt}")))
        delays.append(after.requeue)
    assert delays == [10, 20, 40, 80, 160, 300, 300, 300]
    assert backoff_seconds(10_000) == 300


def test_disruptions_let_the_delay_grow_and_end_the_run_after_the_thirtieth() -> None:
    state, now, delays = state_of(run()), START, []
    while state.run is not None and len(delays) < 100:
        attempt = state.run.attempt
        disrupted = attempt_seen("Failed", attempt=attempt, reason=DISRUPTED)
        state = advance(inputs(disrupted, now=now), state)
        if state.run is None:
            break
        delays.append(state.requeue)
        assert state.run.preemptions == attempt
        now += timedelta(seconds=state.requeue or 0)
        state = advance(inputs(disrupted, now=now), state)  # the next attempt is reserved
        state = advance(inputs(attempt_seen(attempt=attempt + 1), now=now), state)  # and runs
    assert delays == [10, 20, 40, 80, 160, *[300] * 24]
    (failure,) = state.failures
    assert failure.reason == "DisruptedTooOften"
    for words in ("pre-empted or evicted 30 times", "a higher priority", "raise spec.training.maxAttempts"):
        assert words in failure.message
    assert not is_due(inputs(), state)
    assert is_due(inputs(wanted="aaaa.22"), state), "what the message says to do helps"


def test_an_error_of_its_own_after_many_disruptions_still_has_all_its_attempts() -> None:
    often = run(attempt=31, preemptions=29, job_name="fm-home-fm-r4-a31")
    after = advance(inputs(failed(retryable=True, attempt=31)), state_of(often))
    assert after.run is not None
    assert after.run.state == "BackingOff"
    last = run(attempt=32, preemptions=29, job_name="fm-home-fm-r4-a32")
    assert advance(inputs(failed(retryable=True, attempt=32)), state_of(last)).run is None


def test_a_clock_that_was_set_back_does_not_hold_the_next_attempt_for_longer_than_any_delay() -> None:
    waiting = state_of(run(state="BackingOff", retry_at="2026-11-21T03:05:00Z"))
    assert advance(inputs(now=START), waiting).requeue == 300
    after = advance(inputs(now=START - timedelta(seconds=1)), waiting)
    assert after.run is not None
    assert (after.run.state, after.run.attempt) == ("Reserved", 2)


def test_attempts_are_used_up_but_pre_emption_uses_none() -> None:
    last = run(attempt=3, job_name="fm-home-fm-r4-a3")
    after = advance(inputs(failed(retryable=True, attempt=3)), state_of(last))
    assert after.run is None
    assert "(attempt 3 of 3)" in after.failures[0].message
    preempted = advance(inputs(attempt_seen("Failed", attempt=3, reason=DISRUPTED)), state_of(last))
    assert preempted.run is not None
    assert (preempted.run.preemptions, preempted.run.state) == (1, "BackingOff")
    fourth = run(attempt=4, preemptions=1, job_name="fm-home-fm-r4-a4")
    assert advance(inputs(failed(retryable=True, attempt=4)), state_of(fourth)).run is None


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        (
            attempt_seen("Failed", reason="DeadlineExceeded"),
            "DeadlineExceeded",
            "raise spec.training.activeDeadlineSeconds",
        ),
        (failed("SurfaceNotFound"), "SurfaceNotFound", "restore it"),
    ],
)
def test_what_ends_a_run_at_once_says_what_to_do(seen: ObservedRun, reason: str, words: str) -> None:
    after = advance(inputs(seen), state_of(run()))
    assert after.run is None
    assert after.failures[0].reason == reason
    assert words in after.failures[0].message


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ((), "was deleted before it ended"),
        ((attempt_seen("Succeeded"),), "has not appeared"),
        ((attempt_seen("Failed", pods=(ObservedPod("p", gone=True, exit_code=137),)),), "out of memory"),
        ((attempt_seen("Failed"),), "left no message"),
    ],
)
def test_what_may_be_chance_is_tried_again(seen: tuple[ObservedRun, ...], words: str) -> None:
    after = advance(inputs(*seen), state_of(run()))
    assert after.run is not None
    assert after.run.state == "BackingOff"
    assert words in after.note


def test_a_word_against_another_attempt_outweighs_one_for_it() -> None:
    yes = TerminationMessage(reason="PeerLost", retryable=True).encode()
    no = TerminationMessage(reason="CorruptSegment", retryable=False).encode()
    pods = (ObservedPod("a", gone=True, termination=yes), ObservedPod("b", gone=True, termination=no))
    assert advance(inputs(attempt_seen("Failed", pods=pods)), state_of(run())).failures[0].reason == "CorruptSegment"


def test_somebody_elses_job_of_the_same_name_is_not_ours() -> None:
    after = advance(inputs(replace(attempt_seen("Failed"), owner_uid="other")), state_of(run(state="Reserved")))
    assert after.submit, "creation will say that the name is taken"


@pytest.mark.parametrize("state", ["Reserved", "BackingOff"])
def test_a_spec_that_changes_before_an_attempt_begins_starts_a_new_run(state: str) -> None:
    after = advance(inputs(wanted="bbbb.11"), state_of(run(state=state, retry_at="2026-11-21T03:00:00Z")))
    assert after.run is None
    assert after.failures == ()
    assert is_due(inputs(wanted="bbbb.11"), after)


def test_a_run_that_trains_is_not_stopped_by_a_changed_spec() -> None:
    after = advance(inputs(attempt_seen(), wanted="bbbb.11"), state_of(run()))
    assert after.run == run()


def test_a_run_stuck_on_its_image_is_named_and_gives_way_to_a_corrected_spec() -> None:
    stuck = attempt_seen(
        pods=(ObservedPod("p", image="trainer:9", waiting_reason="ImagePullBackOff", waiting_message="not found"),)
    )
    after = advance(inputs(stuck), state_of(run()))
    assert (after.note_reason, after.run) == ("ImagePullBackOff", run())
    assert '"trainer:9" cannot be pulled (not found); correct spec.training.image' in after.note
    after = advance(inputs(stuck, wanted="bbbb.11"), state_of(run()))
    assert [(entry.kind, entry.name) for entry in after.deletions] == [("Job", "fm-home-fm-r4-a1")]
    assert (after.run, after.events) == (run(), ()), "in status until its Job is gone: a deletion may fail"
    gone = advance(inputs(wanted="bbbb.11"), state_of(run()))
    assert (gone.run, gone.failures, [event.reason for event in gone.events]) == (None, (), ["RunCancelled"])


def test_a_run_that_waits_for_room_does_not_give_way_to_a_changed_spec() -> None:
    waiting = attempt_seen("Admitted", pods=(ObservedPod("p", unschedulable="0/3 nodes are available"),))
    after = advance(inputs(waiting, wanted="bbbb.11"), state_of(run()))
    assert (after.run, after.deletions, after.note_reason) == (run(), (), "InsufficientCapacity")


def test_a_disruption_ends_no_run_even_where_fewer_attempts_are_allowed_by_now() -> None:
    third = run(attempt=3, job_name="fm-home-fm-r4-a3")
    fewer = inputs(attempt_seen("Failed", attempt=3, reason=DISRUPTED), training=Training(image="t", max_attempts=1))
    after = advance(fewer, state_of(third))
    assert after.run is not None
    assert (after.run.state, after.failures) == ("BackingOff", ())


def test_the_newest_sixteen_failures_are_remembered_one_for_each_inputs() -> None:
    memory = tuple(remembered_run(f"{number}.x")[1] for number in range(16))
    full = advance(inputs(failed()), state_of(run(), failures=memory)).failures
    assert [entry.inputs_hash for entry in full] == [*(f"{number}.x" for number in range(1, 16)), WANTED]
    again = advance(inputs(failed()), state_of(run(), failures=(remembered_run(WANTED)[1], memory[0]))).failures
    assert [(entry.inputs_hash, entry.message[:10]) for entry in again] == [("0.x", "m"), (WANTED, "segment 12")]


@pytest.mark.parametrize("state", ["Reserved", "BackingOff", "Running"])
def test_suspend_starts_nothing(state: str) -> None:
    suspended = inputs(suspended=True) if state != "Running" else inputs(attempt_seen(), suspended=True)
    after = advance(suspended, state_of(run(state=state, retry_at="2026-11-21T03:00:00Z")))
    assert not after.submit
    assert not is_due(inputs(suspended=True), state_of())


def test_the_run_handed_to_a_pod_names_the_pair_that_serves_as_its_baseline() -> None:
    cluster = Cluster(
        foundation(), expert("reels", data={"persistentVolumeClaim": {"claimName": "own"}, "path": "reels"})
    )
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.edit("reels", training={"image": "trainer:2"})
    cluster.until(lambda c: "em-reels-r2-a1" in c.submitted)
    handed = cluster.jobs["em-reels-r2-a1"].run
    assert handed.baseline is not None
    assert handed.baseline_foundation is not None
    assert (handed.baseline.version, handed.baseline_foundation.version) == (1, 1)
    assert handed.expert is not None
    assert (handed.expert.foundation.version, handed.data.path, handed.number) == (1, "reels", 2)


def test_a_foundations_run_is_measured_against_the_version_that_serves_and_not_the_newest() -> None:
    for current, expected in ((1, 1), (2, 2), (None, None)):
        seen = observed(current=ref(current) if current else None)
        judged = (landed(1, inputs="a.x"), landed(2, inputs="b.x"), landed(3, inputs="c.x", accepted=False))
        baseline = foundation_run(seen.model, run(), judged).run.baseline
        assert (baseline.version if baseline else None) == expected


def test_a_run_is_handed_the_optimiser_of_its_resource() -> None:
    said = {"learningRate": "0.5", "optimizer": {"tableLearningRate": "0.25", "warmUpSteps": 7}}
    seen = foundation(training={"image": "trainer:1"} | said)
    assert foundation_run(seen, run(), ()).run.optimization == Optimization.of(seen.spec.training)
    assert seen.spec.training.optimizer.warm_up_steps == 7


def test_a_foundations_run_is_told_how_long_its_tail_is_and_no_expert_is() -> None:
    tail = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "tail": "2h"}
    cluster = Cluster(foundation(data=tail), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    assert cluster.jobs["fm-home-fm-r1-a1"].run.data.tail == "2h"
    assert cluster.jobs["em-reels-r1-a1"].run.data.tail is None  # the foundation's log says which rows are the tail


def test_an_expert_whose_pair_is_not_complete_any_more_has_no_baseline_at_all() -> None:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    seen = cluster.observe_expert("reels")
    target = foundation_target(seen)
    judged = judge_all(seen.model, seen.versions, seen.model.spec.gates)
    for versions, complete in ((seen.foundation_versions, True), ((), False)):
        handed = expert_run(replace(seen, foundation_versions=versions), run(), judged, target)
        assert handed is not None
        assert (handed.run.baseline is not None, handed.run.baseline_foundation is not None) == (complete, complete)
    assert expert_run(seen, run(), judged, FoundationTarget(None)) is None


def test_a_reservation_whose_inputs_cannot_be_known_now_waits() -> None:
    after = advance(inputs(wanted=None), state_of(run(state="Reserved")))
    assert (after.run, after.submit) == (run(state="Reserved"), False)


def test_a_submission_names_its_volumes_and_its_owner() -> None:
    cluster = Cluster(foundation())
    cluster.reconcile("home-fm")
    plan: Plan[Any] = cluster.plan("home-fm")
    assert plan.submit is not None
    assert (plan.submit.models_claim, plan.submit.data_claim) == ("models", "events")
    assert plan.submit.owner["uid"] == "uid-home-fm"
    assert plan.submit.owner["controller"] is True
