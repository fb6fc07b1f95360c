"""The end of a run: its Job and its version are seen in any order, late, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_values import landed
from planning_simulator import Cluster, foundation, measured
from run_values import WANTED, attempt_seen, failed, inputs, remembered_run, run, state_of

from recast_operator.planning.snapshot import DISRUPTED, ObservedPod, ObservedRun
from recast_operator.planning.training.known import is_due
from recast_operator.planning.training.lifecycle import advance

ENDED = {
    "complete": (attempt_seen("Succeeded"),),
    "failed for good": (failed(),),
    "failed for now": (failed(retryable=True),),
    "disrupted": (attempt_seen("Failed", reason=DISRUPTED),),
    "gone": (),
}


@pytest.mark.parametrize("seen", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("attempt", [1, 3])
def test_nothing_is_concluded_from_a_version_that_was_not_read(seen: tuple[ObservedRun, ...], attempt: int) -> None:
    current = run(attempt=attempt)  # the Job's name stays: only the count of attempts differs
    after = advance(inputs(*seen, absent_versions=frozenset()), state_of(current))
    assert after.confirm == ("fm-home-fm-v4",)
    assert (after.run, after.failures, after.events) == (current, (), ())
    other = advance(inputs(*seen, absent_versions=frozenset({"fm-home-fm-v5"})), state_of(current))
    assert other.confirm == ("fm-home-fm-v4",), "another version's absence says nothing"
    decided = advance(inputs(*seen), state_of(current))
    assert decided.confirm == ()
    assert decided.run != current


@pytest.mark.parametrize("seen", [attempt_seen(), attempt_seen("Queued"), attempt_seen("Admitted")])
def test_nothing_is_read_while_an_attempt_goes_on(seen: ObservedRun) -> None:
    assert advance(inputs(seen, absent_versions=frozenset()), state_of(run())).confirm == ()


@pytest.mark.parametrize("seen", [*ENDED.values(), (attempt_seen(),), (attempt_seen("Queued"),)])
@pytest.mark.parametrize("state", ["Reserved", "Running", "BackingOff"])
def test_a_version_that_is_there_has_landed_whatever_its_job_says(seen: tuple[ObservedRun, ...], state: str) -> None:
    after = advance(inputs(*seen, judged=(landed(4, inputs=WANTED),)), state_of(run(state=state)))
    assert (after.run, after.failures, after.trained, after.confirm) == (None, (), WANTED, ())
    assert [(event.type, event.reason) for event in after.events] == [("Normal", "VersionLanded")]


def test_a_run_whose_number_somebody_else_landed_is_taken_back_with_its_job() -> None:
    first = advance(inputs(attempt_seen(), judged=(landed(4),)), state_of(run()))
    assert (first.run, [entry.name for entry in first.deletions]) == (run(), ["fm-home-fm-r4-a1"])
    assert first.events == (), "it stays in status until its Job is gone, so that no failure leaves that behind"
    for seen in (failed(), None):
        at = inputs(*([seen] if seen else []), judged=(landed(4),))
        after = advance(at, state_of(run()))
        assert (after.run, after.deletions) == (None, ())
        assert [event.reason for event in after.events] == ["RunCancelled"]
        assert is_due(at, after), "the spec has not been trained yet"


def test_a_cancelled_runs_job_is_deleted_though_the_first_deletion_fails() -> None:
    cluster = Cluster(foundation())
    cluster.train_seconds = 10_000
    cluster.until(lambda c: "fm-home-fm-r1-a1" in c.jobs)
    job = cluster.jobs["fm-home-fm-r1-a1"]
    job.observed = replace(job.observed, pods=(ObservedPod("p", waiting_reason="ImagePullBackOff"),))
    cluster.settle()
    cluster.edit("home-fm", training={"image": "trainer:2"})
    cluster.execute("home-fm", cluster.plan("home-fm"), crash_after=1)
    cluster.run(5)
    assert list(cluster.jobs) == ["fm-home-fm-r2-a1"]


def test_a_number_that_another_took_is_read_no_more() -> None:
    taken = landed(4)
    foreign = type(taken)(taken.version, False, False, "UnknownRun", "another's", False)
    at = inputs(failed("VersionConflict"), judged=(foreign,), absent_versions=frozenset())
    after = advance(at, state_of(run()))
    assert (after.run, after.failures[0].reason) == (None, "VersionConflict")


def test_a_landed_version_clears_the_failure_that_its_run_or_its_inputs_are_remembered_by() -> None:
    memory = tuple(remembered_run(hash_)[1].model_copy(update={"number": number}) for hash_, number in MEMORY)
    after = advance(inputs(judged=(landed(4, inputs=WANTED),)), state_of(failures=memory))
    assert [(entry.inputs_hash, entry.number) for entry in after.failures] == [("aaaa.22", 5)]
    kept = advance(inputs(judged=(landed(4),)), state_of(failures=memory))
    assert kept.failures == memory, "a version by CI says nothing of our runs"


def test_a_version_of_before_does_not_make_good_the_run_that_was_to_land_it_again() -> None:
    """v1 landed from the spec, somebody's v2 serves, going back to v1 is landing it again, and that run fails."""
    failure = remembered_run(WANTED)[1].model_copy(update={"number": 3})
    at = inputs(judged=(landed(1, inputs=WANTED), landed(2)), serving=2)
    after = advance(at, state_of(failures=(failure,)))
    assert after.failures == (failure,)
    assert not is_due(at, after), "it would be trained in a circle"
    later = advance(replace(at, judged=(*at.judged, landed(4, inputs=WANTED))), state_of(failures=(failure,)))
    assert later.failures == ()


MEMORY = [("cccc.11", 4), (WANTED, 3), ("aaaa.22", 5)]


def trained_unseen(attempts: int) -> Cluster:
    """The Job has ended and the version is there, and the watch has shown only the Job."""
    cluster = Cluster(foundation(training={"image": "trainer:1", "maxAttempts": attempts}))
    cluster.unseen = {"fm-home-fm-v1"}
    cluster.run(3)
    while "fm-home-fm-v1" not in cluster.versions:
        cluster.tick()
    assert cluster.fm().status.run is not None
    return cluster


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_job_that_is_seen_complete_before_its_version_has_landed_it(attempts: int) -> None:
    cluster = trained_unseen(attempts)
    cluster.run(60)
    assert cluster.submitted == ["fm-home-fm-r1-a1"]
    assert cluster.fm().status.failures == []
    assert cluster.fm().status.current.version == 1
    assert cluster.condition("home-fm", "Stalled").status == "False"


def test_a_job_that_its_ttl_removed_and_a_version_not_seen_yet_is_a_landing() -> None:
    cluster = trained_unseen(attempts=1)
    cluster.jobs.clear()
    cluster.run(5)
    assert cluster.fm().status.latest == 1
    assert (cluster.fm().status.run, cluster.fm().status.failures) == (None, [])


def test_a_failure_concluded_too_early_is_taken_back_when_the_version_appears() -> None:
    cluster = Cluster(foundation())
    cluster.until(lambda c: bool(c.jobs))
    sim = cluster.jobs["fm-home-fm-r1-a1"]
    sim.observed = failed_job(sim.observed)
    cluster.run(5)
    assert cluster.condition("home-fm", "Stalled").reason == "CorruptSegment"
    cluster.land(sim.run, [measured(0.7)])
    cluster.run(5)
    assert cluster.fm().status.failures == []
    assert cluster.condition("home-fm", "Stalled").status == "False"
    assert cluster.condition("home-fm", "Trained").status == "True"


def failed_job(seen: ObservedRun) -> ObservedRun:
    return replace(seen, state="Failed", pods=failed().pods)


def test_a_version_that_landed_wins_over_a_job_that_failed() -> None:
    cluster = Cluster(foundation())
    cluster.until(lambda c: bool(c.jobs))
    cluster.run(2)
    sim = cluster.jobs["fm-home-fm-r1-a1"]
    cluster.land(sim.run, [measured(0.7)])
    sim.observed = failed_job(sim.observed)
    cluster.settle()
    assert cluster.fm().status.run is None
    assert cluster.fm().status.failures == []
    assert cluster.fm().status.latest == 1
