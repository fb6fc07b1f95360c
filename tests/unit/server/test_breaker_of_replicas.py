"""When a replica is ejected, when it is probed, and what never ejects one."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_server.expert.breaker import FAILURES, FIRST_SECONDS, JITTER, LONGEST_SECONDS, Breaker, Evidence, evidence

ANSWER, NO_ANSWER, WRONG, NONE = Evidence.ANSWER, Evidence.NO_ANSWER, Evidence.WRONG_VERSION, Evidence.NONE


@pytest.mark.parametrize(
    ("code", "waited", "given_seconds", "usual", "said"),
    [
        pytest.param("OK", 0.01, 0.05, 0.01, ANSWER, id="an answer"),
        pytest.param("RESOURCE_EXHAUSTED", 0.001, 0.05, 0.01, ANSWER, id="overload is said"),
        pytest.param("INVALID_ARGUMENT", 0.001, 0.05, 0.01, ANSWER, id="our own mistake is said"),
        pytest.param("UNAVAILABLE", 0.001, 0.05, 0.01, NO_ANSWER, id="nobody listens"),
        pytest.param("INTERNAL", 0.001, 0.05, 0.01, NO_ANSWER, id="garbage"),
        pytest.param("UNKNOWN", 0.001, 0.05, 0.01, NO_ANSWER, id="a handler that fails"),
        pytest.param("UNIMPLEMENTED", 0.001, 0.05, 0.01, NO_ANSWER, id="no foundation at all"),
        pytest.param("PAIR_MISMATCH", 0.001, 0.05, 0.01, WRONG, id="another version"),
        pytest.param("CANCELLED", 0.05, 0.05, 0.01, NONE, id="our own caller gave up"),
        pytest.param("DEADLINE_EXCEEDED", 0.05, 0.05, 0.01, NO_ANSWER, id="silence of a replica that is quick"),
        pytest.param("DEADLINE_EXCEEDED", 0.05, 0.05, 0.025, NO_ANSWER, id="silence for twice its usual time"),
        pytest.param("DEADLINE_EXCEEDED", 0.05, 0.05, 0.026, NONE, id="silence for less than twice its usual time"),
        pytest.param("DEADLINE_EXCEEDED", 0.05, 0.05, 0.0, NO_ANSWER, id="silence of a replica that never answered"),
        pytest.param("DEADLINE_EXCEEDED", 0.05, 0.05, 0.06, NONE, id="a deadline shorter than its usual time"),
        pytest.param("DEADLINE_EXCEEDED", 0.1998, 0.2, 0.01, NO_ANSWER, id="our timer was a little early"),
        pytest.param("DEADLINE_EXCEEDED", 0.08, 0.05, 0.01, NONE, id="our own event loop was late"),
        pytest.param("DEADLINE_EXCEEDED", 0.062, 0.05, 0.01, NO_ANSWER, id="a little late, as timers are"),
        pytest.param("DEADLINE_EXCEEDED", 0.002, 0.002, 0.01, NONE, id="hardly any time was left"),
        pytest.param("DEADLINE_EXCEEDED", 0.04, 0.05, 0.01, ANSWER, id="dropped by the replica before the deadline"),
    ],
)
def test_what_the_end_of_a_call_says_of_the_replica(
    code: str, waited: float, given_seconds: float, usual: float, said: Evidence
) -> None:
    assert evidence(code, waited, given_seconds, usual) is said


def test_every_code_of_grpc_says_something() -> None:
    assert all(isinstance(evidence(code.name, 1.0, 1.0, 0.5), Evidence) for code in grpc.StatusCode)


def ejected(now: float = 10.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.closed
        breaker = breaker.after_call(NO_ANSWER, now, now, 0.0)
    return breaker


def test_some_calls_in_a_row_without_an_answer_eject_and_the_first_probe_is_due_at_once() -> None:
    assert not ejected(10.0).closed
    assert ejected(10.0).probe_at == 10.0


def test_one_answer_in_between_and_the_count_begins_anew() -> None:
    breaker = Breaker()
    for said in [*[NO_ANSWER] * (FAILURES - 1), ANSWER, *[NO_ANSWER] * (FAILURES - 1)]:
        breaker = breaker.after_call(said, 1.0, 1.0, 0.0)
    assert breaker.closed


def test_a_wrong_version_ejects_at_once() -> None:
    assert not Breaker().after_call(WRONG, 1.0, 1.0, 0.0).closed


def test_who_answers_the_probe_is_back_and_calls_of_before_do_not_eject_it_again() -> None:
    back = ejected(10.0).after_probe(True, 10.001, 0.0)
    assert back.closed
    for _ in range(100):  # began before it came back, and ended in silence after
        back = back.after_call(NO_ANSWER, 9.99, 10.04, 0.0)
    assert back.closed
    for _ in range(FAILURES):
        back = back.after_call(NO_ANSWER, 10.05, 10.1, 0.0)
    assert not back.closed


def test_while_it_is_ejected_no_late_answer_brings_it_back() -> None:
    assert ejected().after_call(ANSWER, 11.0, 11.0, 0.0) == ejected()


def waits(breaker: Breaker, probes: int, chance: float = 0.0) -> list[float]:
    found, now = [], 10.0
    for _ in range(probes):
        breaker = breaker.after_probe(False, now, chance)
        assert breaker.probe_at is not None
        found.append(breaker.probe_at - now)
        now = breaker.probe_at
    return found


def test_probes_that_fail_become_rarer_up_to_a_bound_however_long_it_takes() -> None:
    found = waits(ejected(), 2000)
    assert found[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert found[-1] == pytest.approx(LONGEST_SECONDS)


def test_chance_lengthens_a_wait_by_a_share() -> None:
    assert waits(ejected(), 1, 0.5) == [pytest.approx(FIRST_SECONDS * (1 + JITTER / 2))]


def test_one_that_answers_probes_alone_is_tried_ever_more_rarely_until_it_answers_a_call() -> None:
    breaker, now, found = Breaker(), 10.0, []
    for _ in range(4):
        breaker = breaker.after_call(WRONG, now, now, 0.0)
        assert breaker.probe_at is not None
        found.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker = breaker.after_probe(True, now, 0.0)
    assert found == [0.0, FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    breaker = breaker.after_call(ANSWER, now, now, 0.0)
    assert breaker.after_call(WRONG, now, now, 0.0).probe_at == now


@given(st.lists(st.tuples(st.sampled_from([ANSWER, NO_ANSWER, NONE]), st.floats(0, 1))))
def test_without_a_row_of_silence_nobody_is_ejected(ends: list[tuple[Evidence, float]]) -> None:
    breaker, row = Breaker(), 0
    for said, chance in ends:
        row = {ANSWER: 0, NO_ANSWER: row + 1}.get(said, row)
        if row >= FAILURES:
            return
        breaker = breaker.after_call(said, 1.0, 1.0, chance)
        assert breaker.closed
