"""Which foundation version leads: what each state does with each thing that can be seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_values import inputs, landed, lineage, member, observed, pin, ref, servers, trial, unreadable
from planning_simulator import digest_of

from recast_operator.planning.fleet.lead import Lead, lead
from recast_operator.planning.fleet.pilots import held, missing
from recast_operator.planning.snapshot import FleetMember, ObservedFoundation

READY = {"lineages": [lineage(1), lineage(2)], "deployments": [servers(1), servers(2)]}
ON_TRIAL = {"current": ref(1), "candidate": ref(2), **READY}
V1, V2, V3 = landed(1, inputs="a.x"), landed(2, inputs="b.x"), landed(3, inputs="c.x")


def numbers(state: Lead) -> tuple[int | None, int | None]:
    return (
        state.current.version if state.current else None,
        state.candidate.version if state.candidate else None,
    )


def reasons(state: Lead) -> list[str]:
    return [event.reason for event in state.events]


@pytest.mark.parametrize(
    ("state", "judged", "wanted", "expected", "events"),
    [
        ({}, [], "a.x", (None, None), []),
        ({}, [landed(1, accepted=False)], "a.x", (None, None), []),
        ({}, [V1], "a.x", (None, 1), ["CandidateChosen"]),
        ({"candidate": ref(1)}, [V1], "a.x", (None, 1), []),
        (
            {"candidate": ref(1), "lineages": [lineage(1)], "deployments": [servers(1)]},
            [V1],
            "a.x",
            (1, None),
            ["Promoted"],
        ),
        ({"current": ref(1)}, [V1], "a.x", (1, None), []),
        ({"current": ref(1)}, [V1, V2], "b.x", (1, 2), ["CandidateChosen"]),
        ({"current": ref(1)}, [V1, landed(2, accepted=False)], "b.x", (1, None), []),
        ({"current": ref(2)}, [V1, V2], "b.x", (2, None), []),
        ({"current": ref(1)}, [V1, V2, V3], "c.x", (1, 3), ["CandidateChosen"]),
        ({"current": ref(1), "candidate": ref(2)}, [V1, V2, V3], "c.x", (1, 3), ["CandidateChosen"]),
        ({"current": ref(1), "candidate": ref(2)}, [V1, V2], "c.x", (1, 2), []),
        ({"current": ref(1), "candidate": ref(2)}, [V1], "b.x", (1, None), ["CandidateWithdrawn"]),
        ({"current": ref(1), "candidate": ref(2)}, [V1, V2], "a.y", (1, None), ["CandidateWithdrawn"]),
        ({"current": ref(1)}, [V1, V2], "a.y", (1, None), []),
        ({"current": ref(1)}, [V1, V2, V3], "b.y", (1, 2), ["CandidateChosen"]),
        ({"current": ref(1)}, [V1, V2, landed(7)], "a.x", (1, 7), ["CandidateChosen"]),
        (ON_TRIAL, [V1, V2], "b.x", (2, None), ["Promoted"]),
    ],
)
def test_the_newest_accepted_version_of_what_the_spec_asks_for_leads(
    state: dict[str, Any], judged: list[Any], wanted: str, expected: tuple[int | None, int | None], events: list[str]
) -> None:
    seen = observed(**state)
    after = lead(seen, inputs(seen, *judged, wanted=wanted))
    assert numbers(after) == expected
    assert reasons(after) == events


@pytest.mark.parametrize(
    ("pilot", "promoted"),
    [
        (member("reels", 2), True),
        (member("reels", pin(1, lineage=2)), True),
        (member("reels", pin(5, lineage=2)), False),
        (member("reels", 1), False),
        (member("reels", 1, canary=2), False),
        (member("reels"), False),
        (member("reels", pin(2, foundation="other-fm")), False),
        (member("reels", 1, suspended=True), False),
        (member("reels", 1, follows_majors=False), False),
        (member("reels", 1, foundation="other-fm"), True),
        (member("reels", 1, deleting=True), True),
        (member("ads", 1), True),
    ],
)
def test_a_candidate_is_promoted_when_every_pilot_that_reads_the_foundation_serves_it(
    pilot: FleetMember, promoted: bool
) -> None:
    seen = observed(pilot, member("feed", 1), pilots=["reels"], **ON_TRIAL)
    assert numbers(lead(seen, inputs(seen, V1, V2))) == ((2, None) if promoted else (1, 2))


def test_each_of_several_pilots_holds_a_candidate_back() -> None:
    seen = observed(member("ads", 2), member("reels", 1), pilots=["ads", "reels"], **ON_TRIAL)
    assert numbers(lead(seen, inputs(seen, V1, V2))) == (1, 2)


def test_the_first_version_waits_for_no_pilot() -> None:
    seen = observed(
        member("reels"), pilots=["reels"], candidate=ref(1), lineages=[lineage(1)], deployments=[servers(1)]
    )
    assert numbers(lead(seen, inputs(seen, V1))) == (1, None)


@pytest.mark.parametrize(
    "deployment",
    [
        servers(2, ready=0),
        servers(2, updated=0),
        servers(2, current=False),
        servers(2, owner_uid="another"),
        servers(3),
    ],
)
def test_a_candidate_is_not_promoted_before_its_servers_are_ready(deployment: Any) -> None:
    seen = observed(current=ref(1), candidate=ref(2), lineages=[lineage(2)], deployments=[deployment])
    assert numbers(lead(seen, inputs(seen, V1, V2))) == (1, 2)


def test_a_minor_is_not_promoted_before_its_lineage_was_told_to_serve_it() -> None:
    minor = landed(3, lineage=2)
    state = {"current": ref(2), "candidate": ref(3, lineage=2), "deployments": [servers(2)]}
    seen = observed(member("reels", 2), pilots=["reels"], lineages=[lineage(2, version=2)], **state)
    assert numbers(lead(seen, inputs(seen, V2, minor))) == (2, 3)
    seen = observed(member("reels", 2), pilots=["reels"], lineages=[lineage(2, version=3)], **state)
    assert numbers(lead(seen, inputs(seen, V2, minor))) == (3, None), "who reads the lineage reads its newest version"


@pytest.mark.parametrize(
    ("trials", "rejected"),
    [
        ((trial(2),), True),
        ((trial(2, serving=True),), False),
        ((trial(2, "Aborted"),), False),
        ((trial(2, "ProgressDeadlineExceeded"),), False),
        ((trial(1),), False),
        ((trial(2, seconds=-1),), False),
        ((trial(2, seconds=0),), True),
        ((trial(2, serving=True), trial(2)), True),
        ((), False),
    ],
)
def test_a_pilot_rejects_what_it_rolled_back_on_its_analysis_and_nothing_else(trials: Any, rejected: bool) -> None:
    seen = observed(member("reels", 1, failed_trials=trials), pilots=["reels"], **ON_TRIAL)
    after = lead(seen, inputs(seen, V1, V2))
    assert numbers(after) == ((1, None) if rejected else (1, 2))
    assert [entry.accepted for entry in after.judged] == [True, not rejected]
    if rejected:
        assert after.judged[1].message == "pilot reels: v2 said no"
        assert reasons(after) == ["PilotAnalysisFailed"]


def test_an_expert_that_is_no_pilot_rejects_nothing() -> None:
    seen = observed(member("reels", 2), member("ads", 1, failed_trials=(trial(2),)), pilots=["reels"], **ON_TRIAL)
    assert numbers(lead(seen, inputs(seen, V1, V2))) == (2, None)


@pytest.mark.parametrize("other", [(), (pin(1),), (pin(2),)])
def test_nothing_is_promoted_while_an_expert_cannot_be_read(other: tuple[Any, ...]) -> None:
    for state in (ON_TRIAL, ON_TRIAL | {"current": None}):
        seen = observed(member("reels", 2), unreadable("ads", *other), pilots=["reels"], **state)
        assert numbers(lead(seen, inputs(seen, V1, V2)))[1] == 2
    seen = observed(member("reels", 2), pilots=["reels"], **ON_TRIAL)
    assert numbers(lead(seen, inputs(seen, V1, V2))) == (2, None)


def test_a_candidate_of_that_number_and_another_content_is_chosen_anew() -> None:
    stale = ref(2).model_copy(update={"digest": digest_of("restored")})
    seen = observed(current=ref(1), candidate=stale)
    after = lead(seen, inputs(seen, V1, V2))
    assert after.candidate is not None
    assert after.candidate.digest == V2.version.spec.digest


def test_a_clock_that_was_set_back_does_not_hide_what_pilots_find() -> None:
    state = ON_TRIAL | {"candidate": ref(2, since=3600)}
    seen = observed(member("reels", 1), pilots=["reels"], **state)
    after = lead(seen, inputs(seen, V1, V2, seconds=10))
    assert after.candidate == ref(2, since=10)


def sixteen(*more: int) -> dict[str, Any]:
    return {"current": ref(16), "lineages": [lineage(number) for number in (*range(1, 17), *more)][-16:]}


def test_a_seventeenth_lineage_waits_and_says_so_while_a_minor_of_a_served_one_does_not() -> None:
    seen = observed(**sixteen())
    after = lead(seen, inputs(seen, landed(16), landed(17)))
    assert (numbers(after), after.crowded_out) == ((16, None), 17)
    after = lead(seen, inputs(seen, landed(16), landed(17, lineage=16)))
    assert (numbers(after), after.crowded_out) == ((16, 17), None)
    seen = observed(current=ref(16), lineages=[lineage(number) for number in range(2, 17)])
    assert numbers(lead(seen, inputs(seen, landed(16), landed(17)))) == (16, 17)


@pytest.mark.parametrize(
    ("pilot", "why"),
    [
        (member("reels", 1), None),
        (member("reels", 1, suspended=True), "has spec.suspend set: unset it"),
        (member("reels", 1, follows_majors=False), "add it"),
        (member("reels", 1, suspended=True, canary=2), None),
        (member("reels", 1, suspended=True, training=True), None),
        (member("reels", 1, follows_majors=False, refresh_since="2026-01-01T00:00:00Z"), None),
        (member("reels", 2, suspended=True, follows_majors=False), None),
        (member("reels", 1, failed_trials=(trial(2, serving=True),)), "change that back"),
        (member("reels", 1, failed_trials=(trial(2, "Aborted"),)), 'request "Retry" there'),
        (member("reels", 1, failed_trials=(trial(2, "Aborted"),), training=True), None),
        (member("reels", 1, failed_trials=(trial(1, "Aborted"),)), None),
        (member("reels", 1, suspended=True, foundation="other-fm"), None),
        (member("ads", 1, suspended=True), None),
    ],
)
def test_a_pilot_that_will_not_move_is_named_with_what_to_do(pilot: FleetMember, why: str | None) -> None:
    found = held(observed(pilot, pilots=["reels"], **ON_TRIAL), ref(2))
    assert [entry.name for entry in found] == ([] if why is None else ["reels"])
    assert why is None or why in found[0].why


@pytest.mark.parametrize(
    ("expert", "gone"),
    [
        (member("reels", 1), ()),
        (unreadable("reels"), ()),
        (member("feed", 1), ("reels",)),
        (member("reels", 1, foundation="other-fm"), ("reels",)),
        (member("reels", 1, deleting=True), ("reels",)),
    ],
)
def test_pilots_that_do_not_read_this_foundation_are_missing(expert: FleetMember, gone: tuple[str, ...]) -> None:
    assert missing(observed(expert, pilots=["reels"])) == gone


def test_a_candidate_chosen_without_a_listed_pilot_is_a_warning_and_the_first_version_is_none() -> None:
    def chosen(seen: ObservedFoundation) -> list[Any]:
        return [(event.type, event.reason) for event in lead(seen, inputs(seen, V1, V2)).events]

    said = observed(member("reels", 1), pilots=["reels", "reel"], current=ref(1))
    assert chosen(said) == [("Normal", "CandidateChosen"), ("Warning", "PilotNotFound")]
    assert "not tried by reel:" in lead(said, inputs(said, V1, V2)).events[1].message
    assert chosen(observed(pilots=["reel"])) == [("Normal", "CandidateChosen")]
    again = replace(
        said, model=said.model.model_copy(update={"status": said.model.status.model_copy(update={"candidate": ref(2)})})
    )
    assert chosen(again) == []


@pytest.mark.parametrize(
    ("judged", "wanted", "words"),
    [
        ([V1, V2], "a.x", "the spec asks again for what the current version was trained from"),
        ([V1, landed(2, accepted=False)], "b.x", "it is not an accepted version any more"),
        ([V1], "b.x", "it is not an accepted version any more"),
    ],
)
def test_a_candidate_that_is_withdrawn_says_why(judged: list[Any], wanted: str, words: str) -> None:
    seen = observed(current=ref(1), candidate=ref(2))
    (event,) = lead(seen, inputs(seen, *judged, wanted=wanted)).events
    assert event.message == f"v2 is not the candidate any more: {words}"


def test_the_second_pilot_can_reject_what_the_first_has_not_tried_yet() -> None:
    experts = (member("ads", 1), member("reels", 1, failed_trials=(trial(2),)))
    seen = observed(*experts, pilots=["ads", "reels"], **ON_TRIAL)
    assert reasons(lead(seen, inputs(seen, V1, V2))) == ["PilotAnalysisFailed"]
