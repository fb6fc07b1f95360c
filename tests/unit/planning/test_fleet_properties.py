"""What holds of a fleet and of training whatever comes, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from fleet_values import FM, at, inputs, landed, lineage, member, observed, pin, ref, servers, trial, unreadable
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from planning_simulator import START

from recast_api.resources import Training
from recast_api.run import TerminationMessage
from recast_operator.planning.fleet.lead import lead
from recast_operator.planning.fleet.lineages import lineages
from recast_operator.planning.fleet.members import reads
from recast_operator.planning.fleet.pilots import pilots
from recast_operator.planning.fleet.wave import holders, wave
from recast_operator.planning.snapshot import DISRUPTED, FleetMember, ObservedFoundation, ObservedPod, ObservedRun
from recast_operator.planning.training import known, lifecycle
from recast_operator.planning.training.attempts import MAX_DISRUPTIONS
from recast_operator.planning.training.inputs import TrainingInputs, weights_part
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import Judged

NAMES = [f"e{number}" for number in range(8)]
VERSIONS = st.integers(1, 5)
PINS = st.builds(pin, VERSIONS, VERSIONS, st.sampled_from([FM, FM, "other-fm"]))


@st.composite
def experts(draw: st.DrawFn) -> tuple[FleetMember, ...]:
    made = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        if draw(st.integers(0, 9)) == 0:
            made.append(unreadable(name, *draw(st.lists(PINS, max_size=2))))
            continue
        made.append(
            member(
                name,
                draw(st.none() | PINS),
                canary=draw(st.none() | PINS),
                retiring=tuple(draw(st.lists(PINS, max_size=2))),
                foundation=draw(st.sampled_from([FM, FM, FM, "other-fm"])),
                refresh_since=draw(st.sampled_from(["", at(1), at(2), at(3)])),
                training=draw(st.booleans()),
                deleting=draw(st.integers(0, 9)) == 0,
                failed_trials=tuple(draw(st.lists(st.builds(trial, VERSIONS), max_size=1))),
            )
        )
    return tuple(made)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[ObservedFoundation, TrainingInputs]:
    judged = [
        landed(
            number,
            accepted=draw(st.booleans()),
            lineage=draw(st.integers(1, number)),
            inputs=draw(st.sampled_from([None, "a.x", "b.x"])),
        )
        for number in sorted(draw(st.sets(VERSIONS)))
    ]
    refs = st.none() | st.builds(ref, VERSIONS, VERSIONS)
    seen = observed(
        *draw(experts()),
        current=draw(refs),
        candidate=draw(refs),
        lineages=[lineage(number, draw(VERSIONS)) for number in sorted(draw(st.sets(VERSIONS)))],
        granted=draw(st.lists(st.sampled_from(NAMES), unique=True)),
        deployments=[servers(number, ready=draw(st.integers(0, 1))) for number in sorted(draw(st.sets(VERSIONS)))],
        pilots=draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3)),
        maxConcurrentRefreshes=draw(st.integers(1, 4)),
    )
    return seen, inputs(seen, *judged, wanted=draw(st.sampled_from(["a.x", "b.x", "c.x"])), seconds=100)


@given(fleets())
@settings(max_examples=150)
def test_no_more_slots_are_granted_than_there_are_and_no_holder_loses_its_own(fleet: Any) -> None:
    seen, _ = fleet
    held, after = holders(seen), wave(seen, None)
    assert held <= set(after.granted)
    assert len(after.granted) <= max(len(held), seen.model.spec.fleet.max_concurrent_refreshes)
    assert len(after.granted) == len(set(after.granted))
    waiting = {expert.name for expert in seen.experts if expert.refresh_since and expert.foundation == FM}
    assert set(after.granted) - held <= waiting
    assert not set(after.waiting) & set(after.granted)


@given(fleets())
@settings(max_examples=150)
def test_a_candidate_is_never_promoted_past_a_pilot_or_an_expert_that_cannot_be_read(fleet: Any) -> None:
    seen, training = fleet
    before, after = seen.model.status.current, lead(seen, training)
    if after.current == before:
        return
    assert after.current is not None
    assert all(expert.readable for expert in seen.experts)
    assert before is None or all(reads(pilot, seen, after.current) for pilot in pilots(seen))
    assert before is None or after.current.version > before.version, "what leads only grows"
    assert after.current.version in {entry.number for entry in after.judged if entry.accepted}
    assert any(entry.lineage == after.current.lineage and entry.ready for entry in seen.children.deployments)


@given(fleets())
@settings(max_examples=150)
def test_what_is_pinned_or_leads_has_servers_of_an_accepted_version_or_keeps_those_it_has(fleet: Any) -> None:
    seen, training = fleet
    before = {entry.lineage: entry.version for entry in seen.model.status.lineages}
    accepted = {(e.version.spec.lineage, e.number) for e in training.judged if e.accepted}
    after = {entry.lineage: entry.version for entry in lineages(seen, training.judged, (), training.now)}
    for number in {p.lineage for expert in seen.experts for p in expert.pins if p.name == FM}:
        able = number in before or any(found == number for found, _ in accepted)
        assert (number in after) == able
    for number, version in after.items():
        assert (number, version) in accepted or before.get(number) == version
    if any(not expert.readable for expert in seen.experts):
        assert set(before) <= set(after)


class TrainingMachine(RuleBasedStateMachine):
    """Training under everything that Jobs, versions, specs and clocks can do."""

    ATTEMPTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.state = TrainingState(None, 0, "", ())
        self.jobs: dict[str, ObservedRun] = {}
        self.judged: tuple[Judged, ...] = ()
        self.wanted = "a.x"
        self.suspended = False
        self.serving = 0
        self.submitted: list[str] = []
        self.begun: list[tuple[int, str]] = []
        """Number and inputs of each run, in order."""
        self.gone_bad: set[str] = set()
        """Inputs that failed, and weights that were rejected."""

    def inputs(self) -> TrainingInputs:
        there = {f"fm-{FM}-v{entry.number}" for entry in self.judged}
        run = self.state.run
        absent = {f"fm-{FM}-v{run.number}"} - there if run else set()
        training = Training(image="t:1", max_attempts=self.ATTEMPTS)
        base = TrainingInputs(
            "FoundationModel", FM, "uid", training, self.wanted, tuple(self.jobs.values()), self.judged, self.now
        )
        return replace(base, suspended=self.suspended, serving=self.serving, absent_versions=frozenset(absent))

    @rule()
    def reconcile(self) -> None:
        at_ = self.inputs()
        before, failed = self.state, {entry.inputs_hash for entry in self.state.failures}
        state = lifecycle.advance(at_, TrainingState(before.run, before.last_number, before.trained, before.failures))
        if known.is_due(at_, state):
            state = lifecycle.reserve(at_, state, [entry.version for entry in self.judged])
            assert state.run is not None
            assert self.wanted not in failed
            assert weights_part(self.wanted) not in self.gone_bad
            self.begun.append((state.run.number, state.run.inputs_hash))
        if state.submit and state.run is not None and state.run.job_name not in self.jobs:
            self.submitted.append(state.run.job_name)
            self.jobs[state.run.job_name] = ObservedRun(
                state.run.job_name, state.run.number, state.run.attempt, "uid", pods=(ObservedPod("p"),)
            )
        for deletion in state.deletions:
            del self.jobs[deletion.name]
        assert state.last_number >= before.last_number
        self.state = state

    @rule(seconds=st.integers(-50, 400))
    def time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(wanted=st.sampled_from(["a.x", "a.y", "b.x", "b.y", "c.x"]))
    def edit(self, wanted: str) -> None:
        self.wanted = wanted

    @rule()
    def suspend(self) -> None:
        self.suspended = not self.suspended

    def current_job(self) -> ObservedRun | None:
        return self.jobs.get(self.state.run.job_name) if self.state.run else None

    @precondition(lambda self: (job := self.current_job()) is not None and not job.ended)
    @rule(how=st.sampled_from(["lands", "rejected", "fails", "retry", "disrupted", "silent", "vanishes"]))
    def job_ends(self, how: str) -> None:
        job, run = self.current_job(), self.state.run
        assert job is not None
        assert run is not None
        if how == "vanishes" and run.state != "Reserved":
            del self.jobs[job.name]
            return
        words = TerminationMessage(reason="CorruptSegment", retryable=how == "retry", message="m").encode()
        pod = ObservedPod("p", gone=True, exit_code=1, termination=words if how in ("fails", "retry") else "")
        state = "Succeeded" if how in ("lands", "rejected") else "Failed"
        reason = DISRUPTED if how == "disrupted" else ""
        self.jobs[job.name] = replace(job, state=state, reason=reason, pods=(pod,))
        if how in ("lands", "rejected") and run.number not in {entry.number for entry in self.judged}:
            found = landed(run.number, accepted=how == "lands", inputs=run.inputs_hash)
            self.judged = tuple(sorted((*self.judged, found), key=lambda entry: entry.number))
            self.gone_bad.discard(weights_part(run.inputs_hash))
            if how == "rejected":
                self.gone_bad.add(weights_part(run.inputs_hash))

    @rule(taken=st.booleans())
    def somebody_else_lands_a_version(self, taken: bool) -> None:
        run, numbers = self.state.run, {entry.number for entry in self.judged}
        number = run.number if taken and run is not None else max([0, self.state.last_number, *numbers]) + 1
        if number not in numbers:
            self.judged = tuple(sorted((*self.judged, landed(number)), key=lambda entry: entry.number))

    @precondition(lambda self: any(entry.accepted for entry in self.judged))
    @rule()
    def promote(self) -> None:
        self.serving = max(entry.number for entry in self.judged if entry.accepted)

    @rule()
    def ttl_removes_what_ended(self) -> None:
        """All but one that was never seen: its attempt is the same Job again."""
        run = self.state.run
        unseen = run.job_name if run and run.state == "Reserved" else ""
        self.jobs = {name: job for name, job in self.jobs.items() if not job.ended or name == unseen}

    @invariant()
    def numbers_only_grow(self) -> None:
        taken = [number for number, _ in self.begun]
        assert taken == sorted(set(taken))
        assert self.state.last_number >= max(taken, default=0)

    @invariant()
    def no_job_is_submitted_twice(self) -> None:
        assert len(self.submitted) == len(set(self.submitted))

    @invariant()
    def attempts_are_bounded(self) -> None:
        run = self.state.run
        if run is not None:
            assert run.preemptions <= MAX_DISRUPTIONS
            assert run.attempt - run.preemptions <= self.ATTEMPTS
            assert run.attempt <= self.ATTEMPTS + MAX_DISRUPTIONS


TestTraining = TrainingMachine.TestCase
TestTraining.settings = settings(max_examples=40, stateful_step_count=60)
